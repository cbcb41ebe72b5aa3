"""What goes wrong is said in words, and the server draws the next picture as if nothing had been."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_checkpoint import make_checkpoint
from tools.comfyui.client import Refused
from tools.comfyui.graphs import equal, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]


@pytest.fixture(scope="module")
def healthy(server):
    """The latents of the plain graph, before anything went wrong."""
    with server.client() as client:
        return latents(server, client.run(text_to_image()))


def fails(client, server, graph, healthy, *words: str) -> None:
    """The run ends in an error with all of these words, and the next run draws what it always drew."""
    result = client.run(graph)
    assert result.status == "error"
    message = result.error["exception_message"]
    assert all(word in message for word in words), message
    assert equal(latents(server, client.run(text_to_image())), healthy)


def changed(**parts) -> dict:
    """The plain graph with these nodes added or replaced."""
    return text_to_image() | parts


def test_interrupt_ends_decoding_at_once_and_the_next_run_is_clean(client, server, healthy, long_checkpoint):
    """A loop that looks for the interrupt only between nodes would decode all 2500 tokens."""
    seen = []

    def stop(kind, data):
        if kind == "progress_state" and "generate" in data["nodes"]:
            if not seen:
                client.interrupt()
            seen.append(data["nodes"]["generate"]["value"])

    result = client.run(text_to_image("long"), on_event=stop)
    assert result.status == "interrupted" and result.error["node_id"] == "generate"
    assert seen[-1] < 2500
    assert equal(latents(server, client.run(text_to_image())), healthy)


@pytest.mark.parametrize("name", ["../tiny", "tiny/../tiny", "/etc", "absent"])
def test_names_that_leave_the_model_folder_are_refused(client, name):
    """Catches a path from the outside that reaches a file the creator did not put there, and a name that is not there
    answered with "Invalid input" alone: what the page shows of a refused value."""
    error = client.run(text_to_image(name)).error
    assert error["node_id"] == "load" and error["exception_type"] == "Blip3oError"
    assert repr(name) in error["exception_message"] and "Put the checkpoint's folder" in error["exception_message"]


def test_an_image_tokenizer_that_is_not_there(client):
    """Catches an empty list: the widget would show "undefined", and no run could say what is missing."""
    options = client.object_info("BLIP3oImageTokenizerLoader")["BLIP3oImageTokenizerLoader"]["input"]["required"]
    file = options["file"][1]["options"][0]
    graph = {
        "load": node("BLIP3oImageTokenizerLoader", file=file if file == "ta_tok.pth" else "absent.pth", dtype="auto"),
        "show": node("PreviewAny", source=["load", 0]),
    }
    message = client.run(graph).error["exception_message"]
    assert "Cannot find the file" in message and "Put ta_tok.pth there" in message


def test_a_bypassed_sampler(client, server, healthy):
    """Catches torch's words about a convolution for the empty latent that then reaches VAE Decode."""
    graph = changed(decode=node("VAEDecode", samples=["empty", 0], vae=["load", 2]))
    fails(client, server, graph, healthy, "8 channels", "(1, 4,", "BLIP3o Diffusion Sampler", "bypassed")


def test_zero_steps_are_refused(client):
    """Zero steps would hand noise to the autoencoder."""
    with pytest.raises(Refused):
        client.run(text_to_image(steps=0))


def test_a_size_the_autoencoder_cannot_make(client, server, healthy):
    """The host rounds 8-pixel cells to ours: 200 pixels would silently become another size with 32-pixel cells."""
    make_checkpoint_with_big_cells(server)
    graph = text_to_image("bigcells", size=(136, 128))
    fails(client, server, graph, healthy, "136x128", "multiples of 16", "Nearest: 128x128")


def make_checkpoint_with_big_cells(server) -> None:
    from tests.support.tiny_checkpoint import Sizes

    folder = server.base / "models/blip3o/bigcells"
    if not folder.exists():
        make_checkpoint(folder, sizes=Sizes(vae_widths=(8, 16, 16, 16, 32)))


def test_a_latent_of_another_model(client, server, healthy):
    """Four channels where the model has eight: torch's own message would name a convolution."""
    graph = changed(noisy=node("LatentMultiply", samples=["empty", 0], multiplier=1.0))
    path = server.base / "input"
    path.mkdir(exist_ok=True)
    save_file({"latent_tensor": torch.ones(1, 4, 16, 16), "latent_format_version_0": torch.tensor([])},
              path / "foreign.latent")  # fmt: skip
    graph["empty"] = node("LoadLatent", latent="foreign.latent")
    del graph["noisy"]
    fails(client, server, graph, healthy, "4 channels", "8", "VAE")


def test_tokens_of_another_checkpoint(client, server, healthy, other_checkpoint):
    """Codes mean something else in another vocabulary: the picture would be noise."""
    graph = changed(other=node("BLIP3oLoader", checkpoint="other", dtype="auto"))
    graph["condition"]["inputs"]["lm"] = ["other", 0]
    fails(client, server, graph, healthy, "different checkpoint", "80 codes", "96 codes")


def test_conditioning_of_another_width(client, server, healthy):
    """Connecting a text encoder of another family must not end in a matrix-shape message."""
    graph = text_to_image()
    graph |= {
        "wide": node("BLIP3oLoader", checkpoint="wide", dtype="auto"),
        "generate2": node("BLIP3oTokenGenerator", lm=["wide", 0], prompt="x", seed=1, batch_size=1, sampling="greedy"),
        "condition": node("BLIP3oHiddenStateConditioner", lm=["wide", 0], tokens=["generate2", 0]),
    }
    from tests.support.tiny_checkpoint import Sizes

    folder = server.base / "models/blip3o/wide"
    if not folder.exists():
        make_checkpoint(folder, sizes=Sizes(cross_width=48))
    fails(client, server, graph, healthy, "width 40", "width 48")


def test_reference_latents_on_a_model_without_a_path_for_them(client, server, healthy):
    """Dropping them silently would make an edit that ignores its picture."""
    graph = changed(
        reference=node("ReferenceLatent", conditioning=["condition", 0], latent=["start", 0]),
        start=node("EmptyLatentImage", width=128, height=128, batch_size=1),
    )
    graph["sample"]["inputs"]["positive"] = ["reference", 0]
    fails(client, server, graph, healthy, "reference latents", "Remove ReferenceLatent")


@pytest.mark.parametrize(("prompt", "word"), [("   ", "Describe the image"), ("fox " * 500, "tokens long")])
def test_prompts_that_cannot_be_drawn(client, server, healthy, prompt, word):
    """An over-long prompt cut on the right loses the token that starts the picture."""
    fails(client, server, text_to_image(prompt=prompt), healthy, word)


def test_an_unknown_sampling_option(client, server, healthy):
    """The host lets unknown options of a dynamic combo through to the node."""
    fails(client, server, text_to_image(sampling="beam"), healthy, "sampling", "greedy")


def test_weights_that_overflow(client, server, healthy, checkpoint):
    """Values that are not finite become a black picture, or a picture of nothing, without a word."""
    weights = load_file(checkpoint / "model.safetensors")
    rows = weights["model.sana.proj_out.weight"].shape
    lora = {
        "diffusion_model.proj_out.lora_up.weight": torch.full((rows[0], 1), 1e30),
        "diffusion_model.proj_out.lora_down.weight": torch.full((1, rows[1]), 1e30),
    }
    folder = server.base / "models/loras"
    folder.mkdir(exist_ok=True)
    save_file(lora, folder / "overflow.safetensors")
    graph = changed(
        lora=node("LoraLoaderModelOnly", model=["load", 1], lora_name="overflow.safetensors", strength_model=1.0)
    )
    for sampler in ("ours", "stock"):
        if sampler == "stock":
            graph["sample"] = node(
                "KSampler", model=["lora", 0], positive=["condition", 0], negative=["condition", 1],
                latent_image=["empty", 0], seed=11, steps=4, cfg=2.0, sampler_name="euler", scheduler="simple",
                denoise=1.0,
            )  # fmt: skip
        graph["sample"]["inputs"]["model"] = ["lora", 0]
        fails(client, server, graph, healthy, "finite", "LoRA")


def test_a_damaged_file(client, server, healthy, checkpoint):
    """A download that was cut short; and the loader must run again once the file is whole."""
    folder = make_checkpoint(server.base / "models/blip3o/damaged")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    fails(client, server, text_to_image("damaged"), healthy, "model.safetensors", "Download it again")
    file.write_bytes(whole)
    assert equal(latents(server, client.run(text_to_image("damaged"))), healthy)
