"""Drafts on the page: the grid, a click, the keyboard, and a choice that is saved with the workflow."""

import pytest

from blip3o_core.checkpoint.bundled import NAME
from tests.browser.tour.steps import GENERATOR, everywhere, on
from tools.comfyui.frontend import FIT
from tools.comfyui.graphs import SIDE, node, text_to_image

pytestmark = pytest.mark.slow
DRAFTS = ".blip3o-drafts button"
CHOICE = """() => window.app.graph.nodes.find(node => node.type === "BLIP3oChooseDraft")
    .widgets.find(widget => widget.name === "choice").value"""


def drafts() -> dict:
    graph = text_to_image(NAME, (SIDE, SIDE), 4, prompt="a red circle left of a blue star", steps=2)
    del graph["latents"]
    graph["choose"] = node("BLIP3oChooseDraft", tokens=["generate", 0], images=["decode", 0], choice=0)
    graph["save"]["inputs"]["images"] = ["choose", 1]
    return graph


@everywhere
def test_a_click_chooses_a_draft_and_only_that_one_goes_further(tour):
    """Catches drafts that are not shown, cannot be clicked or reached with the keyboard, and a choice that is lost."""
    page = tour.page
    tour.frontend.load_prompt(drafts())
    assert tour.run().ended == "execution_success" and not tour.images()
    page.evaluate(FIT)
    tour.settle()
    buttons = page.locator(DRAFTS)
    assert buttons.count() == 4
    buttons.nth(1).click()
    assert page.evaluate(CHOICE) == 2 and buttons.nth(1).get_attribute("aria-checked") == "true"
    buttons.nth(1).click()
    assert page.evaluate(CHOICE) == 0 and page.locator(f"{DRAFTS}[aria-checked='true']").count() == 0
    buttons.nth(0).focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate(CHOICE) == 4
    tour.shot("drafts")
    workflow, prompt = tour.frontend.save()
    [chooser] = [one["inputs"] for one in prompt.values() if one["class_type"] == "BLIP3oChooseDraft"]
    assert chooser["choice"] == 4 and chooser.keys() == {"tokens", "images", "choice"}
    tour.frontend.load(workflow)
    assert page.evaluate(CHOICE) == 4
    run = tour.run()
    assert run.ended == "execution_success" and GENERATOR not in run.ran and len(tour.images()) == 1
    assert page.locator(DRAFTS).nth(3).get_attribute("aria-checked") == "true"


@on("nodes2-zh")
def test_a_file_of_tokens_can_be_uploaded(tour, tmp_path):
    """Catches a button that does nothing, and a list that does not have the uploaded file."""
    page, file = tour.page, tmp_path / "fox.tokens.safetensors"
    file.write_bytes(b"not read here")
    tour.frontend.load_prompt({"open": node("BLIP3oLoadTokens", file="BLIP3o_00001_.tokens.safetensors")})
    page.evaluate(FIT)
    tour.settle()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file to upload").click()
    chooser.value.set_files(file)
    value = "() => window.app.graph.nodes[0].widgets.find(widget => widget.name === 'file').value"
    page.wait_for_function(f"() => ({value})() === 'fox.tokens.safetensors'")
