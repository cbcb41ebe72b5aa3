"""Texts that models write: what they are asked, what becomes of the old texts, and what their faults cost."""

import base64
import io
import json

import pytest
from PIL import Image

from blip3o_core.curation.engine import Watch, curate
from blip3o_core.curation.models.writers import PROMPTS
from blip3o_core.curation.work import Work, read_table
from blip3o_core.errors import Blip3oError
from blip3o_core.shards.read import ShardFolder
from tests.support.curation import CAPTION, encoded, pair, settings, texture, write_tar
from tests.support.stand_in import ENOUGH, StandIn, chat, cut, hangs, says

NEW = "A small tree stands beside a house on a green hill."
FREE = {"min_reference_side": 48, "max_distance": 64, "max_changed": 1}


def by_question(handler) -> None:
    """A step: each kind of question has an answer of its own."""
    asked = json.loads(handler.body)["messages"][0]["content"][0]["text"]
    kind = next(kind for kind, prompt in PROMPTS.items() if prompt == asked)
    chat(f"This is the {kind} text of an image.")(handler)


def source(tmp_path, count=1, caption=CAPTION):
    members = [one for number in range(count) for one in pair(f"{number:04d}", encoded(texture(number)), caption)]
    return str(write_tar(tmp_path / "data.tar", members))


def run(path, out, server, told=None, options=(), **captions):
    how = {
        "url": server.url,
        "model": "seer",
        "retries": 1,
        "wait": 0,
        "timeout": ENOUGH,
        "at_once": 1,
        **dict(options),
    }
    given = settings([path], out, captions={"options": how, **captions}, edits=FREE)
    return curate(given, Watch(tell=(told if told is not None else []).append))


def texts(outcome) -> list[tuple[str, ...]]:
    """Of all samples in the shard."""
    folder = ShardFolder(outcome.work.shards)
    return [folder.read(0, number).record.texts for number in range(len(folder))]


def faults(outcome) -> list[str]:
    return [json.loads(line)["reason"] for line in outcome.work.faults.read_text().splitlines()]


def test_new_texts_replace_join_or_fill(tmp_path):
    """Catches an old text that is lost or stays against the setting, and a text that is measured as the old one."""
    path = source(tmp_path)
    with StandIn(by_question) as server:
        both = {"write": ["long", "short"]}
        new = tuple(f"This is the {kind} text of an image." for kind in both["write"])
        outcome = run(path, tmp_path / "replace", server, **both)
        assert texts(outcome) == [new]
        assert read_table(outcome.work.features("data-data"))["words"].to_pylist() == [[8, 8]]
        assert texts(run(path, tmp_path / "join", server, mode="join", **both)) == [(CAPTION, *new)]
        assert texts(run(path, tmp_path / "missing", server, mode="missing", **both)) == [(CAPTION,)]
        assert len(server.asked) == 4
        bare = write_tar(tmp_path / "bare.tar", [("a.png", encoded(texture(0)))])
        assert texts(run(str(bare), tmp_path / "bare", server, mode="missing")) == [new[:1]]


def test_an_instruction_is_written_from_source_and_target(tmp_path):
    """Catches an edit whose images are asked about in the wrong order, or that gets a caption for its instruction."""
    plain, other = encoded(texture(0)), encoded(texture(1))
    path = str(write_tar(tmp_path / "data.tar", [("a.png", plain), ("a.reference.png", other)]))
    with StandIn(by_question) as server:
        outcome = run(path, tmp_path / "out", server, write=["long", "instruction"])
        ((message,),) = (body["messages"] for body in server.bodies)
    record = ShardFolder(outcome.work.shards).read(0, 0).record
    assert record.texts == ("This is the instruction text of an image.",) and record.references == (other,)
    sent = [part["image_url"]["url"].partition(",")[2] for part in message["content"][1:]]
    seen = [Image.open(io.BytesIO(base64.b64decode(data))).tobytes() for data in sent]
    assert seen == [texture(1).tobytes(), texture(0).tobytes()]


FAULTS = {
    "html": (says("<html>"), "not JSON|JSON"),
    "status 429": (says({"error": "slow down"}, 429), "429"),
    "status 500": (says({"error": "full"}, 500), "500"),
    "wrong key": (says({"error": "who"}, 401), "401"),
    "other shape": (says({"text": NEW}), "choices"),
    "cut connection": (cut, "broke off|complete|JSON"),
    "no words": (chat(" ... "), "without a word"),
    "used up": (chat("A small tree stands", "length"), "used up its tokens"),
    "control characters": (chat("A tree\0\x1b[2J"), "readable"),
}


def test_faults_of_a_server_keep_the_old_text(tmp_path):
    """Catches an answer that is no text and becomes one, a fault that ends the run, and one that nobody is told of."""
    path = source(tmp_path)
    for number, (name, (step, words)) in enumerate(FAULTS.items()):
        told: list[str] = []
        with StandIn(step) as server:
            outcome = run(path, tmp_path / str(number), server, told)
        assert texts(outcome) == [(CAPTION,)], name
        assert any(word in faults(outcome)[0] for word in words.split("|")), (name, faults(outcome))
        assert any("captions failed for 1 samples" in line for line in told), name


def test_a_server_that_never_answers_is_given_up(tmp_path):
    """Catches a curation that waits for a dead server at every sample."""
    with StandIn(hangs) as server:
        quick = {"timeout": 0.02, "retries": 0, "at_once": 8}
        outcome = run(source(tmp_path, 33), tmp_path / "out", server, options=quick)
        assert len(server.asked) <= 24
    assert outcome.reasons["kept"] == 33 and len(faults(outcome)) == 33
    assert "within" in faults(outcome)[0] and "3 times in a row" in faults(outcome)[-1]


def test_a_server_that_was_down_is_asked_again(tmp_path):
    """Catches a text that is never asked for again, a shard that keeps the old one, and an answer asked for twice."""
    path, out = source(tmp_path, 3), tmp_path / "out"
    with StandIn(chat(NEW), chat("!!"), says({"error": "full"}, 500), chat(f"{NEW} It rains.")) as server:
        options = {"retries": 0}
        outcome = run(path, out, server, options=options)
        assert texts(outcome) == [(NEW,), (CAPTION,), (CAPTION,)] and len(server.asked) == 3
        outcome = run(path, out, server, options=options)
        assert texts(outcome) == [(NEW,), (CAPTION,), (f"{NEW} It rains.",)] and len(server.asked) == 4
        assert len(faults(outcome)) == 1
        run(path, out, server, options=options)
        assert len(server.asked) == 4


def test_nothing_is_asked_twice(tmp_path):
    """Catches answers that are paid for again after a kill, or when only a judge was added."""
    path, out = source(tmp_path, 2), tmp_path / "out"
    with StandIn(chat(NEW), chat("!!"), chat("never asked for")) as server:
        outcome = run(path, out, server)
        before = outcome.work.shards.joinpath("data-data.tar").read_bytes()
        outcome.work.features("data-data").unlink()
        outcome = run(path, out, server)
        assert len(server.asked) == 2
    assert texts(outcome) == [(NEW,), (CAPTION,)]
    assert outcome.work.shards.joinpath("data-data.tar").read_bytes() == before
    lines = [json.loads(line) for line in Work(out).answers("data-data").read_text().splitlines()]
    assert [line["text"] for line in lines] == [NEW, "!!"]


def test_a_model_that_does_not_fit_is_told_before_anything_is_read(tmp_path):
    """Catches a wrong folder or option that costs every sample its text."""
    path, folder = source(tmp_path), str(tmp_path / "blip")
    (tmp_path / "blip").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "blip" / name).write_text("{}")
    for model, write, words in (
        (folder, ["long", "short"], "no chat template"),
        ("Salesforce/blip", ["long"], "is not a folder"),
        (folder, ["instruction"], "only `use: chat`"),
    ):
        captions = {"use": "local", "write": write, "options": {"model": model}}
        with pytest.raises(Blip3oError, match=words):
            curate(settings([path], tmp_path / "out", captions=captions))
    assert not (tmp_path / "out").exists()
