"""A list of prompts on the page: it passes through the graph, and the grid and the mean are shown."""

import io

import pytest
from PIL import Image

from tests.browser.tour.steps import LOOKS, SAMPLER
from tools.comfyui.frontend import FIT

pytestmark = pytest.mark.long


@pytest.mark.parametrize("look", sorted(LOOKS), indirect=True, scope="module")
def test_the_grid_and_the_mean_are_shown(tour):
    """Catches a list of which one prompt alone runs, a mean that is not told, and widgets that lose their values."""
    tour.open("BLIP3o-21-Evaluate-Prompts")
    tour.set("BLIP3oPromptList", limit=3)
    tour.set(SAMPLER, steps=2)
    run = tour.run()
    assert run.ended == "execution_success"
    tour.page.evaluate(FIT)
    notes = tour.notes()
    tour.shot("evaluating")
    assert "3" in notes["BLIP3oEvaluationGrid"] and "95 %" in notes["BLIP3oEvaluationGrid"]
    [grid] = tour.images()
    assert Image.open(io.BytesIO(grid)).width == 3 * (192 + 8)
    assert "| **overall** |" in tour.texts()
