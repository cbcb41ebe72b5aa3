"""The harness itself, on ComfyUI's own nodes: a harness that cannot see a failure proves nothing about the pack."""

import io

import pytest
from PIL import Image

from tools.comfyui.client import Refused


def picture(color: int = 0xFF0000, size: int = 32) -> dict:
    """EmptyImage -> ImageInvert -> PreviewImage."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": size, "height": size, "batch_size": 1, "color": color}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def test_a_graph_runs_and_its_image_can_be_fetched(client):
    result = client.run(picture())
    assert result.status == "success"
    image = Image.open(io.BytesIO(client.view(**result.images[0])))
    assert image.size == (32, 32) and image.getpixel((0, 0)) == (0, 255, 255)


def test_a_second_run_executes_only_what_changed(client):
    client.run(picture(color=0x00FF00))
    prompt = picture(color=0x00FF00)
    prompt["3"] = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "again"}}
    result = client.run(prompt)
    assert result.cached == {"1", "2"} and result.executed == ["3"]


def test_a_prompt_that_does_not_validate_is_refused_with_its_reason(client):
    prompt = picture(size=0)
    with pytest.raises(Refused) as refused:
        client.run(prompt)
    assert "1" in refused.value.node_errors


def test_an_error_in_a_node_is_reported(client):
    prompt = picture()
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": client.upload("broken.png", b"not an image")}}
    result = client.run(prompt)
    assert result.status == "error" and result.error["node_id"] == "1"


def test_interrupt_stops_the_run(client):
    """The chain is far slower than the request, and the host looks for an interrupt between any two nodes."""
    prompt = picture(color=0xABCDEF, size=1024)  # no other test's, so that nothing of the chain is cached
    for step in range(100, 140):
        source = ["1", 0] if step == 100 else [str(step - 1), 0]
        prompt[str(step)] = {"class_type": "ImageBlur", "inputs": {"image": source, "blur_radius": 15, "sigma": 1.0}}
    prompt["3"]["inputs"]["images"] = ["139", 0]

    def stop(kind, data):
        if kind == "executing" and data["node"] == "100":
            client.interrupt()

    result = client.run(prompt, on_event=stop)
    assert result.status == "interrupted" and "139" not in result.executed


def test_a_function_runs_inside_the_host(in_host):
    def look(module, word):
        import sys

        import nodes

        return [word, "KSampler" in nodes.NODE_CLASS_MAPPINGS, nodes.__file__.startswith(sys.path[0])]

    assert in_host(look, word="hello") == ["hello", True, True]


def test_a_failing_script_shows_the_hosts_own_words(in_host):
    with pytest.raises(RuntimeError, match="a sentence to find"):
        in_host("raise ValueError('a sentence to find')")
