"""The tools that make README's animation and time a first run."""

import json

import numpy as np
import pytest

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.judge.judge import judge_image
from tests.support.paths import TOP
from tools.comfyui.client import Result
from tools.first_run import GENERATOR, Steps, first_tokens, graph
from tools.images.hero import ROWS
from tools.images.maker import Maker
from tools.images.nine import NINE, make, page, wrong


@pytest.mark.slow
def test_the_frames_end_with_the_image():
    """Catches an animation that is made with other settings than the image which the judge looked at."""
    maker = Maker(Pipeline.load(BUNDLED))
    tokens = maker.tokens(ROWS[2].prompt, 0)
    frames, image = maker.from_noise(tokens, 1), maker.image(tokens, 1)
    assert np.abs(frames[-1].astype(int) - image).max() <= 2
    assert np.abs(frames[0].astype(int) - image).mean() > 20, "the first frame shows no noise"
    assert judge_image(image, ROWS[2].spec).strict


def test_the_nine_images_are_labelled():
    """Catches words that the judge cannot read, an edit of an image that comes later, and a page without its edits."""
    assert len(NINE) == 9 and sum(len(cell.sources) == 1 for cell in NINE) == 1
    assert [cell.sources for cell in NINE if len(cell.sources) == 2] == [(1, 2)]
    for number, cell in enumerate(NINE, 1):
        assert cell.spec and all(source < number for source in cell.sources)
    assert any(cell.spec.word for cell in NINE) and sum(cell.spec.textured for cell in NINE) >= 5
    image = np.full((128, 128, 3), 255, np.uint8)
    assert page([image] * 9).width == 3 * (256 + 14) + 14


@pytest.mark.slow
def test_the_nine_images_are_right():
    """Catches an opening of README with an image that does not show what its words say."""
    assert wrong(make(Maker(Pipeline.load(BUNDLED)))) == {}


def test_the_timed_prompt_names_inputs_that_the_nodes_have():
    """Catches a renamed or missing input, which would show only when somebody times a first run again."""
    contract = json.loads((TOP / "tests/host/node_contract.json").read_text(encoding="utf-8"))
    ours = [node for node in graph("X").values() if node["class_type"].startswith("BLIP3o")]
    assert len(ours) == 4
    for node in ours:
        inputs = contract[node["class_type"]]["inputs"]
        assert set(node["inputs"]) <= {each["name"] for each in inputs}
        assert {each["name"] for each in inputs if not each["optional"]} <= set(node["inputs"])


class Told:
    """A client of a ComfyUI that tells of the first token and then of every fifth, as it does for large grids."""

    def __init__(self):
        self.interrupts = 0

    def object_info(self, _) -> dict:
        return {"BLIP3oLoader": ["X"]}

    def queue(self, _) -> str:
        return "1"

    def interrupt(self) -> None:
        self.interrupts += 1

    def wait(self, _, timeout, on_event) -> Result:
        on_event("executing", {"node": GENERATOR})
        for value in (1, 6, 11):
            if not self.interrupts:
                on_event("progress", {"node": GENERATOR, "value": value})
        return Result("1", "interrupted")


def test_the_timed_run_ends_after_its_first_tokens(tmp_path):
    """Catches a run that waits for the one token that ComfyUI does not tell of, and so for all 729."""
    steps, client = Steps(tmp_path), Told()
    first_tokens(steps, client, "X")
    assert client.interrupts == 1
    assert [what for what, *_ in steps.rows][-2:] == [
        "the prompt is read, and image token 1 is written", "image tokens 2 to 6 are written",
    ]  # fmt: skip
