"""Images from the host, and what the two encoders see of them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.images.limits import MAX_SIDE
from blip3o_core.images.preprocess import (
    FITS,
    fit_size,
    to_images,
    tokenizer_input,
    vae_input,
)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth enough that resizing it two ways gives almost, but not quite, the same."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def columns(width: int, height: int) -> Image.Image:
    """Every pixel's red is its column, its green its row."""
    rows, cols = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([cols, rows, rows * 0], axis=-1).astype(np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.array(image))[None] / 255


def test_the_hosts_images_become_pictures():
    """Catches rounding down, values that wrap around, alpha on black, and greys that are not spread to colours."""
    values = torch.tensor([[-1.0, 0.5, 2.0], [100.4 / 255, 100.6 / 255, 1.0]]).view(2, 1, 1, 3)
    one, other = to_images(values)
    assert one.getpixel((0, 0)) == (0, 128, 255) and other.getpixel((0, 0)) == (100, 101, 255)
    assert one.mode == "RGB" and to_images(torch.zeros(1, 3, 5, 3))[0].size == (5, 3)
    [clear] = to_images(torch.tensor([0.0, 0.0, 1.0, 0.2]).view(1, 1, 1, 4))
    assert clear.getpixel((0, 0)) == (204, 204, 255)
    assert to_images(torch.full((1, 1, 1, 1), 0.2, dtype=torch.bfloat16))[0].getpixel((0, 0)) == (51, 51, 51)


BAD = {
    "three axes": (torch.zeros(4, 4, 3), "float tensor"),
    "two channels": (torch.zeros(1, 4, 4, 2), "float tensor"),
    "channels first": (torch.zeros(1, 3, 4, 4)[:, :, :, :2], "float tensor"),
    "no rows": (torch.zeros(0, 4, 4, 3), "is empty"),
    "no pixels": (torch.zeros(1, 0, 4, 3), "is empty"),
    "bytes": (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "uint8"),
    "nan": (torch.full((1, 4, 4, 3), torch.nan), "NaN"),
    "infinite": (torch.full((1, 4, 4, 3), torch.inf), "NaN"),
    "long": (torch.zeros(1, 1, MAX_SIDE + 1, 1), f"{MAX_SIDE + 1}x1"),
}


@pytest.mark.parametrize("name", BAD)
def test_images_that_are_none_are_errors_with_their_name(name):
    """Catches a traceback from inside Pillow, and black pictures made of NaN."""
    images, reason = BAD[name]
    with pytest.raises(Blip3oError, match=f"image2.*{reason}"):
        to_images(images, "image2")


@pytest.mark.parametrize("fit", ["stretch", "authors"])
def test_ta_tok_sees_the_stretched_picture(fit):
    """Catches resizing in floats, a crop, and bilinear: each changes codes."""
    image = picture(50, 30)
    assert torch.equal(tokenizer_input(image, fit, 20), tensor(image.resize((20, 20), Image.Resampling.BICUBIC)))


def test_ta_tok_sees_the_middle_or_all_with_grey_beside_it():
    """Catches a crop or a ground off centre, of the wrong colour, or cut after resizing."""
    image = columns(30, 21)
    cropped = tokenizer_input(image, "crop", 21)[0] * 255
    assert cropped.shape == (21, 21, 3) and cropped[0, :, 0].round().tolist() == list(range(4, 25))
    for turned in (False, True):
        padded = tokenizer_input(image.transpose(Image.Transpose.TRANSPOSE) if turned else image, "pad", 30)[0] * 255
        padded = (padded.transpose(0, 1) if turned else padded).round()
        assert padded.shape == (30, 30, 3) and (padded[[*range(4), *range(25, 30)]] == 128).all()
        assert torch.equal(padded[4:25], (tensor(image)[0] * 255).round())
    band = np.full((5, 20, 3), 128, np.uint8)
    ground = Image.fromarray(np.vstack([band, np.array(columns(20, 10)), band]))
    expected = tensor(ground.resize((7, 7), Image.Resampling.BICUBIC))
    assert torch.equal(tokenizer_input(columns(20, 10), "pad", 7), expected)


@pytest.mark.parametrize("size, left", [((65, 64), 0), ((66, 64), 1), ((67, 64), 2), ((69, 64), 2), ((71, 64), 4)])
def test_the_authors_crop_is_rounded_as_torchvisions(size, left):
    """Catches a crop that is a pixel off: torchvision rounds halves to even."""
    for turned in (False, True):
        image = columns(*size).transpose(Image.Transpose.TRANSPOSE) if turned else columns(*size)
        seen = (vae_input(image, "authors", 64, 32)[0] * 255).round()
        line = seen[:, 0, 0] if turned else seen[0, :, 0]
        assert seen.shape == (64, 64, 3) and line.tolist() == list(range(left, left + 64))


def test_the_authors_resize_the_shorter_side():
    """Catches the longer side rounded instead of cut, bicubic, and a crop before the resize."""
    image = picture(50, 30)  # 32 high is 53.3 wide
    resized = image.resize((53, 32), Image.Resampling.BILINEAR).crop((10, 0, 42, 32))
    assert torch.equal(vae_input(image, "authors", 32, 32), tensor(resized))


def test_the_autoencoder_sees_the_middle_or_the_own_shape():
    """Catches bicubic, a crop that is resized first, a picture turned on its side, and a square made of everything."""
    image = picture(50, 30)
    middle = image.crop((10, 0, 40, 30)).resize((32, 32), Image.Resampling.BILINEAR)
    assert torch.equal(vae_input(image, "crop", 32, 8), tensor(middle))
    for fit in ("stretch", "pad"):
        expected = image.resize((40, 24), Image.Resampling.BILINEAR)
        assert torch.equal(vae_input(image, fit, 32, 8), tensor(expected))


def test_own_sizes_keep_aspect_and_area():
    """Catches width and height swapped, sides that the autoencoder cannot take, pictures that grow or lose shape."""
    assert fit_size(640, 480, 1024, 32) == (1152, 864) and fit_size(300, 200, 1024, 32) == (1248, 832)
    assert fit_size(1920, 1080, 1024, 32) == (1376, 768)
    for side, multiple in ((1024, 32), (128, 32), (64, 8), (32, 32)):
        assert fit_size(7, 7, side, multiple) == fit_size(5000, 5000, side, multiple) == (side, side)
    drawn = np.random.default_rng(0).integers(100, 3000, (500, 2)).tolist()
    for width, height in (pair for pair in drawn if max(pair) <= 8 * min(pair)):
        size = fit_size(width, height, 1024, 32)
        assert size[0] % 32 == size[1] % 32 == 0 and fit_size(height, width, 1024, 32) == size[::-1]
        assert abs(math.log(size[0] / size[1] * height / width)) < 0.04 and 0.94 < size[0] * size[1] / 1024**2 < 1.06


def test_the_nearer_aspect_wins():
    """Catches sides that are rounded one by one: 2.4 x 1.6 cells would be a square."""
    assert fit_size(150, 100, 64, 32) == (96, 64) and fit_size(100, 150, 64, 32) == (64, 96)


@pytest.mark.parametrize("fit", ["stretch", "pad", "authors"])
def test_a_strip_is_an_error_that_says_what_to_do(fit):
    """Catches a strip whose shorter side vanishes, or that is blown up until memory ends."""
    assert vae_input(Image.new("RGB", (80, 10)), fit, 64, 8).shape[-1] == 3
    for size in ((81, 10), (10, 81)):
        with pytest.raises(Blip3oError, match=f"{size[0]}x{size[1]}.*at most 8 times.*'crop'"):
            vae_input(Image.new("RGB", size), fit, 64, 8)
    assert vae_input(Image.new("RGB", (81, 10)), "crop", 64, 8).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("fit", FITS)
def test_one_pixel_is_a_picture(fit):
    """Catches a crop or a size that becomes 0."""
    dot = Image.new("RGB", (1, 1), (255, 0, 51))
    for seen in (tokenizer_input(dot, fit, 9), vae_input(dot, fit, 32, 8)):
        assert seen.dtype == torch.float32 and seen.shape[1] == seen.shape[2] and seen.shape[1] in (9, 32)
        assert torch.equal(seen, torch.tensor([1.0, 0.0, 0.2]).expand_as(seen))


def test_an_unknown_fit_is_an_error():
    """Catches a misspelt fit that silently is one of the others."""
    for view in (tokenizer_input, lambda *given: vae_input(*given, 8)):
        with pytest.raises(Blip3oError, match="'cover'.*stretch, pad, crop, authors"):
            view(Image.new("RGB", (4, 4)), "cover", 32)
