"""Prompts that no page of ComfyUI would send, posted to a real server: it answers in words and draws the next one.

A body is a working graph with one input changed. Numbers come over a link, too, where ComfyUI does not check them.
"""

import copy
import functools
import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass

import pytest
import requests

from blip3o_core.checkpoint.bundled import NAME
from tests.host.test_edit import picture, png
from tools.comfyui.graphs import edit, node, text_to_image, with_custom_sampler, with_ksampler

pytestmark = pytest.mark.host
MISSING, SIZE = object(), (64, 64)
FINE = "^$"  # the image is made


@dataclass(frozen=True)
class Body:
    """`where`: "node.input" of the graph `base`. `says`: a regular expression for the answer. `more`: nodes to add."""

    where: str
    value: object
    says: str
    base: str = "plain"
    more: tuple = ()

    def __str__(self) -> str:
        shown = "missing" if self.value is MISSING else ascii(self.value)[:40]
        return f"{self.base} {self.where}={shown}"


@functools.cache
def graphs() -> dict[str, dict]:
    """The working graphs by name. "a.png" is in the input folder."""
    plain = text_to_image(NAME, SIZE, steps=2, prompt="a red circle")
    edited = edit("a.png", checkpoint=NAME, mask=["mask", 0], steps=2)
    edited["mask"] = node("SolidMask", value=1.0, width=64, height=64)
    found = {
        "plain": plain,
        "sigmas": with_custom_sampler(copy.deepcopy(plain), 2),
        "ksampler": with_ksampler(copy.deepcopy(plain), 2),
        "edit": edited,
    }
    for graph in found.values():
        del graph["latents"]
    return found


def graph_of(body: Body) -> dict:
    graph = copy.deepcopy(graphs()[body.base]) | dict(body.more)
    owner, _, name = body.where.partition(".")
    graph[owner]["inputs"].pop(name, None)
    if body.value is not MISSING:
        graph[owner]["inputs"][name] = body.value
    return graph


def linked(where: str, value: int | float, says: str, base: str = "plain") -> Body:
    """A number over a link."""
    kind = "PrimitiveInt" if isinstance(value, int) else "PrimitiveFloat"
    return Body(where, ["number", 0], says, base, (("number", node(kind, value=value)),))


def made(where: str, class_type: str, says: str, base: str = "plain", **inputs) -> Body:
    """What another node makes."""
    return Body(where, ["other", 0], says, base, (("other", node(class_type, **inputs)),))


def ids(bodies) -> list[str]:
    """A name for each; those with a node of their own are told apart by it."""
    return [f"{body} {json.dumps([n['inputs'] for _, n in body.more])[:60] if body.more else ''}" for body in bodies]


WIRES = {
    "plain generate.lm": ("a language model", "BLIP3o Loader"),
    "plain condition.lm": ("a language model", "BLIP3o Loader"),
    "plain condition.tokens": ("image tokens", "BLIP3o Token Generator"),
    "plain sample.model": ("a diffusion model", "BLIP3o Loader"),
    "plain sample.positive": ("conditioning", "BLIP3o Hidden-State Conditioner"),
    "plain sample.negative": ("conditioning", "BLIP3o Hidden-State Conditioner"),
    "plain sample.latent_image": ("a latent", "Empty Latent Image"),
    "edit encode.image_tokenizer": ("an image tokenizer", "BLIP3o Image Tokenizer Loader"),
    "edit encode.vae": ("a VAE", "BLIP3o Loader"),
    "edit encode.images.image_1": ("an image", "Load Image"),
    "edit encode.mask": ("a mask", "Load Image"),
    "edit generate.reference": ("a reference", "BLIP3o Edit-Reference Encoder"),
    "edit condition.reference": ("a reference", "BLIP3o Edit-Reference Encoder"),
    "edit whole.original": ("an image", "Load Image"),
    "edit whole.edited": ("an image", "VAE Decode"),
    "edit whole.mask": ("a mask", "Load Image"),
}
NOT_ON_A_WIRE = [("the number 5", 5), ("the text 'x'", "x"), ("a dictionary with nothing in it", {})]
MAY_BE_EMPTY = {"encode.mask", "encode.image_tokenizer", "encode.images.image_1"}
MAY_BE_EMPTY |= {"generate.reference", "condition.reference"}


def wrong_wires() -> list[Body]:
    found = []
    for k, (place, (what, source)) in enumerate(WIRES.items()):
        base, where = place.split()
        name = re.escape(where.partition(".")[2])
        for shown, value in (NOT_ON_A_WIRE[k % 3], ("empty", None)):
            if value is not None or where not in MAY_BE_EMPTY:
                says = f"^{name} is {shown}, but it must be {what}. Connect .*{source}"
                found.append(Body(where, value, says, base))
    return found


NO_SAMPLING = "sampling is missing, or not one of its options. Choose 'sample' or 'greedy'.*sampling.top_k"
NO_INPUT = "BLIP3o Edit-Reference Encoder has no input 'images.{}'.*images.image_1 to images.image_8"
NO_FOLDER = "Cannot find the folder|does not contain a checkpoint"
LINES = "red circle\n"
ONE_PER_LINE = {"prompt_lines": "one per line"}


def with_lines(count: int, copies: int) -> Body:
    inputs = {**graphs()["plain"]["generate"]["inputs"], **ONE_PER_LINE, "prompt": LINES * count}
    says = f"{count} prompts with batch_size {copies} are {count * copies} images, but at most 64"
    return Body("generate.batch_size", copies, says, more=(("generate", node("BLIP3oTokenGenerator", **inputs)),))


def latent(says: str, base: str = "plain", class_type: str = "EmptyLatentImage", **inputs) -> Body:
    return made("sample.latent_image", class_type, says, base, **{"batch_size": 1, **inputs})


SAMPLE = [
    Body("generate.lm", None, "^lm is empty, but it must be a language model. Connect the lm output of BLIP3o Loader"),
    Body("condition.tokens", 5, "^tokens is the number 5, but it must be image tokens"),
    Body("sample.latent_image", {}, "^latent_image is a dictionary with nothing in it, but it must be a latent"),
    Body("sample.positive", "x", "^positive is the text 'x', but it must be conditioning"),
    Body("encode.images.image_1", 5, "^images.image_1 is the number 5, but it must be an image", "edit"),
    Body("encode.images.image_9", ["image1", 0], NO_INPUT.format("image_9"), "edit"),
    Body("generate.sampling", "beam", NO_SAMPLING),
    Body("generate.sampling", {"sampling": "sample", "top_k": 5}, NO_SAMPLING),
    Body("sample.guidance", math.nan, "^guidance is the number nan. It must be a number from 0.0 to 30.0"),
    linked("sample.steps", 10**9, "^steps is the number 1000000000. It must be a whole number from 1 to 1000"),
    linked("generate.batch_size", 65, "^batch_size is the number 65. It must be a whole number from 1 to 64"),
    Body("generate.prompt", " ", "The prompt is ' '. Describe the image in words"),
    Body("generate.prompt", 5, FINE),
    with_lines(70, 1),
    latent("The size is 16x16384. The longer side may be at most 64 times", width=16, height=16384),
    latent("The size is 16x16384. The longer side may be at most 64 times", "ksampler", width=16, height=16384),
    latent("needs about .* GB of memory, and .* are free on cpu. Choose a smaller", width=16384, height=16384),
    Body("load.checkpoint", "../tiny", NO_FOLDER),
    Body("load.checkpoint", None, "checkpoint"),
]
SLOW = [
    *wrong_wires(),
    *(Body("generate.sampling", value, NO_SAMPLING) for value in ("", None, 5, {}, ["load", 0], MISSING)),
    *(Body(f"encode.images.{name}", ["image1", 0], NO_INPUT.format(name), "edit")
      for name in ("image_0", "image_-1", "image_x", "evil", "image_1.x")),
    Body("sample.evil", ["load", 0], "BLIP3o Diffusion Sampler has no input 'evil'. Its inputs are: model, positive"),
    Body("sample.evil", 5, FINE),  # ComfyUI leaves out what a node does not know
    Body("encode.images.image_1", None, "0 reference images are connected", "edit"),
    Body("encode.image_tokenizer", None, "has no image tokenizer", "edit"),
    Body("encode.mask", None, FINE, "edit"),
    Body("generate.reference", None, FINE, "edit"),
    # Numbers that are none, written out: ComfyUI compares them with the limits, and NaN passes.
    *(Body(f"{place}", math.nan, f"^{place.partition('.')[2]} is the number nan. It must be a number from")
      for place in ("generate.sampling.top_p", "generate.sampling.temperature", "generate.token_guidance",
                    "condition.text_strength", "condition.cross_strength", "condition.noise_strength",
                    "sample.denoise")),
    Body("sigmas.shift", math.nan, "^shift is the number nan", "sigmas"),
    Body("sigmas.denoise", "nan", "^denoise is the number nan", "sigmas"),
    # Over a link, where nobody compares them.
    linked("generate.seed", -1, "^seed is the number -1. It must be a whole number from 0 to 18446744073709551615"),
    linked("sample.noise_seed", -(2**62), "^noise_seed is the number -4611686018427387904"),
    linked("generate.batch_size", 0, "^batch_size is the number 0"),
    linked("generate.batch_size", 2**62, "^batch_size is the number 4611686018427387904"),
    linked("generate.sampling.top_k", -1, "^sampling.top_k is the number -1. It must be a whole number from 0"),
    linked("generate.sampling.top_p", 0.0, "^sampling.top_p is the number 0.0. It must be a number from 0.01 to 1.0"),
    linked("generate.sampling.temperature", 1e18, "^sampling.temperature is the number 1e.18"),
    linked("generate.token_guidance", 1e9, "^token_guidance is the number 1000000000.0. It must be a number from 1.0"),
    linked("condition.text_strength", -0.5, "^text_strength is the number -0.5"),
    linked("condition.cross_strength", 10.5, "^cross_strength is the number 10.5"),
    linked("sample.steps", 0, "^steps is the number 0"),
    linked("sample.guidance", -1.0, "^guidance is the number -1.0"),
    linked("sample.denoise", 0.0, "^denoise is the number 0.0"),
    linked("sample.denoise", 1.5, "^denoise is the number 1.5"),
    linked("sigmas.steps", 2**40, "^steps is the number 1099511627776", "sigmas"),
    linked("sigmas.shift", 1e12, "^shift is the number 1000000000000.0", "sigmas"),
    linked("encode.resolution", 2**40, "^resolution is the number 1099511627776", "edit"),
    linked("encode.resolution", 7, "^resolution is 7. It must be a multiple of 16", "edit"),
    linked("whole.feather", -1, "^feather is the number -1", "edit"),
    linked("whole.feather", 2**62, "^feather is the number 4611686018427387904", "edit"),
    # What ComfyUI itself refuses.
    Body("sample.steps", 0, "smaller than min"),
    Body("sample.steps", 2**70, "bigger than max"),
    Body("sample.steps", "many", "Failed to convert"),
    Body("generate.batch_size", 65, "bigger than max"),
    Body("generate.seed", -1, "smaller than min"),
    Body("sample.guidance", math.inf, "bigger than max"),
    Body("sample.guidance", None, "Failed to convert"),
    Body("generate.vocabulary", "evil", "not in list"),
    Body("condition.reference_mode", 5, "not in list"),
    Body("load.dtype", "fp64", "not in list"),
    Body("load.dtype", ["load", 0], "type mismatch"),
    Body("generate.sampling.top_k", MISSING, "Required input is missing"),
    Body("sample.model", MISSING, "Required input is missing"),
    Body("sample.model", ["load", 0], "type mismatch"),
    Body("condition.lm", ["load", 1], "type mismatch"),
    Body("generate.lm", ["load"], "length-2"),
    # Names that are no folders.
    *(Body("load.checkpoint", name, NO_FOLDER) for name in ("/etc", "..", "absent", "tiny\0", "x/" * 2500, "../" * 50)),
    Body("load.checkpoint", "\ud800", NO_FOLDER),
    Body("load.checkpoint", "x" * 5000, NO_FOLDER),
    Body("load.diffusion_folder", "/etc", "Cannot find the diffusion folder '/etc'.* choose 'auto'"),
    # Prompts.
    Body("generate.prompt", "", "The prompt is ''. Describe the image in words"),
    Body("generate.prompt", "\n\n\n", "Describe the image in words"),
    Body("generate.prompt", "red \ud800", "half a character"),
    Body("generate.prompt", "red " * 5000, "20,000 characters. This model takes 512 tokens"),
    Body("generate.prompt", "red " * 1000, "tokens long; this model takes at most 512"),
    Body("generate.prompt", "a" + " " * 10_100_000 + "b", "10,100,002 characters"),
    Body("generate.prompt", {"a": 1}, FINE),  # ComfyUI makes text of it
    Body("generate.prompt", "a\0b {a|b} __x__ <|im_end|>", FINE),
    with_lines(1100, 1),
    with_lines(2000, 1),
    with_lines(17, 64),
    with_lines(2, 33),
    # Latents of other models and sizes, and parts that do not belong.
    latent("The size is 16384x16", width=16384, height=16),
    latent("The size is 16384x16", "ksampler", width=16384, height=16),
    latent("The size is 16384x16", "sigmas", width=16384, height=16),
    latent("GB of memory", "ksampler", width=16384, height=16384),
    latent("shape .1, 16, 2, 8, 8.", class_type="EmptyHunyuanLatentVideo", width=64, height=64, length=5),
    latent("shape .1, 64, 108.", class_type="EmptyLatentAudio", seconds=5.0),
    latent(FINE, class_type="EmptySD3LatentImage", width=64, height=64),
    made("sample.model", "ModelSamplingDiscrete", "no flow shift", model=["load", 1], sampling="eps", zsnr=False),
    made("sample.positive", "ConditioningSetArea", "an area in cells of 8 pixels, but a cell of this model has 16",
         conditioning=["condition", 0], width=64, height=64, x=8192, y=0, strength=1.0),
    made("sample.positive", "ConditioningSetAreaPercentage", "begins at 100% of the image's width",
         conditioning=["condition", 0], width=0.5, height=0.5, x=1.0, y=0.0, strength=1.0),
    made("encode.vae", "VAELoader", "VAE", "edit", vae_name="pixel_space"),
    made("encode.images.image_1", "EmptyImage", "1 to 8", "edit", width=64, height=64, batch_size=9, color=0),
    made("whole.original", "EmptyImage", "aspect ratio", "edit", width=640, height=64, batch_size=1, color=0),
    made("whole.mask", "SolidMask", "The mask is 65x64", "edit", value=1.0, width=65, height=64),
    made("encode.mask", "SolidMask", "The mask is empty", "edit", value=0.0, width=64, height=64),
]  # fmt: skip
BODIES = [*SAMPLE, *(pytest.param(body, marks=pytest.mark.slow) for body in SLOW)]


@pytest.fixture(scope="module")
def healthy(server):
    """Draws one of two images, by turns, so that it is never a cached one; says whether it is as it was at first."""
    with server.client() as client:
        client.upload("a.png", png(picture(SIZE)))
        seen, turns = {}, itertools.count()

        def draws() -> bool:
            seed = next(turns) % 2
            graph = copy.deepcopy(graphs()["plain"])
            graph["generate"]["inputs"]["seed"] = seed
            result = client.run(graph, timeout=60)
            assert result.status == "success", result.error
            found = hashlib.sha256(client.view(**result.images[0])).hexdigest()
            return seen.setdefault(seed, found) == found

        assert draws() and draws()
        yield draws


def answer(client, graph: dict) -> str:
    """What the server says to a prompt: its refusal, or the error that ended the run. Empty: the image is made."""
    body = json.dumps({"prompt": graph, "client_id": client.id})  # may hold NaN
    said = requests.post(f"http://{client.address}/prompt", data=body, timeout=60)
    if said.status_code == 400:
        errors = [error for each in said.json()["node_errors"].values() for error in each["errors"]]
        return "; ".join(f"{error['message']}: {error['details']}" for error in errors)
    said.raise_for_status()
    result = client.wait(said.json()["prompt_id"], 60)
    if result.status == "success":
        return ""
    kind = result.error["exception_type"]
    assert kind.endswith("Blip3oError"), f"{kind}: {result.error['exception_message']}"
    return result.error["exception_message"].strip()


@pytest.mark.parametrize("body", BODIES, ids=ids([*SAMPLE, *SLOW]))
def test_a_body_is_answered_in_words_and_the_next_prompt_is_right(client, healthy, body):
    """Catches an AttributeError for a wrong wire, numbers that nobody compared, and a server that dies of them."""
    said = answer(client, graph_of(body))
    assert re.search(body.says, said, re.S), said
    assert len(said) < 7000
    assert healthy()
