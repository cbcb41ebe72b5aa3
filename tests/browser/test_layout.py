"""A sample stays readable after a run, when its nodes show images and texts."""

import pytest

from tests.support.layout import assert_readable, crowded, saved_boxes
from tools.comfyui.workflow import load_workflow
from tools.samples import SAMPLES
from tools.samples.parts import ROOM

IN_NODES_2 = ["BLIP3o-1-Text-to-Image", "BLIP3o-2-Quick-Preview", "BLIP3o-8-Keep-Unchanged"]


@pytest.fixture
def nodes_2(frontend):
    choose = "chosen => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', chosen)"
    frontend.page.evaluate(choose, True)
    yield frontend
    frontend.reset()
    frontend.page.evaluate(choose, False)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_node_has_room_to_grow(sample):
    """Catches a sample that was arranged without the text and the image that its nodes show after a run."""
    assert crowded(*saved_boxes(load_workflow(sample.name), ROOM)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [IN_NODES_2[0], *(pytest.param(name, marks=pytest.mark.long) for name in IN_NODES_2[1:])]
)
def test_after_a_run_in_nodes_2_nothing_lies_on_another(nodes_2, client, name):
    """Catches room that suffices in the older renderer alone, where test_workflows.py runs every sample."""
    client.free()  # what is cached shows nothing while it works
    nodes_2.load(load_workflow(name), template=True)
    assert nodes_2.run()[0] == "execution_success"
    assert_readable(nodes_2)
