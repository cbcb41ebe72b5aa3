"""Text in images is read, without a network, and judged by the prompt."""

import importlib.util
import logging
import pickle
import socket

import numpy as np
import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.rewards.text import TextReward, _pixels, reading_order
from tests.support.written import written

reads = pytest.mark.skipif(not importlib.util.find_spec("rapidocr"), reason="needs the extra ocr")


@pytest.fixture(scope="module")
def reward():
    return TextReward(side=320)


@reads
def test_text_in_images_is_read(reward, monkeypatch):
    """Catches colours in the wrong order of channels, lines in the wrong order, and a download."""
    monkeypatch.setattr(socket, "socket", lambda *words, **more: pytest.fail("it asks the network"))
    image = written("Open", "Café Noir")
    assert reward.read(image) == ["Open", "Café Noir"]
    prompts = ['a sign "Open" and "Café Noir"', 'a sign "Open"', 'a sign "Zebra"', "a sign"]
    found = reward([image] * 2 + [written("Open", side=96)] * 2, prompts, (), (), ())
    assert found[0] == 1 and found[1] == 0.5 and found[2] < 0.3 and found[3] is None


@reads
def test_images_of_any_size_are_read(reward):
    """Catches an image that is too small or too narrow for the reader, or enlarged until memory is full."""
    for shape in ((1, 1), (3, 700), (300, 1)):
        pixels = _pixels(torch.rand(*shape, 3, generator=torch.Generator().manual_seed(1)))
        assert max(pixels.shape[:2]) <= 2000 and max(pixels.shape[:2]) <= 4 * min(pixels.shape[:2])
    assert reward.read(torch.zeros(1, 1, 3)) == []


@reads
def test_prompts_without_text_are_said_once(reward, caplog):
    """Catches a line in the log for every image, and an error where there is nothing to judge."""
    with caplog.at_level(logging.INFO):
        again = TextReward()
        found = [again([torch.zeros(8, 8, 3)] * 2, ["a fox", "it's a dog's life"], (), (), ()) for _ in range(2)]
    assert found == [[None, None]] * 2
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1 == len(caplog.records)


@reads
def test_another_process_gets_the_reward(reward):
    """Catches a reward with loaded networks that cannot be sent to the processes that judge."""
    reward.read(torch.zeros(64, 64, 3))
    again = pickle.loads(pickle.dumps(reward))
    assert (again.rule, again.side, again.version) == ("spans", 320, reward.version) and again._engine is None


@reads
def test_options_decide_the_version_and_are_checked():
    """Catches a run that is resumed with another rule, and wrong values that are found late."""
    kinds = [TextReward(), TextReward("authors"), TextReward(case=True), TextReward(side=736)]
    assert len({kind.version for kind in kinds}) == 4
    for options, words in (
        ({"rule": "author"}, "rule is 'author'. Did you mean authors?"),
        ({"rule": 3}, "rule is 3. Use spans or authors."),
        ({"case": "yes"}, "case is 'yes'"),
        ({"case": True, "rule": "authors"}, "ignores capital letters"),
        ({"side": 5}, "side is 5. Give a whole number from 32 to 2000"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"font": "x"}, "Reward 'text' has no option 'font'"),
    ):
        with pytest.raises(Blip3oError) as error:
            load_rewards([{"name": "text", "options": options}])
        assert words in str(error.value)


def test_a_missing_package_names_the_extra(monkeypatch):
    """Catches "No module named 'rapidocr'" after the first images were made."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rapidocr" else find(name))
    with pytest.raises(Blip3oError, match="needs the package rapidocr.*\\[ocr\\]"):
        load_rewards(["text"]).score(Candidates([torch.zeros(8, 8, 3)], ['a "b"']))


def test_lines_are_read_from_the_left():
    """Catches words of one line in the order of their heights."""

    def box(left, top, width=30, height=20):
        return [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]

    boxes = np.array([box(100, 52), box(0, 0), box(10, 55), box(60, 48), box(5, 90)], float)
    assert reading_order(boxes) == [1, 2, 3, 0, 4]
