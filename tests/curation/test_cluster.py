"""The backend of a Ray cluster, on a Ray of this machine with two workers."""

import contextlib
import importlib.util
import json
import os

import pytest
from PIL import ImageFilter

from blip3o_core.curation.backends import cluster
from blip3o_core.curation.engine import curate
from blip3o_core.errors import Blip3oError
from blip3o_core.files import read_json
from tests.support.curation import encoded, files_of, pair, settings, texture, write_tar

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra cluster")


def planted(folder, tars: int, count: int):
    """Tars with a blurred, a tiny, a damaged and a repeated image each; the last tar is cut inside its last image."""
    for tar in range(tars):
        members = []
        for number in range(count):
            image = texture(1000 * tar + number)
            if number == 1:
                image = image.filter(ImageFilter.GaussianBlur(4))
            elif number == 2:
                image = image.resize((30, 30))
            elif number == 4:
                image = texture(3)
            data = encoded(image)
            members += pair(f"{number:04d}", data[: len(data) // 2] if number == 5 else data)
        path = write_tar(folder / f"{tar}.tar", members)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        # The end of a tar is padded to 10,240 bytes: half of the last image's 12,000 is beyond that.
        file.truncate(size - 10_240 - 6_000)
    return folder


def listened_on() -> set[str]:
    """The addresses that descendants of this process listen on."""
    psutil = pytest.importorskip("psutil")
    found = set()
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {held.laddr.ip for held in one.net_connections("tcp") if held.status == psutil.CONN_LISTEN}
    return {address.removeprefix("::ffff:") for address in found}


def curated_by_both(source, place):
    """(outcome, files) by this process and by two workers of Ray, in folders of the same name."""
    found = []
    for backend, workers in (("local", 1), ("ray", 2)):
        out = place / backend / "out"
        outcome = curate(settings([str(source)], out, backend=backend, workers=workers, reconstructions=0.2))
        found.append((outcome, files_of(out)))
    return found


@needs_ray
@pytest.mark.slow
def test_a_cluster_writes_what_one_machine_does(tmp_path, monkeypatch):
    """Catches a byte that depends on the backend."""
    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    (outcome, local), (again, by_ray) = curated_by_both(planted(tmp_path / "source", 3, 12), tmp_path)
    assert by_ray == local
    assert outcome.reasons == again.reasons and outcome.reasons["sharpness"] == outcome.reasons["side"] == 3
    assert outcome.reasons["duplicate"] == 3 and outcome.reasons["unreadable"] == 4
    assert {name for name in local if name.endswith(".tar")} == {f"shards/source-{n}.tar" for n in range(3)}
    assert local["shards/manifest.json"] and local["dropped.jsonl"]


@needs_ray
@pytest.mark.slow
def test_ray_is_alone_and_hides_nothing(tmp_path, monkeypatch):
    """Catches a Ray that listens to the network or changes this process, also one that imported it before, and a
    failed piece or a dead worker that a cluster hides."""
    import ray

    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    before = dict(os.environ)
    (tmp_path / "wrong.json").write_text("{")
    with cluster.connected(2) as joined:
        assert listened_on() == {"127.0.0.1"}
        with pytest.raises(Blip3oError, match="wrong.json.*Write it again"):
            list(joined.run(read_json, [(tmp_path / "wrong.json", "Write it again.")], 2))
        with pytest.raises(Blip3oError, match="ended without an answer"):
            list(joined.run(os._exit, [(3,)], 2))
        assert [number for number, _ in joined.run(json.dumps, [(1,), (2,), (3,)], 1)] == [0, 1, 2]
    assert not listened_on() and not ray.is_initialized() and dict(os.environ) == before


def test_without_ray_the_message_says_what_to_install(tmp_path, monkeypatch):
    """Catches a traceback where the extra is missing."""
    (tmp_path / "ray.py").write_text("raise ImportError('No module named ray')")
    monkeypatch.syspath_prepend(tmp_path)
    source = write_tar(tmp_path / "a.tar", pair("a", encoded(texture(1))))
    with pytest.raises(Blip3oError, match=r"backend 'ray' needs.*\[cluster\]"):
        curate(settings([str(source)], tmp_path / "out", backend="ray"))


@needs_ray
@pytest.mark.long
def test_two_thousand_planted_pairs_by_both_backends(tmp_path, monkeypatch):
    """Catches what only shows with many pieces: a piece that is done twice, or by nobody."""
    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    (outcome, local), (_, by_ray) = curated_by_both(planted(tmp_path / "source", 20, 100), tmp_path)
    assert by_ray == local
    expected = {"sharpness": 20, "side": 20, "duplicate": 20, "unreadable": 21}
    assert {name: outcome.reasons[name] for name in expected} == expected
    assert sum(outcome.reasons.values()) == 2000
