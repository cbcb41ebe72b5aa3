"""The tools that make README's animation and time a first run."""

import json

import numpy as np
import pytest

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.judge.judge import judge_image
from tests.support.paths import TOP
from tools.first_run import graph
from tools.images.hero import ROWS
from tools.images.maker import Maker


@pytest.mark.slow
def test_the_frames_end_with_the_image():
    """Catches an animation that is made with other settings than the image which the judge looked at."""
    maker = Maker(Pipeline.load(BUNDLED))
    tokens = maker.tokens(ROWS[2].prompt, 0)
    frames, image = maker.from_noise(tokens, 1), maker.image(tokens, 1)
    assert np.abs(frames[-1].astype(int) - image).max() <= 2
    assert np.abs(frames[0].astype(int) - image).mean() > 20, "the first frame shows no noise"
    assert judge_image(image, ROWS[2].spec).strict


def test_the_timed_prompt_names_inputs_that_the_nodes_have():
    """Catches a renamed or missing input, which would show only when somebody times a first run again."""
    contract = json.loads((TOP / "tests/host/node_contract.json").read_text(encoding="utf-8"))
    ours = [node for node in graph("X").values() if node["class_type"].startswith("BLIP3o")]
    assert len(ours) == 4
    for node in ours:
        inputs = contract[node["class_type"]]["inputs"]
        assert set(node["inputs"]) <= {each["name"] for each in inputs}
        assert {each["name"] for each in inputs if not each["optional"]} <= set(node["inputs"])
