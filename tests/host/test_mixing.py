"""Our wires through ComfyUI's own nodes, on the bundled model: what they promise shows in the image."""

import io

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.judge.judge import detect
from tools.comfyui.graphs import SIDE, node


def prompts(rows: int, **texts: str) -> dict:
    """A graph with a generator and a conditioner ("c" and the name) for each text; row k has seed 1 + k."""
    graph = {"load": node("BLIP3oLoader", checkpoint=NAME, dtype="auto")}
    sampling = {"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0}
    for name, text in texts.items():
        graph[f"g{name}"] = node(
            "BLIP3oTokenGenerator", lm=["load", 0], prompt=text, seed=1, batch_size=rows, **sampling
        )
        graph[f"c{name}"] = node("BLIP3oHiddenStateConditioner", lm=["load", 0], tokens=[f"g{name}", 0])
    return graph


def drawn(client, graph: dict, width: int = SIDE, **positives) -> dict[str, list[np.ndarray]]:
    """The images that each positive conditioning gives, by name."""
    graph["empty"] = node("EmptyLatentImage", width=width, height=SIDE, batch_size=1)
    for name, positive in positives.items():
        graph[f"s{name}"] = node(
            "BLIP3oDiffusionSampler", model=["load", 1], positive=positive, negative=["ca", 1],
            latent_image=["empty", 0], noise_seed=1, steps=20, guidance=2.0, denoise=1.0,
        )  # fmt: skip
        graph[f"d{name}"] = node("VAEDecode", samples=[f"s{name}", 0], vae=["load", 2])
        graph[name] = node("SaveImage", images=[f"d{name}", 0], filename_prefix="mixed")
    result = client.run(graph, timeout=300)
    assert result.status == "success", result.error
    views = {name: [client.view(**image) for image in result.outputs[name]["images"]] for name in positives}
    return {
        name: [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in all] for name, all in views.items()
    }


def seen(image: np.ndarray) -> list[tuple]:
    return [(each.shape, each.colour) for each in detect(image).objects]


@pytest.mark.long
def test_two_prompts_in_two_areas(client):
    """Catches areas that cover another part of the image, and prompts that reach into each other's area."""
    graph = prompts(5, a="a red circle", b="a blue star")
    for name, x in ("a", 0.0), ("b", 0.5):
        graph[f"area_{name}"] = node(
            "ConditioningSetAreaPercentage", conditioning=[f"c{name}", 0], width=0.5, height=1.0, x=x, y=0.0,
            strength=1.0,
        )  # fmt: skip
    graph["both"] = node("ConditioningCombine", conditioning_1=["area_a", 0], conditioning_2=["area_b", 0])
    for image in drawn(client, graph, 2 * SIDE, result=["both", 0])["result"]:
        assert seen(image[:, :SIDE]) == [("circle", "red")] and seen(image[:, SIDE:]) == [("star", "blue")]


@pytest.mark.long
def test_one_prompt_for_the_beginning_and_another_for_the_end(client):
    """Catches ranges of steps that are not obeyed: half way this model still moves everything, near the end nothing."""
    graph = prompts(2, a="a red circle", b="a blue circle")
    for split in (50, 95):
        for name, begin, end in ("a", 0.0, split / 100), ("b", split / 100, 1.0):
            graph[f"{name}{split}"] = node(
                "ConditioningSetTimestepRange", conditioning=[f"c{name}", 0], start=begin, end=end
            )
        graph[f"both{split}"] = node(
            "ConditioningCombine", conditioning_1=[f"a{split}", 0], conditioning_2=[f"b{split}", 0]
        )
    found = drawn(client, graph, early=["both50", 0], late=["both95", 0])
    assert all(seen(image) == [("circle", "blue")] for image in found["early"])
    assert all(seen(image) == [("circle", "red")] for image in found["late"])


@pytest.mark.long
def test_an_average_goes_from_one_prompt_to_the_other(client):
    """Catches hidden states of another length, and a weight that is turned around."""
    graph = prompts(1, a="a red circle", b="a blue star")
    for name, weight in ("whole", 1.0), ("half", 0.5), ("none", 0.0):
        graph[f"average_{name}"] = node(
            "ConditioningAverage",
            conditioning_to=["ca", 0],
            conditioning_from=["cb", 0],
            conditioning_to_strength=weight,
        )
    wires = {name: [f"average_{name}", 0] for name in ("whole", "half", "none")}
    found = drawn(client, graph, **wires, a=["ca", 0], b=["cb", 0])
    assert np.array_equal(found["whole"], found["a"]) and np.array_equal(found["none"], found["b"])
    assert not np.array_equal(found["half"], found["a"]) and not np.array_equal(found["half"], found["b"])


def test_a_prompt_from_another_node(client):
    """Catches a prompt that cannot be a link, as nodes give that write or enhance prompts."""
    graph = prompts(1, a="a red circle", b="a red circle")
    graph["text"] = node("StringConcatenate", string_a="a red", string_b="circle", delimiter=" ")
    graph["gb"]["inputs"]["prompt"] = ["text", 0]
    found = drawn(client, graph, a=["ca", 0], b=["cb", 0])
    assert np.array_equal(found["a"], found["b"])
