"""Every file in workflows/ opens in the real frontend, comes out of it as it went in, and draws there."""

import pytest
from PIL import Image, ImageChops

from tests.host.workflow import WORKFLOWS, load_workflow, to_prompt

pytestmark = pytest.mark.browser
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
def test_the_workflow_draws_in_the_page(frontend, tmp_path, name):
    frontend.load(load_workflow(name))
    before = Image.open(frontend.screenshot(tmp_path / "before.png"))
    ended, events = frontend.run(timeout=300)
    assert ended == "execution_success", events[-1]
    assert frontend.shown_images()
    after = Image.open(frontend.screenshot(tmp_path / "after.png"))
    assert ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getbbox()
