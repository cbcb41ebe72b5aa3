"""Every file in workflows/ opens in the real frontend, comes out of it as it went in, and draws there."""

import pytest
from PIL import Image, ImageChops

from tests.environment import TOP
from tests.host.workflow import WORKFLOWS, load_workflow, to_prompt

pytestmark = pytest.mark.browser
IMAGES = TOP / "docs" / "images"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_opens_unchanged(frontend, client, name):
    workflow = load_workflow(name)
    frontend.load(workflow)
    saved, prompt = frontend.save()
    assert frontend.toasts() == []
    widgets = {node["id"]: (node["type"], node.get("widgets_values") or []) for node in workflow["nodes"]}
    assert {node["id"]: (node["type"], node.get("widgets_values") or []) for node in saved["nodes"]} == widgets
    offline = to_prompt(workflow, client.object_info())
    assert {id: node["inputs"] for id, node in prompt.items()} == {id: node["inputs"] for id, node in offline.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_draws_in_the_page(frontend, client, name):
    """A sample that fails in the page, shows nothing while it works, or ends without its picture on the canvas.

    Leaves the screenshot that the README shows.
    """
    workflow = load_workflow(name)
    frontend.load(workflow)
    ended, events = frontend.run(timeout=300)
    assert ended == "execution_success", events[-1]
    shown = frontend.shown_images()
    assert shown
    kinds = {str(node["id"]): node["type"] for node in workflow["nodes"]}
    watched = {kinds[data["node"]] for kind, data in events if kind == "b_preview_with_metadata"}
    assert {"BLIP3oTokenGenerator", "BLIP3oDiffusionSampler"} <= watched
    IMAGES.mkdir(parents=True, exist_ok=True)
    frontend.page.set_viewport_size({"width": 2200, "height": 1100})  # below 60 % zoom the canvas leaves out all text
    frontend.page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    with_picture = Image.open(frontend.screenshot(IMAGES / f"{name}.png")).convert("RGB")
    frontend.page.evaluate("() => { for (const node of window.app.graph._nodes) node.imgs = null }")
    without = Image.open(frontend.screenshot(IMAGES / f".{name}.png")).convert("RGB")
    (IMAGES / f".{name}.png").unlink()
    assert ImageChops.difference(with_picture, without).getbbox(), "the picture is not on the canvas"
