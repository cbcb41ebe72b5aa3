"""Latents <-> images, sizes that can be rendered, and preview colours."""

from types import SimpleNamespace

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.errors import Blip3oError
from blip3o_core.models import autoencoder
from tests.support.tiny_checkpoint import Sizes, make_checkpoint


@pytest.fixture(scope="module")
def vae(pipeline):
    return pipeline.autoencoder


@pytest.mark.parametrize("height, width", [(2, 2), (3, 7), (8, 1)])
def test_decoding_is_that_of_diffusers(height, width, vae):
    """Catches another range, a missing clamp, swapped sides, and the scaling factor applied a second time."""
    latents = torch.randn(2, 8, height, width, generator=torch.Generator().manual_seed(0)) * 3
    picture = autoencoder.decode(vae, latents)
    with torch.no_grad():
        expected = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert picture.shape == (2, 8 * height, 8 * width, 3) and picture.dtype == torch.float32
    torch.testing.assert_close(picture, expected)
    assert picture.min() >= 0 and picture.max() <= 1


def test_encoding_maps_the_range_of_images_to_the_networks(vae):
    """Catches images in [0, 1] encoded as if they were in [-1, 1], and channels taken for a side."""
    images = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    latents = autoencoder.encode(vae, images)
    with torch.no_grad():
        expected = vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent
    assert latents.shape == (2, 8, 2, 3)
    torch.testing.assert_close(latents, expected)


@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 32), (8, 16, 16, 32)], ids=str)
def test_the_compression_is_read_from_the_config(widths, tmp_path):
    """Catches the published factor of 32 built in."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", sizes=Sizes(vae_widths=widths)))
    factor = autoencoder.compression(checkpoint.autoencoder_config)
    picture = autoencoder.decode(checkpoint.load_autoencoder(), torch.zeros(1, 8, 2, 3))
    assert picture.shape == (1, 2 * factor, 3 * factor, 3)
    assert checkpoint.latent_multiple == factor


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_an_error(bad):
    """Catches a black image where the autoencoder overflowed in fp16."""
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[0, 1, 2, 3] = bad
    vae = SimpleNamespace(dtype=torch.float16, decode=lambda z: SimpleNamespace(sample=pixels))
    with pytest.raises(Blip3oError, match="float16"):
        autoencoder.decode(vae, torch.zeros(1, 4, 1, 1))


@pytest.mark.parametrize("multiple", [8, 32])
def test_sizes_that_can_be_rendered_pass_and_others_name_the_nearest(multiple):
    """Catches a size cut down in silence, a refusal without a way out, and a suggestion that is refused itself."""
    for width in (-8, 0, 20, 32, 63, 64, 100, 504):
        for height in (-1, 0, 31, 64, 96, 504):
            if width > 0 < height and width % multiple == height % multiple == 0:
                autoencoder.check_size(width, height, multiple)
                continue
            with pytest.raises(Blip3oError, match=f"{width}x{height}") as caught:
                autoencoder.check_size(width, height, multiple)
            message = str(caught.value)
            assert f"multiples of {multiple}" in message
            near = [int(side) for side in message.split("Nearest: ")[1].rstrip(".").split("x")]
            autoencoder.check_size(*near, multiple)
            for side, asked in zip(near, (width, height), strict=True):
                assert abs(side - asked) <= multiple / 2 or side == multiple


@pytest.mark.parametrize("size", [(16, 16384), (16384, 16), (32, 10**30)])
def test_a_size_that_has_no_height_when_shown_small_is_refused(size):
    """Catches an image whose preview has a side of 0 pixels, which ends a server that sends it."""
    with pytest.raises(Blip3oError, match="at most 64 times the shorter one"):
        autoencoder.check_size(*size, 8)
    autoencoder.check_size(8, 512, 8)
    with pytest.raises(Blip3oError, match="Nearest: 4096x64"):  # 4096x8 would be refused itself
        autoencoder.check_size(4096, 0, 8)


class Linear:
    """A toy autoencoder: channels are a random linear map of a cell's mean colour, an offset, and fine detail."""

    dtype = torch.float32

    def __init__(self, channels: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(channels, 3, generator=generator)
        self.offset = torch.randn(channels, 1, 1, generator=generator) * 5
        self.detail = torch.randn(channels, 1, 1, generator=generator) * 0.1

    def encode(self, images):
        colours = torch.nn.functional.avg_pool2d(images, 4)
        fine = (images - torch.nn.functional.interpolate(colours, scale_factor=4)).abs().mean(1, keepdim=True)
        fine = torch.nn.functional.avg_pool2d(fine, 4)
        latent = torch.einsum("lc,bchw->blhw", self.matrix, colours) + self.offset + self.detail * fine
        return SimpleNamespace(latent=latent)


@pytest.mark.parametrize("channels", [4, 8, 32])
@pytest.mark.parametrize("seed", [0, 1])
def test_preview_colours_are_learned(channels, seed):
    """Catches a preview whose colours say nothing: on unseen images the error must be far below the mean colour's."""
    vae = Linear(channels, seed)
    factors, bias = autoencoder.preview_factors(lambda images: autoencoder.encode(vae, images), 4, channels)
    assert factors.shape == (channels, 3) and bias.shape == (3,)
    small = torch.rand(20, 3, 3, 3, generator=torch.Generator().manual_seed(99)) * 2 - 1
    images = torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic").clamp(-1, 1)
    colours = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
    guessed = vae.encode(images).latent.permute(0, 2, 3, 1) @ factors + bias
    assert (guessed - colours).pow(2).mean() < 0.05 * (colours - colours.mean((0, 1, 2))).pow(2).mean()


def test_preview_colours_of_a_real_autoencoder(vae):
    """Catches factors that are not finite or not the same twice: the preview would flicker between loads."""
    before = torch.random.get_rng_state()
    factors, bias = autoencoder.preview_factors(lambda images: autoencoder.encode(vae, images), 8, 8)
    again = autoencoder.preview_factors(lambda images: autoencoder.encode(vae, images), 8, 8)
    assert factors.shape == (8, 3) and bias.shape == (3,)
    assert torch.isfinite(factors).all() and torch.isfinite(bias).all()
    assert torch.equal(factors, again[0]) and torch.equal(bias, again[1])
    assert torch.equal(torch.random.get_rng_state(), before)
