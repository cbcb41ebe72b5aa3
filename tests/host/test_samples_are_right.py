"""Every sample for the bundled model makes the right image with five seeds, as the judge of its world sees it."""

import io

import numpy as np
import pytest
from PIL import Image

from blip3o_core.tiny.judge.judge import detect, judge_image
from blip3o_core.tiny.scenes.spec import Expected, Spec, compare
from tools.comfyui.graphs import node
from tools.comfyui.server import PACK_FOLDER
from tools.comfyui.workflow import WORKFLOWS, load_api
from tools.samples import SAMPLES
from tools.samples.parts import BRUSHED, EDIT, START, TO_BRUSH, TO_EDIT

SEEDS = range(1, 6)
MEASURES = "BLIP3o-21-Evaluate-Prompts"  # it promises scores, of wrong images, too: test_evaluation_nodes.py
TINY = [sample.name for sample in SAMPLES if sample.tiny and sample.name != MEASURES]
PUBLISHED = [sample for sample in SAMPLES if not sample.tiny]
STAR = Spec((Expected("circle", "red"), Expected("star", "blue")), "grey", (0, "left of", 1))
GREEN = Spec((Expected("circle", "red"), Expected("square", "green")), "yellow", (0, "left of", 1))
SQUARE = Spec((Expected("circle", "red"), Expected("square", "blue")), "grey", (0, "left of", 1))
YELLOW_RING = Spec((Expected("ring", "yellow"), Expected("star", "blue")), "grey", (0, "left of", 1))
RING = Spec((Expected("circle", "red"), Expected("ring", "purple")), "grey", (0, "left of", 1))
EDITED = Spec(SQUARE.objects, "yellow", SQUARE.relation)
# What a sample without an encoder of its own shows, 64 pixels each from left to right, one image after the other.
PROMISED = {
    "BLIP3o-1-Text-to-Image": [STAR],
    "BLIP3o-2-Quick-Preview": [STAR],
    "BLIP3o-10-Choose-a-Draft": [STAR],
    "BLIP3o-11-Splice-Two-Drafts": [RING],
    "BLIP3o-12-Compare-Two-Drafts": [STAR, SQUARE],
    "BLIP3o-13-Save-and-Load-Tokens": [YELLOW_RING],
    "BLIP3o-14-One-Click": [Spec((Expected("ring", "yellow"), Expected("star", "blue")), "green", (0, "left of", 1))],
    "BLIP3o-15-Two-Prompts-in-One-Image": [
        Spec((Expected("circle", "red"),), "grey"), Spec((Expected("star", "blue"),), "grey")
    ],
    "BLIP3o-19-Train-a-LoRA-by-Reward": [YELLOW_RING],
    "BLIP3o-20-From-a-Folder-to-a-LoRA": [Spec(YELLOW_RING.objects, "black", YELLOW_RING.relation)],
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


def with_seed(prompt: dict, seed: int) -> dict:
    for part in prompt.values():
        for name in ("seed", "noise_seed"):
            if name in part["inputs"]:
                part["inputs"][name] = seed
    return prompt


def images(client, prompt: dict) -> tuple[list[np.ndarray], np.ndarray | None]:
    """What the sample saves, and what it edits or brushes, each before it is enlarged: (H, W, 3) uint8."""
    [saved] = [part["inputs"]["images"] for part in prompt.values() if part["class_type"] == "SaveImage"]
    prompt["result"] = node("SaveImage", images=prompt[saved[0]]["inputs"]["image"], filename_prefix="result")
    encoders = [part["inputs"] for part in prompt.values() if part["class_type"] == "BLIP3oEditReferenceEncoder"]
    if encoders:
        prompt["start"] = node("SaveImage", images=encoders[0]["images.image_1"], filename_prefix="start")
    if any(part["class_type"] == "BLIP3oResampleTokens" for part in prompt.values()):
        [seen] = [part["inputs"]["images"] for part in prompt.values() if part["class_type"] == "PreviewImage"]
        prompt["start"] = node("SaveImage", images=prompt[seen[0]]["inputs"]["image"], filename_prefix="start")
    done = client.run(prompt, timeout=300)
    assert done.status == "success", done.error
    shown = {
        id: [
            np.asarray(Image.open(io.BytesIO(client.view(**image))).convert("RGB"))
            for image in done.outputs[id]["images"]
        ]
        for id in ("result", "start")
        if id in done.outputs
    }
    return shown["result"], shown.get("start", [None])[0]


def edited(start: np.ndarray) -> Spec:
    """The objects of an image where they are, on the ground that EDIT asks for."""
    objects = tuple(Expected(each.shape, each.colour, None, (each.x, each.y)) for each in detect(start).objects)
    return Spec(objects, "yellow")


def wrong(name: str, results: list[np.ndarray], start: np.ndarray | None) -> tuple[str, ...]:
    """What the judge finds wrong in a sample's images."""
    if name in PROMISED:
        parts = [part for image in results for part in pieces(image)]
        found = [judge_image(part, spec).reasons for part, spec in zip(parts, PROMISED[name], strict=True)]
        return tuple(reason for reasons in found for reason in reasons)
    [result] = results
    if "Brush" in name:
        [circle] = [each for each in detect(start).objects if each.shape == "circle"]
        kept = Expected("circle", "red", None, (circle.x, circle.y))
        before, after = (Spec(objects, "yellow", STAR.relation) for objects in (STAR.objects, (kept, GREEN.objects[1])))
        return judge_image(start, before).reasons + judge_image(result, after).reasons
    reasons = judge_image(start, SQUARE).reasons
    if "Keep" in name:
        result = result[:, -start.shape[1] :]
        kept = detect(start)
        same = tuple(Expected(each.shape, each.colour, None, (each.x, each.y)) for each in kept.objects)
        return reasons + judge_image(result, Spec(same, kept.background)).reasons
    return reasons + compare(detect(result), edited(start)).reasons


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
    assert (START, TO_EDIT, EDIT, TO_BRUSH, BRUSHED) == (
        "a red circle left of a blue star", "a red circle left of a blue square", "make the background yellow",
        "a red circle left of a blue star on a yellow background",
        "a red circle left of a green square on a yellow background",
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


@pytest.mark.parametrize("name", TINY)
def test_its_thumbnail_shows_what_it_draws(name):
    """Catches a sample without a thumbnail among ComfyUI's templates, or with one of an earlier prompt."""
    with Image.open(WORKFLOWS / f"{name}.jpg") as image:
        small = image.resize((round(64 * image.width / image.height), 64), Image.Resampling.BOX)
    shown = np.asarray(small)[:, -64:]  # after an edit, where the one before stands beside it
    expected = (
        GREEN if "Brush" in name else PROMISED[name][-1] if name in PROMISED else SQUARE if "Keep" in name else EDITED
    )
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


@pytest.mark.parametrize("sample", PUBLISHED, ids=lambda sample: sample.name)
def test_a_sample_for_a_published_checkpoint_says_so(sample):
    """Catches a sample that the bundled model gets wrong and that pretends otherwise."""
    text = sample.note.split("\n\n")[1]
    assert text.startswith("**Needs a published checkpoint.**") and "BLIP3o-NEXT-edit-VAE" in text
    [loader] = [part["inputs"] for part in sample.prompt.values() if part["class_type"] == "BLIP3oLoader"]
    assert loader["checkpoint"] == "BLIP3o-NEXT-edit-VAE"
