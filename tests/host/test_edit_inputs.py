"""Edits of whatever a creator uploads: odd files, odd sizes, broken pixels, masks that do not fit, too many pictures.

Everything goes through stock LoadImage where the host can make it.
"""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.editing.references import EditInputs
from blip3o_core.models.image_tokenizer import PREFIX
from blip3o_core.pipeline import Pipeline
from tests.host.test_edit import picture, png
from tests.host.test_errors import fails
from tests.support.tiny_checkpoint import Sizes, make_checkpoint
from tools.comfyui.client import Refused
from tools.comfyui.graphs import close, edit, equal, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("edit_checkpoint", "checkpoint")]
SIZE = (96, 64)
BASE = picture(SIZE)
GREY = BASE.convert("L")
FRAMES = [picture(SIZE, k) for k in range(9)]
FLAT = np.full((SIZE[1], SIZE[0], 3), 0.5, np.float32)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def frames(kind: str, count: int, **options) -> bytes:
    return saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:count], duration=100, **options)


def with_alpha(image: Image.Image) -> Image.Image:
    """Transparent in a corner."""
    image, alpha = image.copy(), Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 40, 30))
    image.putalpha(alpha)
    return image


def pfm(pixels: np.ndarray) -> bytes:
    """A file of floats, which LoadImage hands on as they are: (H, W, 3)."""
    return f"PF\n{pixels.shape[1]} {pixels.shape[0]}\n-1.0\n".encode() + pixels[::-1].astype("<f4").tobytes()


def holding(value: float) -> np.ndarray:
    pixels = FLAT.copy()
    pixels[3, 5] = value
    return pixels


def turned(by: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = by
    return exif.tobytes()


LONG = np.asarray(BASE, np.float32) / 255 * 3 - 1  # floats from -1 to 2
# By file: what is uploaded, and the pictures that an edit must see.
EXACT = {
    "rgba.png": (png(with_alpha(BASE)), [BASE]),  # LoadImage gives alpha as a mask only
    "grey16.png": (png(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)), [GREY]),
    "palette.png": (png(BASE.quantize(32)), [BASE.quantize(32)]),
    "one_bit.png": (png(BASE.convert("1")), [BASE.convert("1")]),
    "exif.png": (saved(BASE, "PNG", exif=turned(6)), [BASE.transpose(Image.Transpose.ROTATE_270)]),
    "animated.webp": (frames("WEBP", 3, lossless=True), FRAMES[:3]),
    "beyond.pfm": (pfm(LONG), [Image.fromarray((LONG.clip(0, 1) * 255).round().astype(np.uint8))]),
    "pixel.png": (png(picture((1, 1))), [picture((1, 1))]),
    "strip.png": (png(picture((1, 8))), [picture((1, 8))]),
}
# These the host reads up to three of 255 levels off, so tokens may differ.
NEAR = {
    "grey.png": (png(GREY), [GREY]),
    "grey_alpha.png": (png(with_alpha(GREY)), [GREY]),
    "animated.gif": (frames("GIF", 3), FRAMES[:3]),
    "cmyk.jpg": (saved(BASE.convert("CMYK"), "JPEG", quality=95), [BASE]),
    "turned.jpg": (saved(BASE, "JPEG", quality=95, exif=turned(6)), [BASE.transpose(Image.Transpose.ROTATE_270)]),
}
OTHERS = {
    "base.png": png(BASE),
    "nine.gif": frames("GIF", 9),
    "nine.webp": frames("WEBP", 9, lossless=True),
    "tall9.png": png(picture((1, 9))),
    "wide9.png": png(picture((270, 30))),
    "huge.png": png(picture((20000, 4))),
    "nan.pfm": pfm(holding(np.nan)),
    "infinite.pfm": pfm(holding(np.inf)),
    "black.png": png(Image.new("RGB", SIZE)),
    "text.png": b"This is a letter, not a picture.\n",
    "empty.png": b"",
}


@pytest.fixture(scope="module", autouse=True)
def files(server):
    with server.client() as client:
        for name, data in ({name: data for name, (data, _) in (EXACT | NEAR).items()} | OTHERS).items():
            client.upload(name, data)


@pytest.fixture(scope="module")
def pipeline(edit_checkpoint):
    return Pipeline.load(edit_checkpoint)


@pytest.fixture(scope="module")
def healthy(server):
    """The latents of the plain graph, before anything went wrong."""
    with server.client() as client:
        return latents(server, client.run(text_to_image()))


def by_library(pipeline: Pipeline, pictures: list) -> torch.Tensor:
    """The unscaled latents of the graph of `edit`."""
    references = pipeline.references([each.convert("RGB") for each in pictures])
    tokens = pipeline.generate_tokens(["make it blue"], [5], references=references)
    made = pipeline.latents(tokens, [11], None, 4, 2.0, edit=EditInputs(references))
    return made / pipeline.autoencoder.config.scaling_factor


@pytest.mark.parametrize("name", EXACT | NEAR)
def test_the_edit_sees_the_picture_in_the_file(client, server, pipeline, name):
    """Greys of 16 bits cut off, palettes as greys, ink as colour, a phone's picture lying, frames lost, a crash."""
    pictures = (EXACT | NEAR)[name][1]
    graph = edit(name)
    graph["seen"] = node("SaveLatent", samples=["encode", 2], filename_prefix="latents/seen")
    result = client.run(graph)
    [shown] = result.outputs["encode"]["text"]
    assert len(shown.splitlines()) == len(pictures) and "{}x{} pixels;".format(*pictures[0].size) in shown
    if name in EXACT:
        assert close(latents(server, result), by_library(pipeline, pictures))
    seen, first = latents(server, result, "seen"), pipeline.references([pictures[0].convert("RGB")])
    assert seen.shape == first.latents[0].shape
    assert (seen - first.latents[0]).abs().mean() < 0.1 * seen.std()
    with Image.open(io.BytesIO(client.view(**result.images[0]))) as made:
        assert made.size == first.vae_sizes[0]


def test_transparency_is_white(client, server, pipeline):
    """Pictures with a fourth channel, as JoinImageWithAlpha makes them: colours under it, or an error, in the edit."""
    graph = edit("rgba.png")
    graph["joined"] = node("JoinImageWithAlpha", image=["image1", 0], alpha=["image1", 1])
    graph["encode"]["inputs"]["images.image_1"] = ["joined", 0]
    shown = Image.alpha_composite(Image.new("RGBA", SIZE, "white"), with_alpha(BASE))
    assert close(latents(server, client.run(graph)), by_library(pipeline, [shown]))


ERRORS = {
    "nine.gif": ("9 reference images", "1 to 8", "batch", "ImageFromBatch"),
    "nine.webp": ("9 reference images", "1 to 8", "batch", "ImageFromBatch"),
    "tall9.png": ("1x9", "at most 8 times", "Crop the image"),
    "wide9.png": ("270x30", "at most 8 times", "Crop the image"),
    "huge.png": ("image_1", "20000x4", "16384", "scale the image down"),
    "nan.pfm": ("image_1", "NaN", "run that node again"),
    "infinite.pfm": ("image_1", "infinite", "run that node again"),
    "text.png": ("cannot identify image file", "text.png"),  # the host's own words
    "empty.png": ("empty.png",),
}


@pytest.mark.parametrize("name", ERRORS)
def test_files_that_cannot_be_edited(client, server, healthy, name):
    """A tensor's complaint, a black picture or a full memory instead of the value, the reason and the way out."""
    fails(client, server, edit(name), healthy, *ERRORS[name])


def test_the_long_strip_is_edited_when_cropped(client):
    """A way out, named in the error, that is none."""
    graph = edit("wide9.png")
    graph["encode"]["inputs"]["fit"] = "crop"
    result = client.run(graph)
    assert result.status == "success" and "its middle square" in result.outputs["encode"]["text"][0]


def test_no_frames_at_all(client, server, healthy):
    """An empty batch, as a video that has no frames gives it, taken for no reference or dividing by zero."""
    graph = edit("base.png")
    graph["video"] = node("LoadVideo", file="animated.webp")  # the host's video reader finds no frame in it
    graph["frames"] = node("GetVideoComponents", video=["video", 0])
    graph["encode"]["inputs"]["images.image_1"] = ["frames", 0]
    fails(client, server, graph, healthy, "image_1 is empty", "[0, 0, 0, 3]", "Connect another one")


def test_tensors_that_only_other_packs_make(in_host):
    """Sizes of zero, integers, six channels, a missing batch: a crash inside Pillow in place of their name."""

    def look(module):
        import torch

        reference = module(".nodes.host.reference")
        errors = module(".blip3o_core.errors")
        shapes, said = [(0, 8, 8, 3), (1, 0, 8, 3), (1, 8, 0, 3), (1, 8, 8, 0), (1, 8, 8, 6), (8, 8, 3)], []
        images = [torch.zeros(shape) for shape in shapes] + [torch.zeros(1, 8, 8, 3, dtype=torch.uint8)]
        masks = [torch.zeros(shape) for shape in ((0, 8, 8), (1, 0, 8), (1, 1, 8, 8))]
        good = torch.zeros(1, 8, 8, 3)
        calls = [
            lambda i=i: reference.encode_images(object(), None, {"image_1": i}, "stretch", None, 0) for i in images
        ]
        calls += [lambda m=m: reference.composite_edit(good, good, m, 0) for m in masks]
        calls += [
            lambda i=i: reference.encode_images(object(), None, i, "stretch", None, 0)
            for i in ({"image_1": None}, {"image_9": good}, {"image_x": good}, None, {"image_1": 3}, {"image_2": {}})
        ]
        two, hole, mask = good[..., :2], good + torch.tensor([0, 0, torch.nan]), torch.ones(1, 8, 8)
        pairs = [
            (two, good),
            (good, two),
            (hole, good),
            (good, hole),
            (good[:0], good),
            (good, None),
            (good.int(), good),
        ]
        calls += [lambda o=o, e=e: reference.composite_edit(o, e, mask, 0) for o, e in pairs]
        calls += [lambda m=m: reference.composite_edit(good, good, m, 0) for m in (None, mask[0].int(), mask[0, 0])]
        for call in calls:
            try:
                call()
                said.append("no error")
            except errors.Blip3oError as error:
                said.append(str(error))
        grey = reference.composite_edit(good[..., :1], good + 1, mask, 0)
        return [*said, f"{list(grey.shape)} {grey.unique().tolist()}"]

    said = in_host(look)
    assert all(line.startswith("image_1 is empty") for line in said[:3]), said
    assert all(line.startswith("image_1 is a torch.") and "batch, height, width" in line for line in said[3:7]), said
    assert "0 masks" in said[7] and "The mask is 8x0" in said[8] and "mask" in said[9] and "0 reference" in said[10]
    rest = [
        "images is image_9. Its inputs", "images is image_x", "images is NoneType", "image_1 is of the type int",
        "image_2 is of the type dict", "original is a torch.float32", "edited is a torch.float32",
        "original contains NaN", "edited contains NaN", "original is empty", "edited is of the type NoneType",
        "original is a torch.int32", "mask is of the type NoneType", "mask is of the type torch.int32",
        "The mask has the shape [8]", "[1, 8, 8, 3] [1.0]",
    ]  # fmt: skip
    assert len(said) == 11 + len(rest)
    for line, start in zip(said[11:], rest, strict=True):
        assert start in line, (start, line)


def test_an_encoder_without_a_picture_is_refused(client):
    """A run that fails in its middle for a wire that was missing from the start."""
    for missing in ([], ["images.image_2"]):
        graph = edit("base.png", "black.png")
        inputs = graph["encode"]["inputs"]
        graph["encode"]["inputs"] = {k: v for k, v in inputs.items() if not k.startswith("images.") or k in missing}
        with pytest.raises(Refused, match="(?s)encode.*required_input_missing.*image_1"):
            client.run(graph)


def test_nine_pictures_on_wires_and_in_batches(client, server, healthy):
    """A batch that is counted as one picture."""
    fails(client, server, edit("animated.gif", "animated.webp", "animated.gif"), healthy, "9 reference images")
    result = client.run(edit("animated.gif", "base.png", "animated.webp"))
    assert len(result.outputs["encode"]["text"][0].splitlines()) == 7


def test_the_bundled_model_edits_odd_files_and_counts_its_prompt(client, server, healthy):
    """Pictures of 64 tokens in a prompt of 512: without the count the error is about positions, or the end is cut."""
    for name in ("grey16.png", "animated.gif", "pixel.png"):
        assert client.run(edit(name, checkpoint=NAME, steps=1)).status == "success"
    graph = edit(*["base.png"] * 8, checkpoint=NAME)
    fails(client, server, graph, healthy, "8 reference images of 64 tokens", "512")


def masked(mask: dict, channel: int = 0, picture: str = "base.png", fit: str = "stretch") -> dict:
    """The edit of a picture inside the mask that a node gives."""
    return edit(picture, mask=["mask", channel], fit=fit) | {"mask": mask}


def of_file(name: str) -> dict:
    return node("LoadImageMask", image=name, channel="red")


MASKS = {
    "another size": (of_file("strip.png"), ("mask is 1x8", "image is 96x64", "same size")),
    "none painted": (node("LoadImage", image="base.png"), ("mask is 64x64", "image is 96x64", "Paint")),
    "all zero": (of_file("black.png"), ("mask is empty", "nothing may change", "Paint")),
    "two of a batch": (of_file("animated.gif"), ("3 masks", "first image", "out of the batch")),
    "NaN": (of_file("nan.pfm"), ("mask contains NaN", "Paint it again")),
    "infinite": (of_file("infinite.pfm"), ("mask contains NaN or infinite", "Paint it again")),
    "no size": (
        node("CropMask", mask=["image1", 1], x=500, y=0, width=8, height=64),
        ("mask is 0x64", "image is 96x64", "same size"),
    ),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("owner", ["encoder", "masked edit"])
def test_masks_that_cannot_be_used(client, server, healthy, kind, owner):
    """A mask stretched to a picture it was not painted on, or of nothing: an edit in the wrong place, or none."""
    mask, words = MASKS[kind]
    graph = masked(mask, 1 if mask["class_type"] == "LoadImage" else 0)
    if owner == "masked edit":
        del graph["encode"]["inputs"]["mask"]
    fails(client, server, graph, healthy, *words)


@pytest.mark.parametrize("fit", ["crop", "authors"])
def test_a_mask_belongs_to_the_whole_picture(client, server, healthy, fit):
    """Latents of a part of the picture under the mask of all of it: another place is drawn anew than was painted."""
    fails(client, server, masked(of_file("base.png"), fit=fit), healthy, "mask", fit, "stretch")


def with_tokenizer(lm: str, tatok: str | None = None, **loader) -> dict:
    """An edit with the checkpoint's own image tokenizer or that of a file; "shown" tells the codes."""
    graph = edit("base.png", checkpoint=lm, dtype="fp32", steps=1)
    graph["load"]["inputs"] |= loader
    graph["encode"]["inputs"]["resolution"] = 128  # a file does not say what its checkpoint draws
    if tatok is not None:
        graph["file"] = node("BLIP3oImageTokenizerLoader", file=tatok, dtype="fp32")
        graph["encode"]["inputs"]["image_tokenizer"] = ["file", 0]
    return graph | {"shown": node("PreviewAny", source=["encode", 1])}


def codes(result) -> str:
    assert result.status == "success", result.error
    [found] = re.findall(r"codes=tensor\(\[(.*?)\]\)", result.outputs["shown"]["text"][0], re.DOTALL)
    assert len(set(found.split(","))) > 5
    return found


@pytest.mark.parametrize("lm", ["golden/edit_vae", "golden/t2i"])
def test_the_published_tokenizer_file_serves_as_the_checkpoints_own(client, server, golden, lm):
    """A tower that scales twice, another codebook, or a file whose codes the language model refuses."""
    own = client.run(with_tokenizer(lm, diffusion_folder="golden/sana"))
    other = client.run(with_tokenizer(lm, "ta_tok/ta_tok.pth", diffusion_folder="golden/sana"))
    assert "file" in other.executed and codes(own) == codes(other)
    assert equal(latents(server, own), latents(server, other))


def tokenizer_file(checkpoint: Path, folder: Path) -> None:
    """The image tokenizer of a tiny checkpoint as a file `ta_tok.pth`, beside the config that it needs."""
    tensors, config = load_file(checkpoint / "model.safetensors"), json.loads((checkpoint / "config.json").read_text())
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    folder.mkdir()
    torch.save({"model": {"args": {}, "sd": own}}, folder / "ta_tok.pth")
    (folder / "config.json").write_text(json.dumps({"vision_config": config["vision_config"]}))


def test_the_tokenizer_of_another_codebook_is_refused(client, server, checkpoints, healthy, tmp_path):
    """Codes that mean something else to the language model: the reference would be another picture."""
    tokenizer_file(make_checkpoint(tmp_path / "stranger", seed=3), checkpoints / "stranger")
    graph = with_tokenizer("edit", "stranger/ta_tok.pth")
    fails(client, server, graph, healthy, "different checkpoint", "codebook", "connect the model that made them")


def test_a_checkpoint_without_a_tokenizer(client, server, checkpoints, healthy):
    """An error about None, or a checkpoint that cannot even draw; and a way out that is none."""
    # Without the tokenizer nothing says how many codes a picture has: the published 27 x 27 are assumed.
    folder = make_checkpoint(checkpoints / "bare", sizes=Sizes(grid=27, prompt_limit=1000))
    tokenizer_file(folder, checkpoints / "own")
    whole = with_tokenizer("bare")
    expected = codes(client.run({name: whole[name] for name in ("load", "image1", "encode", "shown")}))
    rest = {n: t for n, t in load_file(folder / "model.safetensors").items() if not n.startswith(PREFIX)}
    save_file(rest, folder / "model.safetensors")
    words = "has no image tokenizer", "BLIP3o Image Tokenizer Loader", "ta_tok.pth"
    fails(client, server, with_tokenizer("bare"), healthy, *words)
    assert codes(client.run(with_tokenizer("bare", "own/ta_tok.pth"))) == expected


def test_a_tokenizer_whose_config_is_missing(client, server, golden, healthy):
    """A TypeError of Pillow where a file is missing: the number of attention heads is in no tensor."""
    shutil.copytree(golden / "edit_vae", golden.parent / "alone/edit_vae")
    graph = with_tokenizer("alone/edit_vae", diffusion_folder="golden/sana")
    fails(client, server, graph, healthy, "how many attention heads", "vision_config")


class Hostile:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w')",)


def test_a_tokenizer_file_that_holds_code_is_refused_and_not_run(client, server, golden, healthy, tmp_path):
    """A stranger's code run by the server as soon as his file is chosen."""
    file = golden.parent / "hostile/ta_tok.pth"
    file.parent.mkdir()
    model = torch.load(golden.parent / "ta_tok/ta_tok.pth", weights_only=True)["model"]
    torch.save({"model": {"args": Hostile(tmp_path / "ran"), "sd": model["sd"]}}, file)
    fails(client, server, with_tokenizer("edit", "hostile/ta_tok.pth"), healthy, "refused", "exec", "Download")
    assert not (tmp_path / "ran").exists()
