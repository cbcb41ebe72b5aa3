"""The one-click nodes: the image of the graph that they stand for, and only what changed is run again."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from tests.host.test_edit import picture, png
from tools.comfyui.graphs import PROMPT, edit, node, text_to_image

pytestmark = [pytest.mark.usefixtures("edit_checkpoint", "checkpoint")]


def pixels(client, result):
    assert result.status == "success", result.error
    return [np.asarray(Image.open(io.BytesIO(client.view(**image)))).tolist() for image in result.images]


def one_click(**changes):
    values = {"checkpoint": "tiny", "prompt": PROMPT, "seed": 5, "noise_seed": 11, "width": 128, "height": 64,
              "steps": 4, "guidance": 2.0, "batch_size": 2}  # fmt: skip
    return {
        "one": node("BLIP3oTextToImage", **values | changes),
        "save": node("SaveImage", images=["one", 0], filename_prefix="one"),
    }


def edit_in_one(mask=None, **changes):
    values = {"checkpoint": "edit", "image": ["image1", 0], "image_2": ["image2", 0], "instruction": "make it blue",
              "seed": 5, "noise_seed": 11, "steps": 4, "guidance": 2.0}  # fmt: skip
    values |= {"mask": mask} if mask else {}
    return {
        "image1": node("LoadImage", image="wide.png"), "image2": node("LoadImage", image="tall.png"),
        "one": node("BLIP3oImageEdit", **values | changes),
        "save": node("SaveImage", images=["one", 0], filename_prefix="one"),
    }  # fmt: skip


def ran(result):
    """The inner nodes that were run."""
    return {id.rpartition(".")[2] for id in result.executed if "." in id}


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    with server.client() as client:
        hole = np.full((90, 160), 255, np.uint8)
        hole[20:60, 30:90] = 0  # the host's mask is 1 where alpha is 0
        client.upload("wide.png", png(Image.fromarray(np.dstack([np.asarray(picture((160, 90))), hole]))))
        client.upload("tall.png", png(picture((50, 120), 1)))


def test_text_to_image_is_the_graph_it_stands_for(client):
    """Catches another default, size or seed than on the nodes it stands for. Equal to the bit."""
    whole = client.run(text_to_image(size=(128, 64), batch=2))
    made = client.run(one_click())
    assert pixels(client, made) == pixels(client, whole)
    assert all(preview.metadata["display_node_id"] == "one" for preview in made.previews) and made.previews


def test_only_what_changed_is_run_again(client):
    """Catches a node that writes its tokens or loads its model again for another rendering."""
    first = client.run(one_click(seed=6))
    assert {"generate", "condition", "sample", "decode"} <= ran(first)
    assert ran(client.run(one_click(seed=6, noise_seed=12))) == {"sample", "decode"}
    assert ran(client.run(one_click(seed=6, noise_seed=12, width=64))) == {"empty", "sample", "decode"}
    assert "load" not in ran(client.run(one_click(seed=7)))
    assert ran(client.run(one_click(seed=7))) == set()


def test_a_size_of_zero_is_the_checkpoints(client):
    """Catches an image of ComfyUI's default size, at which a model shows fragments."""
    trained = pixels(client, client.run(one_click(width=0, height=0, batch_size=1)))
    assert np.shape(trained) == (1, 64, 64, 3)
    assert np.shape(pixels(client, client.run(one_click(width=0, height=128, batch_size=1)))) == (1, 128, 64, 3)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_an_edit_is_the_graph_it_stands_for(client, masked):
    """Catches a reference that reaches one node of two, an image that is lost, and a mask that moves other pixels."""
    mask = ["image1", 1] if masked else None
    whole = client.run(edit("wide.png", "tall.png", mask=mask))
    again = edit_in_one(mask)
    assert pixels(client, client.run(again)) == pixels(client, whole)
    again["one"]["inputs"]["noise_seed"] = 12
    assert ran(client.run(again)) == {"sample", "decode", *(["masked"] if masked else [])}


def test_errors_and_notes_are_the_nodes(client, monkeypatch):
    """Catches a failure inside that names a node which is not on the page, or shows nothing."""
    empty = client.run(one_click(prompt=" "))
    assert empty.status == "error" and empty.error["node_id"] == "one"
    assert "Describe the image in words" in empty.error["exception_message"]
    gone = client.run(one_click(checkpoint="gone"))
    assert gone.error["node_id"] == "one" and "gone" in gone.error["exception_message"]
    texts, read = [], client._read

    def note(message):
        if isinstance(message, bytes) and message[:4] == struct.pack(">I", 3):
            texts.append(message[8 : 8 + int.from_bytes(message[4:8], "big")].decode())
        return read(message)

    monkeypatch.setattr(client, "_read", note)
    told = client.run(one_click(checkpoint=NAME, prompt="a photo of a cat", width=64, batch_size=1))
    assert texts and set(texts) == {"one"}
    said = [data["output"]["blip3o_notes"] for kind, data in told.events
            if kind == "executed" and data["display_node"] == "one"]  # fmt: skip
    assert "It does not know: photo, cat" in str(said)
