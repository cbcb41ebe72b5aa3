"""The backend of a Ray cluster, on a Ray of this machine with two workers."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from PIL import ImageFilter

from blip3o_core.curation.backends import cluster
from blip3o_core.curation.engine import curate
from blip3o_core.curation.work import read_table
from blip3o_core.errors import Blip3oError
from blip3o_core.files import read_json
from blip3o_core.shards.read import ShardFolder
from tests.support.curation import CAPTION, encoded, files_of, pair, settings, texture, write_tar
from tests.support.paths import TOP
from tests.support.running import wait_until
from tests.support.stand_in import StandIn, says

NEW = "A small tree stands beside a house on a green hill."
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra cluster")


def planted(folder, tars: int, count: int):
    """Tars with a blurred, a tiny, a repeated and a damaged image and a bad caption each; the last tar is cut inside
    its last image -> the place of each planted fault and what it is dropped for.
    """
    faults = {}
    for tar in range(tars):
        members = []
        for number in range(count):
            image, caption, reason = texture(1000 * tar + number), CAPTION, ""
            if number == 1:
                image, reason = image.filter(ImageFilter.GaussianBlur(4)), "sharpness"
            elif number == 2:
                image, reason = image.resize((30, 30)), "side"
            elif number == 4:
                image, reason = texture(3), "duplicate"
            elif number == 5:
                reason = "unreadable"
            elif number == 6:
                caption, reason = "@@@@ 1234", "letters"
            data = encoded(image)
            members += pair(f"{number:04d}", data[: len(data) // 2] if number == 5 else data, caption)
            if reason:
                faults[f"{tar}.tar:{number:04d}.png"] = reason
        path = write_tar(folder / f"{tar}.tar", members)
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[-2].offset_data + 6_000  # of the 12,000 bytes of the last image
    with open(path, "r+b") as file:
        file.truncate(cut)
    return faults | {f"{tars - 1}.tar:{count - 1:04d}.png": "unreadable"}


def dropped(files) -> dict[str, str]:
    """The place and the reason of each drop."""
    drops = map(json.loads, files["dropped.jsonl"].decode().splitlines())
    return {drop["place"].rsplit("/", 1)[-1]: drop["reason"] for drop in drops}


def listened_on() -> set[tuple[str, int]]:
    """The addresses and ports that descendants of this process listen on."""
    psutil = pytest.importorskip("psutil")
    found = set()
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            held = [each.laddr for each in one.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            found |= {(each.ip.removeprefix("::ffff:"), each.port) for each in held}
    return found


def curated_by_both(source, place, **others):
    """(outcome, files) by this process and by two workers of Ray, in folders of the same name."""
    found = []
    for backend, workers in (("local", 1), ("ray", 2)):
        out = place / backend / "out"
        given = settings([str(source)], out, backend=backend, workers=workers, reconstructions=0.2, **others)
        found.append((curate(given), files_of(out)))
    return found


@needs_ray
@pytest.mark.slow
def test_a_cluster_writes_what_one_machine_does(tmp_path, monkeypatch):
    """Catches a byte that depends on the backend, a judge or a writer of texts that works in one process alone, and
    a fault that stays or a good sample that is lost."""
    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    faults = planted(tmp_path / "source", 3, 12)
    judges = [{"name": "bright", "use": "tests.curation.own_judges:Bright"}]
    choice = {"index": 0, "message": {"role": "assistant", "content": NEW}, "finish_reason": "stop"}
    with StandIn(says({"object": "chat.completion", "model": "seer-1", "choices": [choice]})) as server:
        captions = {"mode": "missing", "options": {"url": server.url, "model": "seer"}}
        bare = write_tar(tmp_path / "source" / "bare.tar", [("a.png", encoded(texture(9_999)))])
        both = curated_by_both(tmp_path / "source", tmp_path, judges=judges, captions=captions)
        assert len(server.asked) == 2
    (outcome, local), (again, by_ray) = both
    assert by_ray == local and dropped(by_ray) == faults and outcome.reasons == again.reasons
    assert outcome.reasons["kept"] == 3 * 12 + 1 - len(faults)
    assert {name for name in local if name.endswith(".tar")} == {
        *(f"shards/source-{number}.tar" for number in range(3)), f"shards/source-{bare.name}"
    }  # fmt: skip
    assert local["shards/manifest.json"] and NEW.encode() in by_ray["shards/source-bare.tar"]
    for work in (outcome.work, again.work):
        assert not work.faults.read_text()
        table = read_table(work.features("source-1"), ["key", "judge.bright", "broken"]).to_pylist()
        assert all((row["judge.bright"] is None) == (row["broken"] is not None) for row in table)


@needs_ray
@pytest.mark.slow
def test_ray_is_alone_and_hides_nothing(tmp_path, monkeypatch):
    """Catches a Ray that listens to the network or changes this process, also one that imported it before, and a
    failed piece or a dead worker that a cluster hides."""
    import ray

    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    before, others = dict(os.environ), listened_on()  # such as a server that other tests share
    (tmp_path / "wrong.json").write_text("{")
    with cluster.connected(2) as joined:
        assert {address for address, _ in listened_on() - others} == {"127.0.0.1"}
        with pytest.raises(Blip3oError, match="wrong.json.*Write it again"):
            list(joined.run(read_json, [(tmp_path / "wrong.json", "Write it again.")], 2))
        with pytest.raises(Blip3oError, match="ended without an answer"):
            list(joined.run(os._exit, [(3,)], 2))
        assert [number for number, _ in joined.run(json.dumps, [(1,), (2,), (3,)], 1)] == [0, 1, 2]
    wait_until(lambda: listened_on() <= others, "Ray has ended")
    assert not ray.is_initialized() and dict(os.environ) == before


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
    """Catches what only shows with many pieces: a piece that is done twice, or by nobody, and a fault that stays."""
    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    faults = planted(tmp_path / "source", 20, 100)
    (outcome, local), (_, by_ray) = curated_by_both(tmp_path / "source", tmp_path)
    assert by_ray == local and dropped(local) == faults and len(faults) == 101
    assert outcome.reasons["kept"] == 2000 - 101 and outcome.reasons.total() == 2000
    shards = ShardFolder(outcome.work.shards)
    keys = {
        facts.name: [shards.read(number, one).record.key for one in range(facts.items)]
        for number, facts in enumerate(shards.manifest.shards)
    }
    kept = {name: [key for key in some if not key.endswith("-unchanged")] for name, some in keys.items()}
    assert sum(map(len, kept.values())) == 2000 - 101 == len(shards) - outcome.unchanged
    assert kept["source-19"] == [f"{number:04d}" for number in (0, 3, *range(7, 99))]  # of the tar that is cut


class Command:
    """`blip3o curate` with Ray in a process of its own, and all that it has started."""

    def __init__(self, config):
        words = [sys.executable, "-m", "blip3o_core", "curate", str(config)]
        environment = {name: value for name, value in os.environ.items() if name != cluster.ADDRESS}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, cwd=TOP, env=environment, stdout=pipe, stderr=pipe, text=True)

    def family(self) -> list:
        psutil = pytest.importorskip("psutil")
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def worker(self):
        """A worker that has a piece, as soon as there is one; None: the command has ended before."""
        while self.process.poll() is None:
            for one in self.family():
                with contextlib.suppress(Exception):
                    if one.cmdline()[0].startswith("ray::_call"):
                        return one
            time.sleep(0.02)
        return None

    def end(self, how: int) -> None:
        """Send a signal after which nothing of it may be left."""
        family = self.family()
        self.process.send_signal(how)
        self.process.communicate(timeout=120)
        psutil = pytest.importorskip("psutil")
        _, left = psutil.wait_procs(family, timeout=60)
        assert not left, left


@needs_ray
@pytest.mark.long
def test_kills_and_ctrl_c_with_ray_change_nothing(tmp_path):
    """Catches a Ray that goes on without its command, a dead worker that nobody is told of, and a resumed run that
    writes other bytes."""
    planted(tmp_path / "source", 8, 60)
    uncut = settings([str(tmp_path / "source")], tmp_path / "local" / "out", workers=2)
    curate(uncut)
    out = tmp_path / "ray" / "out"
    config = tmp_path / "curate.yaml"
    content = {"sources": [str(tmp_path / "source")], "out": str(out), "keep": {"min_side": 48}}
    config.write_text(json.dumps({**content, "backend": "ray", "workers": 2}))
    for how in (signal.SIGINT, signal.SIGKILL, "worker", signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        command = Command(config)
        worker = command.worker()
        if worker is None:  # it had finished
            assert command.process.wait() == 0
            break
        if how == "worker":
            worker.kill()
            _, said = command.process.communicate(timeout=300)
            assert command.process.returncode and "ended without an answer" in said, said
        else:
            command.end(how)
    last = Command(config)
    _, said = last.process.communicate(timeout=600)
    assert last.process.returncode == 0, said
    assert files_of(out) == files_of(tmp_path / "local" / "out")
