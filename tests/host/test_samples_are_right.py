"""Every sample for the bundled model makes the right image with five seeds, as the judge of its world sees it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from blip3o_core.tiny.judge.judge import detect, judge_image
from blip3o_core.tiny.scenes.caption_reader import read_caption
from blip3o_core.tiny.scenes.spec import Detected, Expected, Spec
from tools.comfyui.graphs import SIDE, node
from tools.comfyui.server import PACK_FOLDER
from tools.comfyui.workflow import WORKFLOWS, load_api
from tools.samples import SAMPLES
from tools.samples.edits import MASKED_EDIT
from tools.samples.mixing import SURFACE
from tools.samples.parts import (
    BRUSHED,
    COMPOSED,
    EDIT,
    RING,
    START,
    TEXTURED,
    TO_BRUSH,
    TO_COMPOSE,
    TO_EDIT,
    TO_KEEP,
    TO_WIDEN,
    WORD,
)

SEEDS = range(1, 6)
MEASURES = "BLIP3o-21-Evaluate-Prompts"  # it promises scores, of wrong images, too: test_evaluation_nodes.py
TINY = [sample.name for sample in SAMPLES if sample.name != MEASURES]
STAR = read_caption(START)
GREEN = Spec((Expected("circle", "red"), Expected("square", "green")), "yellow", (0, "left of", 1))
SQUARE = Spec((Expected("circle", "red"), Expected("square", "blue")), "grey", (0, "left of", 1))
YELLOW_RING = read_caption(RING)
SPLICED = Spec((Expected("circle", "red"), Expected("ring", "purple")), "grey", (0, "left of", 1))
EDITED = Spec(SQUARE.objects, "yellow", SQUARE.relation)
MASKED = Spec((Expected("circle", "red"), Expected("square", "green")), "yellow", (0, "left of", 1), texture="checks")
SURFACES = read_caption(SURFACE)
# What a sample without an encoder of its own shows, square images from left to right, one after the other.
PROMISED = {
    "BLIP3o-1-Text-to-Image": [STAR],
    "BLIP3o-2-Quick-Preview": [STAR],
    "BLIP3o-10-Choose-a-Draft": [STAR],
    "BLIP3o-11-Splice-Two-Drafts": [SPLICED],
    "BLIP3o-12-Compare-Two-Drafts": [STAR, read_caption(START.replace("star", "square"))],
    "BLIP3o-13-Save-and-Load-Tokens": [read_caption(WORD)],
    "BLIP3o-14-One-Click": [replace(SURFACES, background="green")],
    "BLIP3o-15-Two-Prompts-in-One-Image": [
        Spec((Expected("circle", "red"),), "grey"), Spec((Expected("star", "blue"),), "grey")
    ],
    "BLIP3o-16-Second-Pass": [SURFACES],
    "BLIP3o-19-Train-a-LoRA-by-Reward": [YELLOW_RING],
    "BLIP3o-20-From-a-Folder-to-a-LoRA": [Spec(YELLOW_RING.objects[:1], "black")],
    "BLIP3o-18-Best-of-Eight": [Spec((Expected("star", "green"),) * 4, "yellow")],
    "BLIP3o-17-A-Folder-of-Images": [
        EDITED, Spec((Expected("star", "green"),), "yellow"), Spec((Expected("triangle", "purple"),), "yellow")
    ],
}  # fmt: skip
FIRST = 1  # samples that every run of the tests judges over all seeds; the others cost it one seed each
# What takes longest: test_one_click and test_scores compare what their nodes make, test_workflows edits a folder.
LONG = {sample.name for sample in SAMPLES if sample.trains} | {
    "BLIP3o-14-One-Click", "BLIP3o-17-A-Folder-of-Images", "BLIP3o-18-Best-of-Eight"
}  # fmt: skip


# What the others edit or brush; where nothing stands here, it is TO_EDIT.
BEFORE = {
    "Masked-Edit": TEXTURED, "Two-References": TO_COMPOSE, "Wide-Edit": TO_WIDEN, "Keep-Unchanged": TO_KEEP,
    "Brush-Tokens": TO_BRUSH,
}  # fmt: skip


def with_seed(prompt: dict, seed: int) -> dict:
    for part in prompt.values():
        for name in ("seed", "noise_seed"):
            if name in part["inputs"]:
                part["inputs"][name] = seed
    return prompt


def images(client, prompt: dict) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the sample saves, and what it edits or brushes, each before it is enlarged: (H, W, 3) uint8."""
    [saved] = [part["inputs"]["images"] for part in prompt.values() if part["class_type"] == "SaveImage"]
    starts = [
        value for part in prompt.values() if part["class_type"] == "BLIP3oEditReferenceEncoder"
        for name, value in part["inputs"].items() if name.startswith("images.")
    ]  # fmt: skip
    if any(part["class_type"] == "BLIP3oResampleTokens" for part in prompt.values()):
        [seen] = [part["inputs"]["images"] for part in prompt.values() if part["class_type"] == "PreviewImage"]
        starts = [prompt[seen[0]]["inputs"]["image"]]
    prompt["result"] = node("SaveImage", images=prompt[saved[0]]["inputs"]["image"], filename_prefix="result")
    for number, start in enumerate(starts):
        prompt[f"start {number}"] = node("SaveImage", images=start, filename_prefix="start")
    done = client.run(prompt, timeout=300)
    assert done.status == "success", done.error

    def opened(id: str) -> list[np.ndarray]:
        files = (client.view(**image) for image in done.outputs[id]["images"])
        return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]

    return opened("result"), [opened(f"start {number}")[0] for number in range(len(starts))]


def at_its_place(found: Detected, colour: str | None = None) -> Expected:
    return Expected(found.shape, colour or found.colour, None, (found.x, found.y))


def the(shape: str, image: np.ndarray) -> Detected:
    [found] = [each for each in detect(image).objects if each.shape == shape]
    return found


def wrong(name: str, results: list[np.ndarray], starts: list[np.ndarray]) -> tuple[str, ...]:
    """What the judge finds wrong in a sample's images."""
    if name in PROMISED:
        parts = [part for image in results for part in pieces(image)]
        found = [judge_image(part, spec).reasons for part, spec in zip(parts, PROMISED[name], strict=True)]
        return tuple(reason for reasons in found for reason in reasons)
    [result], start = results, starts[0]
    before = read_caption(BEFORE.get(name.split("-", 2)[2], TO_EDIT).partition("\n")[0])
    reasons = judge_image(start, before).reasons
    if reasons:
        return reasons  # where its objects are is not known
    objects = tuple(at_its_place(each) for each in detect(start, canvas=before.canvas).objects)
    expected = Spec(objects, "yellow", canvas=before.canvas)
    if "Brush" in name:
        expected = Spec((at_its_place(the("circle", start)), GREEN.objects[1]), "yellow", GREEN.relation)
    elif "Keep" in name:
        result, expected = result[:, -start.shape[1] :], replace(expected, background="grey")
    elif "Masked" in name:
        changed = at_its_place(the("circle", start)), at_its_place(the("square", start), "green")
        expected = replace(expected, objects=changed, texture=MASKED.texture)
    elif "Two" in name:
        reasons = judge_image(starts[1], read_caption(TO_COMPOSE.partition("\n")[2])).reasons
        if reasons:
            return reasons
        expected = Spec((at_its_place(the("circle", start)), at_its_place(the("star", starts[1]))), "yellow")
    return judge_image(result, expected).reasons


def pieces(image: np.ndarray) -> list[np.ndarray]:
    """The squares next to each other in an image of the bundled model."""
    side = image.shape[0]
    return [image] if image.shape[1] == side else [image[:, :side], image[:, -side:]]


def judged(client, name: str, seeds) -> dict[int, tuple[str, ...]]:
    """What is wrong in a sample's images, by seed."""
    [sample] = [one for one in SAMPLES if one.name == name]
    found = {}
    for seed in seeds:
        prompt = with_seed(load_api(name), seed)
        for id, values in sample.answers.items():
            prompt[id]["inputs"] |= values
        found[seed] = wrong(name, *images(client, prompt))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY[:FIRST])
def test_the_judge_finds_every_image_right(client, name):
    """Catches a sample that shows another image than it promises, with its own seed or with the next ones."""
    assert (START, TO_EDIT, EDIT, BRUSHED, COMPOSED, MASKED_EDIT) == (
        "a red circle right of a blue star", "a red circle left of a blue square", "make the background yellow",
        "a red circle left of a green square on a yellow background",
        "the circle of image 1 and the star of image 2 on a yellow background", "change the blue square to green",
    )  # fmt: skip
    found = judged(client, name, SEEDS)
    assert not any(found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in TINY[FIRST:]]
)
def test_the_other_samples_are_right_with_their_own_seed(client, name):
    """Catches a sample that shows another image than it promises."""
    found = judged(client, name, [1])
    assert not any(found.values()), found


@pytest.mark.long
@pytest.mark.parametrize("name", TINY[FIRST:])
def test_the_other_samples_are_right_with_the_next_seeds(client, name):
    """Catches a sample that is right with the seed it is saved with, and with few others."""
    found = judged(client, name, SEEDS[1:])
    assert not any(found.values()), found


def thumbnail_of(name: str) -> Spec:
    """What is on the right of a sample's thumbnail. Textures are too fine for it."""
    if name in PROMISED:
        return plain(PROMISED[name][-1])
    special = {"Brush-Tokens": GREEN, "Keep-Unchanged": SQUARE, "Masked-Edit": MASKED, "Two-References": STAR}
    spec = plain(special.get(name.split("-", 2)[2], EDITED))
    wide = {"canvas": read_caption(TO_WIDEN).canvas} if "Wide" in name else {}
    composed = {"background": "yellow", "relation": None} if "Two" in name else {}
    return replace(spec, **wide, **composed)


def plain(spec: Spec) -> Spec:
    return replace(spec, texture=None, objects=tuple(replace(each, texture=None) for each in spec.objects))


@pytest.mark.parametrize("name", TINY)
def test_its_thumbnail_shows_what_it_draws(name):
    """Catches a sample without a thumbnail among ComfyUI's templates, or with one of an earlier prompt."""
    expected = thumbnail_of(name)
    width, height = expected.canvas or (1, 1)
    with Image.open(WORKFLOWS / f"{name}.jpg") as image:
        small = image.resize((round(SIDE * image.width / image.height), SIDE), Image.Resampling.BOX)
    shown = np.array(small)[:, -SIDE * width // height :]  # after an edit, where the one before stands beside it
    shown[:, :2] = shown[:, 2:3]  # which the resized image may have a column of
    assert judge_image(shown, expected).reasons == ()


def test_thumbnails_tell_the_samples_apart():
    """Catches two samples that look the same in the template browser."""
    seen = {}
    for name in TINY:
        with Image.open(WORKFLOWS / f"{name}.jpg") as image:
            pixels = np.asarray(image.resize((32, 32), Image.Resampling.BOX), dtype=float)
        for other, shown in seen.items():
            assert np.abs(pixels - shown).mean() > 8, f"{name} and {other}"
        seen[name] = pixels


def test_all_samples_are_found_under_the_name_of_the_pack(client):
    """Catches a sample that the template browser, which searches names, does not find under "blip3o"."""
    found = client.get("/workflow_templates").json()[PACK_FOLDER]
    assert sorted(found) == sorted(sample.name for sample in SAMPLES)
    assert all("blip3o" in name.lower() for name in found)
    for name in TINY:
        assert client.get(f"/api/workflow_templates/{PACK_FOLDER}/{name}.jpg").content[:3] == b"\xff\xd8\xff"
