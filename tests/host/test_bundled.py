"""The bundled model in the real host: offered first, drawing what the sample workflow says, whatever the words."""

import io

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny import Expected, Spec
from blip3o_core.tiny.judge.judge import judge_image
from tests.support.odd_prompts import ODD_PROMPTS
from tools import demo
from tools.comfyui.graphs import SIDE, text_to_image
from tools.comfyui.workflow import load_workflow, node_of, to_prompt
from tools.images.nine import NINE, PER_ROW, page, wrong
from tools.images.nine import SIDE as SHOWN


def picture(client, result) -> np.ndarray:
    assert result.status == "success", result.error
    with Image.open(io.BytesIO(client.view(**result.images[0]))) as image:
        return np.asarray(image.convert("RGB"))


def test_the_loader_offers_it_first(client):
    """Catches a newcomer whose loader asks for a download, and a default that changes with what is in models/blip3o."""
    _, options = client.object_info("BLIP3oLoader")["BLIP3oLoader"]["input"]["required"]["checkpoint"]
    assert options["options"][0] == options["default"] == NAME


@pytest.mark.long
def test_the_sample_workflow_draws_what_it_says(client):
    """Catches wires, sizes or settings of the sample under which a model that understands does not show it."""
    graph = to_prompt(load_workflow("BLIP3o-1-Text-to-Image"), client.object_info())
    _, inputs = node_of(graph, "BLIP3oTokenGenerator")
    assert inputs["prompt"] == "a red circle right of a blue star"
    spec = Spec((Expected("circle", "red"), Expected("star", "blue")), relation=(0, "left of", 1))
    right = []
    for seed in range(3):
        inputs["seed"] = seed
        drawn = picture(client, client.run(graph, timeout=300))
        assert drawn.shape == (512, 512, 3)
        right.append(judge_image(drawn, spec).strict)
    assert sum(right) >= 2, right


def test_the_demo_draws_each_of_its_prompts(client):
    """Catches a demo that shows one picture nine times, a wrong one, or an edit of another image than it says."""
    pictures, seconds = demo.generate(client)
    assert len({drawn.tobytes() for drawn in pictures}) == len(seconds) == len(NINE) and min(seconds) > 0
    assert wrong(pictures) == {}
    assert page(pictures).width > PER_ROW * SHOWN


@pytest.mark.parametrize("prompt", ODD_PROMPTS.values(), ids=ODD_PROMPTS)
def test_odd_prompts_give_a_picture(client, prompt):
    """Catches an error where words are unknown, contradict themselves or fill the prompt to its limit."""
    graph = text_to_image(NAME, size=(SIDE, SIDE), prompt=prompt, steps=2)
    assert picture(client, client.run(graph)).shape == (SIDE, SIDE, 3)
