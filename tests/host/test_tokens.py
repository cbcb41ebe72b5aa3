"""Image tokens spliced, compared and shown through ComfyUI."""

import io

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from tools.comfyui.graphs import node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]


def two_drafts(checkpoint: str = "tiny") -> dict:
    """The tokens of two seeds, without a render."""
    graph = text_to_image(checkpoint)
    other = {**graph["generate"], "inputs": {**graph["generate"]["inputs"], "seed": 6}}
    return {"load": graph["load"], "generate": graph["generate"], "other": other}


def codes(result, id: str) -> np.ndarray:
    """(B * T,) of a View Tokens node whose text is shown by the node `id`."""
    return np.array([int(line.split(",")[3]) for line in result.outputs[id]["text"][0].splitlines()[1:]])


def test_a_splice_takes_the_cells_of_the_mask(client):
    """Catches a mask that is turned or turned around, and a comparison that counts other cells."""
    graph = two_drafts() | {
        "black": node("SolidMask", value=0.0, width=50, height=50),
        "white": node("SolidMask", value=1.0, width=20, height=50),
        "mask": node("MaskComposite", destination=["black", 0], source=["white", 0], x=30, y=0, operation="add"),
        "splice": node("BLIP3oSpliceTokens", base=["generate", 0], other=["other", 0], mask=["mask", 0]),
        "same": node("BLIP3oCompareTokens", a=["generate", 0], b=["splice", 0]),
        "equal": node("PreviewAny", source=["same", 1]),
        "info": node("PreviewAny", source=["same", 2]),
    }
    for name in ("generate", "other", "splice"):
        graph[f"view {name}"] = node("BLIP3oViewTokens", tokens=[name, 0])
        graph[f"codes {name}"] = node("PreviewAny", source=[f"view {name}", 1])
    result = client.run(graph)
    assert result.status == "success", result.error
    base, other, spliced = (codes(result, f"codes {name}") for name in ("generate", "other", "splice"))
    right = np.arange(25) % 5 >= 3
    assert np.array_equal(spliced, np.where(right, other, base)) and not np.array_equal(base, other)
    equal = int((spliced == base).sum())
    assert float(result.outputs["equal"]["text"][0]) == pytest.approx(equal / 25)
    assert f"{equal} of 25 tokens are equal" in result.outputs["info"]["text"][0]
    assert "The colours are arbitrary" in result.outputs["view splice"]["blip3o_notes"][0]


def test_the_bundled_models_tokens_have_the_colours_of_the_image(client):
    """Catches tokens of the bundled model in arbitrary colours."""
    graph = two_drafts(NAME)
    graph["generate"]["inputs"]["prompt"] = "a red circle on a white background"
    graph["view"] = node("BLIP3oViewTokens", tokens=["generate", 0], cell_pixels=4)
    result = client.run(graph)
    assert result.outputs["view"]["blip3o_notes"] == []
    shown = Image.open(io.BytesIO(client.view(**result.outputs["view"]["images"][0]))).convert("RGB")
    red, green, blue = np.asarray(shown, np.float32).mean((0, 1))
    assert shown.size == (32, 32) and red > green and red > blue


def test_tokens_of_another_checkpoint_are_refused(client, other_checkpoint):
    """Catches codes of two codebooks in one image, which would be noise."""
    graph = two_drafts()
    graph["load2"] = text_to_image("other")["load"]
    graph["other"]["inputs"]["lm"] = ["load2", 0]
    graph["compare"] = node("BLIP3oCompareTokens", a=["generate", 0], b=["other", 0])
    graph["info"] = node("PreviewAny", source=["compare", 2])
    error = client.run(graph).error
    assert error["node_id"] == "compare" and "were written by different checkpoints" in error["exception_message"]
