"""A curation from start to end: what is kept, what a second run does again, what a killed one leaves."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image, ImageFilter

from blip3o_core.curation.engine import Watch, curate
from blip3o_core.curation.results import read_results
from blip3o_core.errors import Blip3oError
from blip3o_core.shards.read import ShardFolder
from blip3o_core.training.data.items import find_items
from tests.support.curation import CAPTION, encoded, files_of, pair, settings, texture, write_tar
from tests.support.paths import TOP


def samples(first: int, count: int) -> list:
    """Members of a tar with every tenth image blurred, tiny, damaged, a copy of another, or with a bad caption."""
    members = []
    for number in range(first, first + count):
        image, caption, ending = texture(number), f"{CAPTION}, number {number}", "png"
        fault = number % 20
        if fault == 3:
            image = image.filter(ImageFilter.GaussianBlur(4))
        elif fault == 7:
            image = image.resize((30, 30))
        elif fault == 11:
            image = texture(number - 1).resize((60, 60), Image.Resampling.LANCZOS)
        elif fault == 13:
            caption = "@@@@ 1234"
        data = encoded(image)
        members += pair(f"{number:04d}", data[: len(data) // 2] if fault == 17 else data, caption, ending)
    return members


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for number in range(3):
        write_tar(folder / f"{number}.tar", samples(number * 20, 20))
    return folder


@pytest.fixture(scope="module")
def uncut(source, tmp_path_factory):
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("uncut") / "out"
    outcome = curate(settings([str(source)], out))
    return outcome, files_of(out)


def passes(watch_to: list) -> Watch:
    return Watch(progress=lambda what, done, total: watch_to.append(what))


def test_planted_faults_are_dropped_and_nothing_else(uncut):
    """Catches a fault that stays, a good sample that is lost, and a drop without its reason."""
    outcome, files = uncut
    expected = {"kept": 45, "sharpness": 3, "side": 3, "duplicate": 3, "letters": 3, "unreadable": 3}
    assert dict(outcome.reasons) == expected
    drops = [json.loads(line) for line in files["dropped.jsonl"].decode().splitlines()]
    assert len(drops) == 15
    copy = next(drop for drop in drops if drop["reason"] == "duplicate")
    assert copy["place"].endswith("0.tar:0011.png") and copy["of"].endswith("0.tar:0010.png")
    assert copy["value"] <= 4 == copy["limit"]
    tiny = next(drop for drop in drops if drop["reason"] == "side")
    assert (tiny["value"], tiny["limit"], tiny["source"]) == (30, 48, "source0")


def test_training_reads_what_is_written(uncut, source):
    """Catches shards without a manifest, with other bytes, or with another caption."""
    outcome, _ = uncut
    folder = ShardFolder(outcome.work.shards)
    assert len(folder) == 45
    assert outcome.data_lines() == ["data:", f"  - {json.dumps(str(outcome.work.shards))}"]
    first = folder.read(0, 0).record
    assert first.image == encoded(texture(0)) and first.texts == (f"{CAPTION}, number 0",)
    assert len(find_items([str(outcome.work.shards)])) == 45


def test_the_folder_tells_what_the_run_did(uncut):
    """Catches counts that differ from the run's, and a drop that is shown as kept or without its image or value."""
    outcome, _ = uncut
    results = read_results(outcome.work)
    assert results.reasons == outcome.reasons and (results.kept, results.dropped) == (45, 15)
    assert {one.reason for one in results.examples} == set(outcome.reasons)
    tiny = next(one for one in results.examples if one.reason == "side")
    assert (tiny.value, tiny.limit) == (30, 48) and Image.open(io.BytesIO(tiny.image)).size == (30, 30)


def test_a_second_run_measures_and_writes_nothing(uncut, source, monkeypatch):
    """Catches a resume that does the work again."""
    outcome, files = uncut
    monkeypatch.setattr("blip3o_core.curation.readers.find.read", lambda piece: pytest.fail("read again"))
    curate(settings([str(source)], outcome.work.out))
    assert files_of(outcome.work.out) == files


def test_processes_write_what_one_process_does(uncut, source, tmp_path):
    """Catches a result that depends on which process was first."""
    curate(settings([str(source)], tmp_path / "out", workers=2))
    assert files_of(tmp_path / "out") == uncut[1]


def test_another_limit_measures_nothing_again(source, tmp_path, monkeypatch):
    """Catches features that are thrown away, and old shards that stay, when a limit changes."""
    loose, said = tmp_path / "loose", []
    curate(settings([str(source)], loose, keep={"min_letters": None}))
    curate(settings([str(source)], loose), passes(said))
    strict = tmp_path / "strict"
    curate(settings([str(source)], strict))
    assert "measure" not in said
    changed = {name for name, data in files_of(loose).items() if data != files_of(strict)[name]}
    assert changed <= {"report.html"}  # the name of the folder


def test_a_changed_source_is_measured_again(tmp_path):
    """Catches features of a file that has another content by now, and shards of a file that is gone."""
    folder, out = tmp_path / "data", tmp_path / "out"
    write_tar(folder / "a.tar", samples(0, 2))
    write_tar(folder / "b.tar", samples(20, 2))
    curate(settings([str(folder)], out))
    write_tar(folder / "a.tar", samples(40, 3))
    (folder / "b.tar").unlink()
    outcome = curate(settings([str(folder)], out))
    assert outcome.reasons["kept"] == 3
    assert [path.name for path in sorted((out / "shards").glob("*.tar"))] == ["data-a.tar"]


def test_edits_compositions_and_reconstructions(tmp_path):
    """Catches an edit without its reference, and a reconstruction that is no edit of the image itself."""
    plain, other, third = (encoded(texture(number)) for number in range(3))
    members = [*pair("a", plain), *pair("b", other, "make the hill red"), ("b.reference.png", third)]
    members += [*pair("c", third, "put both into one"), ("c.reference1.png", plain), ("c.reference2.png", other)]
    source = write_tar(tmp_path / "mixed.tar", members)
    sides = {"min_reference_side": 48}
    out = tmp_path / "out"
    free = {**sides, "max_distance": 64, "max_changed": 1}
    outcome = curate(settings([str(source)], out, edits=free, compositions=sides, reconstructions=1))
    folder = ShardFolder(out / "shards")
    found = {one.key: one for one in (folder.read(0, number).record for number in range(len(folder)))}
    assert list(found) == ["a", "a-unchanged", "b", "c"] and outcome.unchanged == 1
    assert found["a-unchanged"].image == plain and found["a-unchanged"].references == (plain,)
    assert found["a-unchanged"].texts == ("Keep the image unchanged.",)
    assert found["b"].references == (third,) and found["c"].references == (plain, other)


def test_weighted_sources_have_folders_of_their_own(tmp_path):
    """Catches a mixture whose parts training cannot tell apart."""
    paths = [write_tar(tmp_path / name / "x.tar", samples(20 * number, 2)) for number, name in enumerate("ab")]
    sources = [{"path": str(path.parent), "weight": 1 + 2 * number} for number, path in enumerate(paths)]
    outcome = curate(settings(sources, tmp_path / "out"))
    assert [(folder.name, weight) for folder, weight in outcome.data] == [("a", 1.0), ("b", 3.0)]
    assert "weight: 3" in outcome.data_lines()[2]
    assert all(len(ShardFolder(folder)) == 2 for folder, _ in outcome.data)


def test_evaluation_data_is_dropped(tmp_path):
    """Catches a prompt or an image of the evaluation that is trained on."""
    members = [*pair("a", encoded(texture(1)), "A red circle, above a BLUE star!"), *pair("b", encoded(texture(2)))]
    members += pair("c", encoded(texture(3)))
    source = write_tar(tmp_path / "x.tar", members)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red circle above a blue star"}\n')
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.jpg").write_bytes(encoded(texture(2), "JPEG"))
    names = {"prompts": str(tmp_path / "prompts.jsonl"), "images": str(tmp_path / "images")}
    curate(settings([str(source)], tmp_path / "out", decontaminate=names))
    drops = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [(drop["key"], drop["reason"]) for drop in drops] == [("a", "evaluation"), ("b", "evaluation")]
    assert drops[0]["value"] == "a red circle above a blue star" and drops[1]["value"].endswith("one.jpg")


def test_a_folder_with_other_files_is_refused(tmp_path, source):
    """Catches a curation that replaces and removes files of somebody else."""
    (tmp_path / "shards").mkdir()
    mine = write_tar(tmp_path / "shards" / "mine.tar", samples(0, 1))
    with pytest.raises(Blip3oError, match="other files"):
        curate(settings([str(source)], tmp_path))
    assert mine.is_file()


def test_the_page_shows_limits_and_loads_nothing(uncut):
    """Catches a histogram without its limit, a reason without images, and a page that needs the network."""
    page = uncut[1]["report.html"].decode()
    assert f"{CAPTION}, number " in page and "@@@@ 1234" in page  # a caption is judged beside its image
    assert 'class="limit"' in page and "45 are kept (75.0%)" in page.replace("&#x27;", "'")
    for words in ("Some that are kept", "near-duplicate", "cannot be read", "sharpness"):
        assert words in page
    assert page.count("data:image/jpeg") >= 24 and "://" not in page


def run_and_kill(config, wait: float) -> bool:
    """Run the command and kill it -> whether it had ended before."""
    command = [sys.executable, "-m", "blip3o_core", "curate", str(config)]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(wait) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False


def killed_until_done(config, kills: int, longest: float) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chosen = random.Random(seed)
    for _ in range(kills):
        run_and_kill(config, chosen.uniform(0.1, longest))
    assert run_and_kill(config, 600)


def as_file(path, source, out, workers: int):
    content = {"sources": [str(source)], "out": str(out), "keep": {"min_side": 48}, "workers": workers}
    path.write_text(json.dumps(content))
    return path


def test_a_run_that_breaks_off_anywhere_is_resumed(uncut, source, tmp_path, monkeypatch):
    """Catches a resume that loses, doubles or changes a sample: the run is broken off before each of its files."""
    config = settings([str(source)], tmp_path / "out")
    replace, left = os.replace, [0]

    def breaking(first, second):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(first, second)

    monkeypatch.setattr(os, "replace", breaking)
    broken = 0
    for _ in range(30):
        left[0] = 1 + 2 * broken
        try:
            curate(config)
            break
        except KeyboardInterrupt:
            broken += 1
    assert broken >= 5
    assert files_of(tmp_path / "out") == uncut[1]


@pytest.mark.long
def test_ten_kills_change_nothing(uncut, source, tmp_path):
    """Catches a file that has its name before it is whole, and processes that go on without their parent."""
    config = as_file(tmp_path / "curate.yaml", source, tmp_path / "out", 2)
    started = time.monotonic()
    assert run_and_kill(as_file(tmp_path / "first.yaml", source, tmp_path / "first" / "out", 2), 600)
    killed_until_done(config, 10, 1.2 * (time.monotonic() - started))
    assert files_of(tmp_path / "out") == uncut[1]


def test_processes_start_without_torch():
    """Catches an import that makes each worker start seconds later and take hundreds of megabytes."""
    rooms = "engine, measure, write, backends.local, readers.find".split(", ")
    code = "; ".join(f"import blip3o_core.curation.{room}" for room in rooms)
    code += "; import sys; print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_no_shard_holds_is_dropped_with_a_reason(tmp_path):
    """Catches one odd sample that ends the whole run: an odd format, an empty instruction, half a character, NaN."""
    plain, odd = encoded(texture(1)), encoded(texture(2), "PPM")
    members = [
        ("a.png", odd),
        ("a.txt", CAPTION.encode()),
        *pair("b", plain, " "),
        ("b.reference.png", encoded(texture(3))),
    ]
    members += [("c.png", encoded(texture(4))), ("c.json", b'{"caption": "half \\ud800 of it"}')]
    members += [*pair("d", encoded(texture(5))), ("d.json", b'{"score": NaN, "licence": "CC0"}')]
    source = write_tar(tmp_path / "x.tar", members)
    outcome = curate(settings([str(source)], tmp_path / "out", keep={"min_words": None}))
    assert outcome.reasons["kept"] == 1 and outcome.reasons.total() == 4
    record = ShardFolder(tmp_path / "out" / "shards").read(0, 0).record
    assert record.key == "d" and record.facts["meta"]["licence"] == "CC0" and "score" not in record.facts["meta"]
