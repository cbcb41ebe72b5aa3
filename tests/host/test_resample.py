"""Some tokens written again over HTTP: what changes, what stays, what runs, and what is refused."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import row_seeds
from blip3o_core.tokens.generate import Request
from blip3o_core.tokens.marks import parse_marks
from blip3o_core.tokens.resample import Anew, resample_tokens
from tools.comfyui.graphs import PROMPT, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]
SAMPLE = {"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0}
SHOWN = "blip3o_tokens"


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    return Pipeline.load(checkpoint)


def graph(marks="5x5: 6-8, 20", seed=40, batch=1, checkpoint="tiny", **more) -> dict:
    """Tokens, once as they were ("before") and once with marked cells written again ("again"), which are rendered."""
    made = text_to_image(checkpoint, batch=batch, steps=1)
    wires = {"lm": ["load", 0], "tokens": ["generate", 0], **SAMPLE}
    made["before"] = node("BLIP3oResampleTokens", **wires, marks="", seed=0)
    made["again"] = node("BLIP3oResampleTokens", **wires, marks=marks, seed=seed, **more)
    made["look"] = node("PreviewAny", source=["again", 2])
    made["keep"] = node("PreviewAny", source=["before", 2])
    made["seen"] = node("MaskToImage", mask=["again", 1])
    made["cells"] = node("PreviewImage", images=["seen", 0])
    made["condition"]["inputs"]["tokens"] = ["again", 0]
    return made


def codes(result, id: str = "again") -> torch.Tensor:
    assert result.status == "success", result.error
    return torch.tensor(result.outputs[id][SHOWN][0]["codes"])


def expected(pipeline, marks, seed, rows=1, **more) -> torch.Tensor:
    tokens = pipeline.generate_tokens([PROMPT] * rows, row_seeds(5, rows))
    anew = Anew(tokens, parse_marks(marks, (5, 5))[None], row_seeds(seed, rows), **more)
    return resample_tokens(pipeline.language, pipeline.encoder, anew).codes


def test_marked_cells_are_the_librarys_and_the_others_stay(client, server, pipeline):
    """Catches a cell beside the mark that changes, another seed or order of rows than the library's, and old states."""
    result = client.run(graph(batch=3))
    before, again = codes(result, "before"), codes(result)
    flat = parse_marks("5x5: 6-8, 20", (5, 5)).flatten()
    assert torch.equal(before, pipeline.generate_tokens([PROMPT] * 3, [5, 6, 7]).codes)
    assert torch.equal(again, expected(pipeline, "5x5: 6-8, 20", 40, rows=3))
    assert torch.equal(again[:, ~flat], before[:, ~flat]) and not torch.equal(again[:, flat], before[:, flat])
    cells = Image.open(io.BytesIO(client.view(**result.outputs["cells"]["images"][0])))
    assert np.array_equal(np.asarray(cells.convert("L")).flatten() > 0, flat.numpy())
    text = result.outputs["look"]["text"][0]
    assert "seed 40: 4 of 25 tokens written again" in text and text.endswith("cells: 6-8, 20")
    assert latents(server, result).shape[0] == 3


def test_a_mask_and_a_first_token_mark_too(client, pipeline):
    """Catches a mask that replaces the brush, is turned, or misses a cell it touches; and a resume one token late."""
    mask = np.zeros((200, 100), np.uint8)
    mask[199, 0] = 255
    data = io.BytesIO()
    Image.fromarray(mask).save(data, "PNG")
    made = graph(marks="5x5: 3", mask=["mask", 0], from_token=23)
    made["mask"] = node("LoadImageMask", image=client.upload("corner.png", data.getvalue()), channel="red")
    assert torch.equal(codes(client.run(made)), expected(pipeline, "5x5: 3, 20, 23-24", 40))


def test_another_prompt_and_guidance_for_the_marked_cells(client, pipeline):
    """Catches a prompt, a negative one or a strength that is dropped on the way."""
    made = graph(marks="5x5: 10-24", prompt="a blue boat", negative_prompt="a dog", token_guidance=3.0)
    request = Request(["a blue boat"], [0], "a dog")
    found = codes(client.run(made))
    more = {"request": request, "sampling": Sampling(guidance=3.0)}
    assert torch.equal(found, expected(pipeline, "5x5: 10-24", 40, **more))
    own = codes(client.run(graph(marks="5x5: 10-24", negative_prompt="a dog", token_guidance=3.0)))
    more["request"] = Request([PROMPT], [0], "a dog")
    assert torch.equal(own, expected(pipeline, "5x5: 10-24", 40, **more))


def test_nothing_marked_passes_the_tokens_on_and_says_so(client, server):
    """Catches tokens that lose their hidden states, so that the image differs, and a brush that is forgotten unseen."""
    result = client.run(graph(marks=""))
    assert "Nothing is marked" in result.outputs["again"]["blip3o_notes"][0]
    assert "all tokens are kept" in result.outputs["look"]["text"][0]
    assert torch.equal(latents(server, result), latents(server, client.run(text_to_image(steps=1))))


def test_only_what_changed_runs_again(client):
    """Catches tokens written again although nothing changed, and marks that do not reach the cache."""
    client.run(graph(seed=77))
    assert "again" in client.run(graph(seed=77)).cached
    other = client.run(graph(seed=77, marks="5x5: 1"))
    assert "again" in other.executed and "generate" in other.cached


def test_progress_preview_and_interrupt(client):
    """Catches a bar over the whole grid, no preview, and a run that cannot be stopped."""
    seen = []

    def note(kind, data):
        if kind == "progress_state" and "again" in data["nodes"]:
            seen.append((data["nodes"]["again"]["value"], data["nodes"]["again"]["max"]))

    result = client.run(graph(marks="5x5: 3-9", seed=91), on_event=note)
    assert seen[-1] == (7, 7)
    assert len([one for one in result.previews if one.metadata.get("node_id") == "again"]) == 2


@pytest.mark.long
def test_an_interrupt_stops_it(client, long_checkpoint):
    """Catches a run of many tokens that does not stop before its end."""
    started = threading.Event()

    def stop(kind, data):
        if kind == "progress_state" and data["nodes"].get("again", {}).get("value", 0) > 3 and not started.is_set():
            started.set()
            client.interrupt()

    result = client.run(graph(marks="50x50: 0-2499", checkpoint="long", seed=3), on_event=stop)
    assert started.is_set() and result.status == "interrupted"
    assert client.run(graph(seed=92)).status == "success"


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"marks": "all of it"}, "marks is 'all of it', which cannot be read"),
        ({"marks": "27x27: 3"}, "marks is for a grid of 27x27 tokens, but these tokens have 5x5"),
        ({"marks": "5x5: 25"}, "A grid of 5x5 has the cells 0 to 24"),
        ({"from_token": 26}, "from_token is 26. This grid has the tokens 0 to 24"),
    ],
)
def test_what_cannot_be_marked_is_named(client, changes, sentence):
    """Catches marks of another grid that are stretched, and a Python error in place of a sentence."""
    result = client.run(graph(**changes))
    assert result.status == "error" and sentence in result.error["exception_message"]


def test_too_many_masks(client):
    """Catches masks that are dropped because there are fewer images."""
    made = graph(batch=2, mask=["masks", 0])
    made["three"] = node("EmptyImage", width=5, height=5, batch_size=3, color=0xFFFFFF)
    made["masks"] = node("ImageToMask", image=["three", 0], channel="red")
    result = client.run(made)
    assert "one for each image" in result.error["exception_message"]


def test_the_page_gets_a_colour_for_each_code(client):
    """Catches a canvas without the mosaic, or with colours of another row."""
    shown = client.run(graph(checkpoint=NAME, marks="8x8: 1", batch=2)).outputs["again"][SHOWN][0]
    assert shown["grid"] == [8, 8] and shown["images"] == 2
    assert [len(row) for row in shown["codes"]] == [64, 64] and [len(row) for row in shown["colours"]] == [384, 384]


def test_an_edit_keeps_its_reference(client, edit_checkpoint):
    """Catches cells of an edit that are written without the image they change, and a prompt that drops it unseen."""
    from tests.host.test_edit import png
    from tools.comfyui.graphs import edit

    client.upload("start.png", png(Image.effect_noise((64, 64), 90).convert("RGB")))
    made = edit("start.png", steps=1)
    made["again"] = node(
        "BLIP3oResampleTokens", lm=["load", 0], tokens=["generate", 0], marks="5x5: 12-24", seed=5, **SAMPLE
    )
    made["before"] = node(
        "BLIP3oResampleTokens", lm=["load", 0], tokens=["generate", 0], marks="", seed=5, **SAMPLE
    )  # fmt: skip
    made["look"], made["keep"] = node("PreviewAny", source=["again", 2]), node("PreviewAny", source=["before", 2])
    made["condition"]["inputs"]["tokens"] = ["again", 0]
    result = client.run(made)
    assert torch.equal(codes(result), codes(result, "before"))  # the same seed, so the same tokens
    made["again"]["inputs"]["prompt"] = "make it red"
    assert "Connect the same reference" in client.run(made).error["exception_message"]
    made["again"]["inputs"]["reference"] = ["encode", 0]
    assert not torch.equal(codes(client.run(made)), codes(result))
