"""Real photographs through a real server: encoded, drawn again from tokens or latents alone, and edited.

They come inside scikit-image and are free to use. On the bundled model, and on the authors' code's own tiny checkpoint.
"""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint.bundled import BUNDLED, NAME
from blip3o_core.editing.references import EditInputs
from blip3o_core.pipeline import Pipeline
from tests.host.test_edit import png
from tools.comfyui.graphs import close, edit, latents, node

SIZES = {"astronaut": (512, 512), "coffee": (600, 400), "rocket": (200, 427)}
# Mean absolute error, of 1, of the bundled autoencoder, which has only seen drawn shapes; measured 0.104, 0.106, 0.146.
# The picture's mean colour alone has 0.249, 0.168, 0.089. Larger latents change little.
BUNDLED_ERROR = 0.17


@cache
def photograph(name: str) -> Image.Image:
    """RGB. The rocket is cut to a tall picture, for none in there is one."""
    import skimage

    [file] = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
    with Image.open(file) as opened:
        whole = opened.convert("RGB")
    return whole.crop((220, 0, 420, 427)) if name == "rocket" else whole


@pytest.fixture(scope="module", autouse=True)
def photographs(server):
    """Uploaded as <name>.png."""
    with server.client() as client:
        for name, size in SIZES.items():
            assert photograph(name).size == size
            client.upload(f"{name}.png", png(photograph(name)))


@pytest.fixture(scope="module", params=["bundled", "golden"])
def model(request, golden):
    """(the graph of `edit` with this checkpoint, the library's pipeline of it), in float32 both."""
    if request.param == "bundled":
        return lambda *names: _graph(names, NAME), Pipeline.load(BUNDLED, dtype=torch.float32)
    pipeline = Pipeline.load(golden / "edit_vae", dtype=torch.float32, diffusion_folder=golden / "sana")
    return lambda *names: _graph(names, "golden/edit_vae", diffusion_folder="golden/sana"), pipeline


def _graph(names, checkpoint: str, **loader) -> dict:
    graph = edit(*(f"{name}.png" for name in names), checkpoint=checkpoint, dtype="fp32")
    graph["load"]["inputs"] |= loader
    return graph


def pixels(client, result) -> torch.Tensor:
    """(H, W, 3) in [0, 1] of the one picture that was saved."""
    assert result.status == "success", result.error
    with Image.open(io.BytesIO(client.view(**result.images[0]))) as image:
        return torch.tensor(np.asarray(image.convert("RGB")), dtype=torch.float32) / 255


def check(client, server, result, pipeline, expected: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The run's latents are the `expected` scaled ones, its picture the library's, of that size; gives the picture."""
    assert close(latents(server, result), expected / pipeline.autoencoder.config.scaling_factor)
    made, wanted = pixels(client, result), pipeline.decode(expected)[0]
    assert made.shape == wanted.shape == (size[1], size[0], 3) and bool(torch.isfinite(expected).all())
    # Saved with 8 bits, rounded down. The bundled model makes almost one colour of a photograph.
    assert (made - wanted).abs().max() < 1.5 / 255 and made.unique().numel() > 3
    return made


@pytest.mark.parametrize(
    "names", [*(pytest.param((name,), marks=pytest.mark.long) for name in SIZES), tuple(SIZES)], ids=" ".join
)
def test_photographs_are_edited_as_by_the_library(client, server, model, names):
    """Sizes, orders or resizing in which only smooth test pictures agree."""
    graph, pipeline = model
    references = pipeline.references([photograph(name) for name in names])
    tokens = pipeline.generate_tokens(["make it blue"], [5], references=references)
    expected = pipeline.latents(tokens, [11], None, 4, 2.0, edit=EditInputs(references))
    check(client, server, client.run(graph(*names)), pipeline, expected, references.vae_sizes[0])


@pytest.mark.parametrize("name", SIZES)
def test_photographs_are_drawn_again_from_their_tokens(client, server, model, name):
    """Codes of detailed pictures that differ between host and library; a picture whose tokens say nothing."""
    graph, pipeline = model
    shown = graph(name)
    shown["condition"]["inputs"] = {"lm": ["load", 0], "tokens": ["encode", 1]}
    del shown["generate"]
    references = pipeline.references([photograph(name)])
    side = pipeline.image_tokenizer.config.image_size
    view = photograph(name).resize((side, side), Image.Resampling.BICUBIC)
    tokens = pipeline.tokens_of(torch.tensor(np.asarray(view))[None] / 255, [""])
    assert torch.equal(tokens.codes, references.codes) and tokens.codes.unique().numel() > 5
    expected = pipeline.latents(tokens, [11], references.vae_sizes[0], 4, 2.0)
    check(client, server, client.run(shown), pipeline, expected, references.vae_sizes[0])


@pytest.mark.parametrize("name", SIZES)
def test_photographs_go_through_the_autoencoder(client, server, model, name):
    """Colours or sides swapped on the way, or a bundled autoencoder that knows only what was drawn for it."""
    graph, pipeline = model
    shown = {key: part for key, part in graph(name).items() if key in ("load", "image1", "encode", "save")}
    shown["decode"] = node("VAEDecode", samples=["encode", 2], vae=["load", 2])
    shown["latents"] = node("SaveLatent", samples=["encode", 2], filename_prefix="latents/latent")
    references = pipeline.references([photograph(name)])
    size, factor = references.vae_sizes[0], pipeline.autoencoder.config.scaling_factor
    made = check(client, server, client.run(shown), pipeline, references.latents[0] * factor, size)
    if pipeline.checkpoint.folder == BUNDLED:
        view = photograph(name).resize(size, Image.Resampling.BILINEAR)
        error = (made - torch.tensor(np.asarray(view)) / 255).abs().mean()
        assert error < BUNDLED_ERROR
