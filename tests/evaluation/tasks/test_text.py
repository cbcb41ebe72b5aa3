"""Text rendering: prompts of our own, what is read in images, and what of it counts."""

import hashlib
import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.tasks import quotes, reading, text
from blip3o_core.evaluation.tasks.find import open_task
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.text_rule import quoted_spans
from tests.support.written import written

reads = pytest.mark.skipif(not importlib.util.find_spec("rapidocr"), reason="needs the extra ocr")


def test_our_prompts_are_different_and_quote_what_they_ask_for():
    """Catches a prompt that occurs twice, and one whose quotation marks hold something else."""
    made = list(quotes.prompts(2000))
    assert len({one.text for one in made}) == 2000
    assert all(quoted_spans(one.text) == one.asked for one in made)
    assert [one.kind for one in made[:5]] == list(quotes.KINDS) == [one.kind for one in made[5:10]]
    assert made[:50] == list(quotes.prompts(50))


def test_our_prompts_stay_the_same():
    """Catches other prompts under the same ids after a change of the lists: then the task's version must change."""
    texts = "\n".join(one.text for one in quotes.prompts(10_000))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "7a7e9b332cdc2bf3"
    assert open_task("text", None, {"ocr": "no"}).version == "1"


ITEM = Item("0", 'A door that says "Come in", and "Mind the step" below.')
RULES = [  # rule, what was read, the value
    (reading.right, ["COME IN", "mind  the step"], 1),
    (reading.right, ["Mind the step", "noise", "Come in"], 1),
    (reading.right, ["Come in", "Mind the stop"], 0),
    (reading.right, [], 0),
    (reading.spans, ["Come in", "Mind the step"], 1),
    (reading.spans, [], 0),
    (reading.flow_grpo, ["Come in", "and much more"], 1),
    (reading.flow_grpo, ["Come", "on"], 1 - 1 / 6),
    (reading.words, ["Mind the", "step. Come"], 4 / 5),
    (reading.words, ["come-in mind"], 1 / 5),  # marks inside of words go, as in the rule
    (reading.words, ["in in in in in"], 1 / 5),
    (reading.words, [], 0),
]


@pytest.mark.parametrize(("rule", "read", "value"), RULES)
def test_rules(rule, read, value):
    """Catches a rule that counts something else than its docstring says."""
    assert rule(ITEM, read) == pytest.approx(value)


def test_facts_say_what_is_asked_for_before_the_quotation_marks_do():
    """Catches a long prompt of LongText-Bench judged by other quotes in it, and Chinese counted in words."""
    item = Item("0", 'A "red" door.', facts={"text": ["欢迎 光临", "24h"]})
    assert reading.asked(item) == ["欢迎 光临", "24h"]
    assert reading.words(item, ["临欢", "2"]) == pytest.approx(3 / 7)
    assert reading.words(Item("0", "a door", facts={"text": ["!?"]}), ["a"]) is None


def test_a_text_that_is_too_long_costs_its_own_image_alone():
    """Catches one long text that leaves all images of a call without a number."""
    reader = SimpleNamespace(read=lambda image: ["Come in"])
    scorer = reading.ReadingScorer({"spans": reading.spans}, reader)
    long = Item("1", "a", facts={"text": ["x" * 1001]})
    images = [torch.zeros(8, 8, 3)] * 3
    first, second, third = scorer([ITEM, long, ITEM], Candidates(images, [""] * 3))
    assert first == third == {"spans": pytest.approx(first["spans"])} and "1,001 characters" in str(second)


@reads
def test_readings_do_not_pass_for_the_benchmarks():
    """Catches what rapidocr read published under the name of a benchmark that reads with another program: a number with
    a note is nobody's own on the card."""
    notes = {}
    for task in (text.TextTask([ITEM]), text.FlowGRPO([ITEM]), text.LongText([ITEM])):
        (scorer,) = replace(task, rules={"spans": reading.spans}).scorers()
        notes[task.name] = scorer.decisive["notes"]
    assert notes["text"] == [] and all(
        "read by rapidocr, not comparable with" in notes[name][0] for name in ("flow-grpo-ocr", "longtext")
    )


@reads
def test_images_are_read_once_for_all_measures(monkeypatch):
    """Catches measures of different readings, and images in another order than the items."""
    (scorer,) = open_task("text", None, {"count": "5"}).scorers()
    images = [written("Come in", "Mind the step"), torch.zeros(64, 64, 3)]
    reads = []
    read = scorer.reader.read
    monkeypatch.setattr(scorer.reader, "read", lambda image: reads.append(image) or read(image))
    found = scorer([ITEM, ITEM], Candidates(images, [ITEM.prompt] * 2))
    assert len(reads) == 2 and found == [{"spans": 1.0, "right": 1.0}, {"spans": 0.0, "right": 0.0}]
    assert "rapidocr" in scorer.version and list(scorer.measures) == ["spans", "right"]


def test_images_can_be_made_where_nothing_can_read(monkeypatch):
    """Catches a GPU machine without the extra that cannot make the images of a text benchmark."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Blip3oError, match="ocr"):
        open_task("text").scorers()
    assert open_task("text", None, {"ocr": "no"}).scorers() == []
    with pytest.raises(Blip3oError, match="from 5 to 10,000"):
        open_task("text", None, {"count": "4"})
