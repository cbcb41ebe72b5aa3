"""`blip3o edit`: what it writes, that an image can be made again, and how it fails."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from blip3o_core.checkpoint import bundled, open_checkpoint
from blip3o_core.cli.main import main
from blip3o_core.editing import masks
from blip3o_core.images import reader
from blip3o_core.images.png import read_settings
from blip3o_core.images.reader import open_image
from tests.support.image_files import DISPLAY_P3, chunk, icc_profile
from tests.support.pictures import files, made_again, noise, pixels
from tests.support.tiny_checkpoint import Sizes, make_checkpoint


@pytest.fixture(scope="session")
def teller(tmp_path_factory) -> Path:
    """The same without any way but tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("teller") / "model", sizes=Sizes(prompt_limit=400))


ONE = ("--image={here}/a.png", "--instruction=red", "--out={here}/out.png")


def test_the_bundled_model_edits_without_any_options(place, capsys):
    """Catches an edit that needs a model to be named, a wrong default size, and words on standard output."""
    out = place / "new" / "out.png"
    red = Image.new("RGB", (64, 64), "white")
    red.paste((255, 0, 0), (16, 16, 48, 48))
    red.save(place / "red.png")
    assert main(["edit", f"--image={place / 'red.png'}", "--instruction=make the square blue", f"--out={out}"]) == 0
    said = capsys.readouterr()
    side = open_checkpoint(bundled.BUNDLED).trained_side
    assert said.out == f"{out}\n" and pixels(out).shape == (side, side, 3)
    assert "image 1: 64x64" in said.err and "of 512 tokens, 1 reference x 64" in said.err
    assert read_settings(out)["checkpoint"] == bundled.NAME and "--checkpoint" not in read_settings(out)["command"]
    assert torch.equal(made_again(out, place, {"IMAGE1": place / "red.png"}), pixels(out))


def test_what_was_done_is_said(edit, place, capsys):
    """Catches resizing that nobody hears of, a wrong token budget, and words on standard output."""
    assert edit(*ONE, "--image={here}/b.png", "--seed=3") == 0
    said = capsys.readouterr()
    assert said.out == f"{place / 'out.png'}\n"
    assert (
        "image 1: 48x32 pixels; tokens: stretched to 5x5 codes; latent: " in said.err and "image 2: 20x30" in said.err
    )
    # Byte-level, so that the prompt can be counted: system and user with their marks, 50 codes between two, the rest.
    system, user = "system\nYou are a helpful assistant.", "user\nPlease edit these images according to the following "
    user += "instruction: red.\n"
    count = len(system) + 3 + 1 + len(user) + 2 + 50 + 2 + 1 + len("assistant\n") + 2
    assert f"prompt {count} of 400 tokens, 2 references x 25" in said.err


@pytest.mark.parametrize("size, shape", [(None, (48, 72)), ("24x16", (16, 24))])
def test_the_size_is_the_first_images_shape_or_what_was_asked(size, shape, edit, place):
    """Catches a square for every picture, width and height swapped, and --size ignored."""
    assert edit(*ONE, "--image={here}/b.png", *([f"--size={size}"] if size else [])) == 0
    assert tuple(pixels(place / "out.png").shape) == (*shape, 3)


CHANGES = [
    ["--image={here}/b.png"], ["--instruction=blue"], ["--fit=pad"], ["--reference-mode=tokens"],
    ["--reference-mode=cross"], ["--reference-mode=noise"], ["--text-strength=0.5"],
    ["--cross-strength=0.2"], ["--noise-strength=0.2"],
    ["--seed=1"], ["--noise-seed=1"], ["--steps=3"], ["--guidance=4"], ["--size=64x72"], ["--top-k=1"], ["--top-p=0.1"],
    ["--temperature=3"], ["--token-guidance=9", "--negative-prompt=b"], ["--token-guidance=9"], ["--dtype=bf16"],
    ["--mask={here}/hole.png"], ["--mask={here}/hole.png", "--feather=3"], ["--fit=crop"],
]  # fmt: skip
_plain: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_a_setting_changes_the_picture_and_is_stored(change, edit, editor, place):
    """Catches an option that is read and then ignored, and one that decides the picture and is not stored."""
    if "plain" not in _plain:
        assert edit(*ONE) == 0
        _plain["plain"] = pixels(place / "out.png")
    assert edit(*ONE, *change) == 0
    drawn = pixels(place / "out.png")
    assert drawn.shape != _plain["plain"].shape or not torch.equal(drawn, _plain["plain"])
    inputs = {"IMAGE1": place / "a.png", "IMAGE2": place / "b.png", "MASK": place / "hole.png"}
    assert torch.equal(made_again(place / "out.png", editor, inputs), drawn)


def test_the_settings_name_no_file_and_tell_which_it_was(edit, editor, place):
    """Catches a user's folder names in a picture that is given away, and files that cannot be told apart."""
    assert edit(*ONE, "--image={here}/b.png", "--mask={here}/hole.png", "--feather=2", "--instruction='a b' --x") == 0
    settings = read_settings(place / "out.png")
    for told in (str(place), str(editor.parent), "hole.png", "b.png"):
        assert told not in json.dumps(settings)
    stored = [*settings["images"], settings["mask"]]
    for facts, name, size in zip(stored, ("a", "b", "hole"), ("48x32", "20x30", "48x32"), strict=True):
        digest = hashlib.sha256((place / f"{name}.png").read_bytes()).hexdigest()
        assert facts == {"size": size, "sha256": digest, "reader": reader.VERSION}
    assert settings["reference_mode"] == "both" and "size" not in settings and settings["feather"] == 2


@pytest.mark.parametrize("feather", [0, 3])
@pytest.mark.parametrize("size", [(48, 32), (61, 35)])
def test_outside_the_mask_every_pixel_stays(size, feather, edit, place):
    """Catches a picture that went through the autoencoder where it must not change, or lost its own size."""
    noise(*size).save(place / "a.png")
    mask = Image.new("L", size)
    mask.paste(255, (10, 8, 30, 20))
    mask.save(place / "hole.png")
    assert edit(*ONE, "--mask={here}/hole.png", f"--feather={feather}") == 0
    before, after = pixels(place / "a.png"), pixels(place / "out.png")
    inside = torch.zeros(before.shape[:2], dtype=torch.bool)
    inside[8:20, 10:30] = True
    assert torch.equal(before[~inside], after[~inside])
    changed = (before != after).any(-1)
    assert changed[13:15, 16:24].float().mean() > 0.9
    assert feather or changed[8, 10:30].float().mean() > 0.9


def test_outside_the_mask_every_pixel_looks_the_same(edit, place, capsys):
    """Catches an untouched part that has the file's numbers and, without its profile, other colours."""
    image, profile = noise(48, 32), icc_profile(DISPLAY_P3, name="Display P3")
    image.save(place / "a.png", icc_profile=profile)
    exif_less = (place / "a.png").read_bytes()
    (place / "a.png").write_bytes(exif_less[:33] + chunk(b"eXIf", b"\xff" * 40) + exif_less[33:])
    assert edit(*ONE, "--mask={here}/hole.png") == 0
    said = capsys.readouterr().err
    assert "; not turned: its EXIF block is damaged; converted from Display P3 to sRGB" in said
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    expected = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    with Image.open(place / "out.png") as out, Image.open(place / "hole.png") as hole:
        untouched = np.asarray(hole.convert("L")) == 0
        off = np.abs(np.asarray(out).astype(int) - np.asarray(expected))[untouched]
        assert "icc_profile" not in out.info and off.max() <= 1 and untouched.any()
        assert f"mask: {1 - untouched.mean():.1%} of image 1 may change" in said


def test_a_masked_edit_keeps_a_bundled_picture(place):
    """Catches a mask that the real model's size or bfloat16 weights upset."""
    noise(100, 70).save(place / "big.png")
    mask = Image.new("L", (100, 70))
    mask.paste(255, (40, 0, 100, 70))
    mask.save(place / "right.png")
    arguments = ["--instruction=add a red circle", "--steps=2", f"--out={place / 'out.png'}"]
    assert main(["edit", f"--image={place / 'big.png'}", f"--mask={place / 'right.png'}", *arguments]) == 0
    before, after = pixels(place / "big.png"), pixels(place / "out.png")
    assert torch.equal(before[:, :40], after[:, :40]) and not torch.equal(before[:, 40:], after[:, 40:])


def sixteen_bit() -> Image.Image:
    values = torch.arange(40 * 30, dtype=torch.int32).mul(50).to(torch.uint16).numpy().reshape(30, 40)
    return Image.fromarray(values)


KINDS = {
    "grey.png": lambda: noise(40, 30, "L"),
    "rgba.png": lambda: noise(40, 30, "RGBA"),
    "grey16.png": sixteen_bit,
    "cmyk.jpg": lambda: noise(40, 30, "CMYK"),
    "palette.png": lambda: noise(40, 30).convert("P"),
    "one pixel.png": lambda: noise(1, 1),
    "eight to one.png": lambda: noise(8, 1),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_pictures_of_every_kind_are_taken(name, masked, edit, place):
    """Catches a kind of file that fails, and one whose untouched part is not what the file shows."""
    KINDS[name]().save(place / name)
    picture = open_image(place / name)
    words = ["--image={here}/" + name, "--instruction=red", "--out={here}/out.png"]
    if masked:
        mask = Image.new("L", picture.size)
        mask.putpixel((0, 0), 255)
        mask.save(place / "hole.png")
        words.append("--mask={here}/hole.png")
    assert edit(*words) == 0
    if masked:
        after = pixels(place / "out.png")
        before = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view_as(after)
        assert torch.equal(before.flatten(0, 1)[1:], after.flatten(0, 1)[1:])


def test_the_first_frame_of_an_animation_is_taken(edit, place):
    """Catches an animation that fails, or whose last frame is taken."""
    first, second = Image.new("RGB", (40, 30), (255, 0, 0)), Image.new("RGB", (40, 30), (0, 0, 255))
    first.save(place / "moving.gif", save_all=True, append_images=[second])
    mask = Image.new("L", (40, 30))
    mask.putpixel((0, 0), 255)
    mask.save(place / "hole.png")
    assert edit(*ONE[1:], "--image={here}/moving.gif", "--mask={here}/hole.png") == 0
    assert pixels(place / "out.png")[-1, -1].tolist() == [255, 0, 0]


def test_a_photo_that_lies_on_its_side_is_turned(edit, place):
    """Catches a phone's picture edited lying down, and a mask refused that is as large as what one sees."""
    photo, exif = noise(48, 32), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    photo.save(place / "photo.jpg", exif=exif)
    Image.new("L", (32, 48), 255).save(place / "hole.png")
    assert edit(*ONE[1:], "--image={here}/photo.jpg", "--mask={here}/hole.png") == 0
    assert pixels(place / "out.png").shape == (48, 32, 3)


MISTAKES = {
    "no image": (["--instruction=red"], 2, "edit needs an image"),
    "no instruction": (["--image={here}/a.png"], 2, "no instruction"),
    "empty instruction": ([*ONE, "--instruction="], 2, "Say what should change"),
    "blank instruction": ([*ONE, "--instruction= \n"], 2, "Say what should change"),
    "missing file": ([*ONE, "--image={here}/absent.png"], 1, "absent.png"),
    "folder for an image": ([*ONE, "--image={here}"], 1, "is a folder"),
    "empty file": ([*ONE, "--image={here}/empty.png"], 1, "0 bytes"),
    "text named .png": ([*ONE, "--image={here}/text.png"], 1, "text.png"),
    "half a picture": ([*ONE, "--image={here}/half.png"], 1, "half.png"),
    "20,000 pixels": ([*ONE, "--image={here}/wide.png"], 1, "20000"),
    "too long": ([*ONE, "--image={here}/long.png"], 1, "long.png: The image is 9x1"),
    "nine references": ([*ONE, *["--image={here}/b.png"] * 8], 1, "1 to 8"),
    "more references than fit": ([*ONE, *["--image={here}/b.png"] * 7, "--instruction=" + "a" * 80], 1, "400"),
    "over-long instruction": ([*ONE, "--instruction=" + "word " * 99], 1, "400"),
    "over-long negative prompt": ([*ONE, "--negative-prompt=" + "word " * 99, "--token-guidance=2"], 1, "400"),
    "mask of another size": ([*ONE, "--mask={here}/b.png"], 1, "20x30"),
    "mask that is missing": ([*ONE, "--mask={here}/absent.png"], 1, "absent.png"),
    "mask that is text": ([*ONE, "--mask={here}/text.png"], 1, "text.png"),
    "black mask": ([*ONE, "--mask={here}/black.png"], 1, "black.png: The mask is empty"),
    "mask with a size": ([*ONE, "--mask={here}/hole.png", "--size=64x64"], 2, "--size"),
    "mask with a crop": ([*ONE, "--mask={here}/hole.png", "--fit=crop"], 1, "crop"),
    "feather without a mask": ([*ONE, "--feather=3"], 2, "no mask"),
    "feather below zero": ([*ONE, "--mask={here}/hole.png", "--feather=-1"], 2, "--feather: -1"),
    "feather wider than the mask": ([*ONE, "--mask={here}/hole.png", "--feather=13"], 1, "leaves nothing"),
    "list with a mask": (
        ["--list={here}/list.jsonl", "--mask={here}/hole.png"],
        2,
        "--mask cannot be used with --list",
    ),
    "list with an image": (
        ["--list={here}/list.jsonl", "--image={here}/a.png"],
        2,
        "--image cannot be used with --list",
    ),
    "list with an instruction": (["--list={here}/list.jsonl", "--instruction=a"], 2, "--instruction cannot be used"),
    "size not a multiple": ([*ONE, "--size=65x64"], 1, "64x64"),
    "no steps": ([*ONE, "--steps=0"], 2, "steps"),
    "guidance not a number": ([*ONE, "--guidance=nan"], 2, "guidance"),
    "strength not a number": ([*ONE, "--text-strength=nan"], 2, "--text-strength: nan"),
    "strength too large": ([*ONE, "--cross-strength=11"], 2, "--cross-strength: 11"),
    "strength of an unused mode": (
        [*ONE, "--reference-mode=noise", "--cross-strength=0.5"],
        1,
        "cross_strength is 0.5",
    ),
    "no such device": ([*ONE, "--device=toaster"], 1, "toaster"),
    "absent checkpoint": ([*ONE, "--checkpoint=/nowhere/model"], 1, "/nowhere/model"),
    "other format": ([*ONE, "--out={here}/out.jpg"], 2, ".png"),
    "folder for one picture": ([*ONE, "--out={here}"], 2, ".png"),
    "over its own image": ([*ONE, "--out={here}/a.png"], 1, "overwritten"),
    "over its own image, written otherwise": ([*ONE, "--out={here}/../{name}/a.png"], 1, "overwritten"),
    "below a file": ([*ONE, "--out={here}/text.png/out.png"], 1, "text.png"),
}


@pytest.mark.parametrize("arguments, status, shown", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said_before_weights_are_loaded(arguments, status, shown, edit, faulty, capsys, monkeypatch):
    """Catches a traceback, minutes of loading before a refusal, and half-made results."""
    from blip3o_core import pipeline

    monkeypatch.setattr(pipeline.Pipeline, "__init__", lambda *_: pytest.fail("weights were loaded"))
    before = files(faulty)
    assert edit("--out={here}/out.png", *[word.replace("{name}", faulty.name) for word in arguments]) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and shown in said.err and "Traceback" not in said.err
    assert files(faulty) == before


@pytest.mark.parametrize("asked", ["cross", "noise", "both"])
def test_a_mode_that_the_checkpoint_lacks_is_refused(asked, edit, teller, place, capsys):
    """Catches references silently left out of the diffusion."""
    before = files(place)
    assert edit(*ONE, f"--reference-mode={asked}", model=teller) == 1
    assert "it needs use_und_image_vae" in capsys.readouterr().err and files(place) == before
    assert edit(*ONE, model=teller) == 0
    assert read_settings(place / "out.png")["reference_mode"] == "tokens"


def test_an_image_that_is_not_there_is_warned_of(edit, place, capsys):
    """Catches "the star of image 3" drawn from two images without a word."""
    assert edit(*ONE, "--instruction=move the star of image 3 into the first image") == 0
    assert "warning: the instruction names image 3; images given: 1" in capsys.readouterr().err
    assert edit(*ONE, "--instruction=make image 1 red") == 0
    assert "warning" not in capsys.readouterr().err


def test_an_interrupt_leaves_nothing(edit, place, monkeypatch):
    """Catches a temporary file or an empty picture where the only edit is stopped."""
    from blip3o_core import pipeline

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.Pipeline, "render", stop)
    before = files(place)
    assert edit(*ONE) == 130 and files(place) == before


def test_a_feather_as_wide_as_a_photo_is_quick():
    """Catches blurring by squares of pixels, which takes minutes for a wide feather."""
    mask = torch.zeros(800, 900)
    mask[50:-50, 50:-50] = 1
    weights = masks.feather_mask(mask, 200)
    # From nothing at the edge to all of it 200 pixels inside.
    assert not weights[49].any() and weights[50, 450] < 0.01 and abs(weights[150, 450] - 0.5) < 0.01
    assert torch.all(weights[50:249, 450].diff() > 0) and torch.all(weights[250:550, 450] == 1)
    whole = masks.feather_mask(torch.ones(40, 50), 20)
    assert torch.equal(whole, torch.ones(40, 50))
