"""A checkpoint whose autoencoder was saved without its encoder: it generates, and an encode says what is missing."""

import pytest
from safetensors.torch import load_file, save_file

from blip3o_core.weights.names import VAE
from tests.host.test_edit import png
from tests.support.pictures import noise
from tests.support.tiny_checkpoint import make_checkpoint
from tools.comfyui.graphs import edit, equal, latents, node, text_to_image

SAID = "The autoencoder of this checkpoint has no encoder, so it cannot encode images. Text to image works;"


@pytest.fixture(scope="module", autouse=True)
def decoder_only(checkpoints):
    """ "decoder-only": "tiny" without the encoder."""
    folder = make_checkpoint(checkpoints / "decoder-only")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor.clone() for name, tensor in weights.items() if not name.startswith(VAE + "encoder.")}
    save_file(kept, folder / "model.safetensors")


def test_it_generates_the_same_image(client, server, checkpoint):
    """Catches text to image refused, or ended by the fit of the preview's colours, for a part that it never runs."""
    result = client.run(text_to_image("decoder-only"))
    assert result.status == "success" and result.images, result.error
    assert equal(latents(server, result), latents(server, client.run(text_to_image())))


def test_an_encode_says_what_is_missing(client):
    """Catches an edit, or VAE Encode, that ends in a library's error or in an image of noise."""
    client.upload("photo.png", png(noise(64, 64)))
    graph = text_to_image("decoder-only")
    graph |= {
        "photo": node("LoadImage", image="photo.png"),
        "empty": node("VAEEncode", pixels=["photo", 0], vae=["load", 2]),
    }
    for failing, at in ((graph, "empty"), (edit("photo.png", checkpoint="decoder-only"), "encode")):
        error = client.run(failing).error
        assert (error["node_id"], error["exception_type"]) == (at, "Blip3oError")
        assert error["exception_message"].startswith(SAID)
