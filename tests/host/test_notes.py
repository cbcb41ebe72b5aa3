"""What a run says on its nodes: words the bundled model does not know, sizes and photographs outside its world, batches
of equal images, half a reference; and how far the tokens are.
"""

import struct

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from tests.host.test_edit import png
from tools.comfyui.graphs import SIDE, edit, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]


@pytest.fixture
def told(client, monkeypatch):
    """Runs a graph; gives the texts that its nodes showed, in order, by node id: progress, then notes."""
    texts, read = {}, client._read

    def note(message):
        if isinstance(message, bytes) and message[:4] == struct.pack(">I", 3):
            length = int.from_bytes(message[4:8], "big")
            texts.setdefault(message[8 : 8 + length].decode(), []).append(message[8 + length :].decode())
        return read(message)

    monkeypatch.setattr(client, "_read", note)

    def run(graph):
        texts.clear()
        result = client.run(graph)
        assert result.status == "success"
        for id, output in result.outputs.items():
            texts.setdefault(id, []).extend(output.get("blip3o_notes", []))
        return {id: shown for id, shown in texts.items() if shown}

    return run


def small(checkpoint=NAME, **changes) -> dict:
    return text_to_image(checkpoint, **{"size": (SIDE, SIDE), "steps": 1, "prompt": "a red circle"} | changes)


def test_words_that_the_bundled_model_does_not_know(told, client):
    """Catches an empty grey image without a word, and the words of the world taken for unknown."""
    graph = small(prompt="a photo of a cat and a red circle, seed 1")
    graph["info"] = node("PreviewAny", source=["generate", 1])
    note = told(graph)["generate"][-1]
    assert "It does not know: photo, cat, seed. For photographs choose" in note
    assert "not know" not in str(told(small(prompt='the word "HI" in red'))["generate"])
    assert "not know" not in str(told(text_to_image(prompt="a photo of a cat", seed=77))["generate"])


def test_progress_says_how_fast_and_how_long(told):
    """Catches a wait that shows per cent only, and a text for every token."""
    texts = told(small(seed=123))["generate"]
    assert texts[-1].startswith("Tokens 64/64, ") and texts[-1].endswith("/s, 0 s left") and len(texts) < 40


def test_a_size_far_from_the_trained_one(told):
    """Catches texture in place of shapes, without a reason."""
    said = f"trained at {SIDE}x{SIDE} pixels, and this image has 512x256"
    assert said in told(small(size=(512, 256)))["sample"][-1]
    assert "sample" not in told(small(size=(SIDE * 3 // 2, SIDE), noise_seed=4))


def test_four_latents_for_one_row_of_tokens(told):
    """Catches the batch that users set where they always do, and four images that are all but equal."""
    graph = small("tiny", size=(128, 128))
    graph["empty"]["inputs"]["batch_size"] = 4
    assert "set batch_size of BLIP3o Token Generator to 4" in told(graph)["sample"][-1]


def test_a_photograph_and_half_a_reference(told, client):
    """Catches an edit of a photograph by a model of shapes, and a reference that reaches one node of two."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    client.upload("busy.png", png(Image.fromarray(noise)))
    graph = edit("busy.png", checkpoint=NAME, instruction="make the circle red", steps=1)
    texts = told(graph)
    assert "Reference image 1 looks like a photograph" in texts["encode"][-1] and "condition" not in texts
    del graph["condition"]["inputs"]["reference"]
    assert "connected to BLIP3o Token Generator, but not to this node" in told(graph)["condition"][-1]


def test_notes_of_a_result_from_the_cache(told):
    """Catches a workflow that is opened again, runs from the cache, and shows a grey square without its reason."""
    graph = small(prompt="a photo of a dog", seed=9)
    first = told(graph)
    again = told(graph)
    assert "It does not know: photo, dog." in first["generate"][-1] == again["generate"][-1]
