"""The browser harness on ComfyUI's own nodes: the page opens, runs a graph, shows its picture and asks nobody else."""

import pytest
from PIL import Image

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "browser"}},
}


def test_the_frontend_runs_a_graph_and_shows_its_picture(frontend, tmp_path):
    frontend.load_prompt(GRAPH)
    workflow, prompt = frontend.save()
    assert workflow["version"] == 0.4
    assert sorted(node["class_type"] for node in prompt.values()) == ["EmptyImage", "SaveImage"]
    ended, events = frontend.run()
    assert ended == "execution_success" and ("executing", "2") in events
    assert frontend.shown_images()[0].startswith("browser")
    assert Image.open(frontend.screenshot(tmp_path / "page.png")).size == (1600, 900)
    assert frontend.foreign == []


def test_a_saved_workflow_opens_as_it_was(frontend):
    frontend.load_prompt(GRAPH)
    workflow, prompt = frontend.save()
    frontend.load(workflow)
    assert frontend.save()[1] == prompt


def test_a_graph_the_server_refuses_is_reported(frontend):
    refused = {**GRAPH, "1": {"class_type": "EmptyImage", "inputs": {**GRAPH["1"]["inputs"], "width": 0}}}
    frontend.load_prompt(refused)
    with pytest.raises(RuntimeError, match="did not queue"):
        frontend.run()
