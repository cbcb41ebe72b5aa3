"""Latents, images and models of another kind on the wires of ComfyUI: one sentence each, from every node."""

import pytest

LATENTS = {
    "torch.rand(8)": r"batch, 8, height, width\), .* has shape \(8,\)\. Connect",
    "torch.rand(8, 16, 16)": r"has shape \(8, 16, 16\)",
    "torch.rand(1, 8, 3, 16, 16)": r"has shape \(1, 8, 3, 16, 16\)",
    "torch.rand(1, 4, 16, 16)": r"has shape \(1, 4, 16, 16\)\. Connect the latent output of BLIP3o Diffusion Sampler",
    "torch.rand(0, 8, 16, 16)": r"has shape \(0, 8, 16, 16\)",
    "torch.rand(1, 8, 0, 16)": r"has shape \(1, 8, 0, 16\)",
    "torch.full((1, 8, 16, 16), float('nan'))": r"contains NaN or infinite values",
}
IMAGES = {
    "torch.rand(1, 5, 5, 3)": r"at least 8 x 8 pixels, .* has shape \(1, 5, 5, 3\)\. Connect Load Image",
    "torch.rand(1, 64, 3, 3)": r"has shape \(1, 64, 3, 3\)",
    "torch.rand(1, 64, 64, 1)": r"has shape \(1, 64, 64, 1\)",
    "torch.rand(64, 64, 3)": r"has shape \(64, 64, 3\)",
    "torch.rand(1, 2, 64, 64, 3)": r"has shape \(1, 2, 64, 64, 3\)",
    "torch.rand(0, 64, 64, 3)": r"has shape \(0, 64, 64, 3\)",
    "torch.full((1, 64, 64, 3), float('nan'))": r"The image to encode contains NaN",
    "None": r"has NoneType",
}
RENDERED = {
    "torch.rand(1, 8, 3, 16, 16)": r"has shape \(1, 8, 3, 16, 16\), but this model needs \(batch, channels",
    "torch.rand(0, 8, 16, 16)": r"has shape \(0, 8, 16, 16\)",
    "torch.rand(1, 16, 16, 16)": r"has 16 channels, but this model needs 8\. Encode the image with the VAE",
    "torch.full((1, 8, 16, 16), float('nan'))": r"starts from contains NaN",
}


def values(table: dict[str, str]) -> str:
    """The code of a dictionary: what each expression is called, and its value."""
    return "{" + ", ".join(f"{code!r}: {code}" for code in table) + "}"


def matches(said: dict[str, str], expected: dict[str, str]) -> None:
    import re

    for name, sentence in said.items():
        assert sentence.startswith("Blip3oError: ") and re.search(expected[name], sentence, re.S), (name, sentence)


def test_what_the_vae_cannot_decode_or_encode(look):
    """Catches tracebacks of Python, the first frame of a video taken for the image, and NaN encoded without a word."""
    said = look(f"""
        vae = module(".nodes.host.vae").load_vae(arguments["folder"], None, "fp32")
        decoders = [lambda one: nodes.VAEDecode().decode(vae, dict(samples=one)),
                    lambda one: nodes.VAEDecodeTiled().decode(vae, dict(samples=one), 64, 32)]
        encoders = [lambda one: nodes.VAEEncode().encode(vae, one),
                    lambda one: nodes.VAEEncodeTiled().encode(vae, one, 64, 32)]
        said = []
        with torch.inference_mode():
            for calls, table in ((decoders, {values(LATENTS)}), (encoders, {values(IMAGES)})):
                said += [{{name: says(lambda: call(one)) for name, one in table.items()}} for call in calls]
            assert nodes.VAEEncode().encode(vae, torch.rand(1, 64, 64, 4))[0]["samples"].shape == (1, 8, 8, 8)
            assert nodes.VAEDecode().decode(vae, dict(samples=torch.rand(2, 8, 4, 4)))[0].shape == (2, 32, 32, 3)
        print(json.dumps(said))
    """)
    for sentences, expected in zip(said, (LATENTS, LATENTS, IMAGES, IMAGES), strict=True):
        matches(sentences, expected)


def test_what_our_sampler_cannot_render(look):
    """Catches torch's messages about convolutions, and a run from NaN that ends in a blame of the transformer."""
    said, other = look(f"""
        ours = module(".nodes.host.sampling")
        settings = ours.SamplerSettings(1, 2, 2.0, 0.5)

        def call(model, latent):
            return ours.render(model, condition(1), condition(2), dict(samples=latent), settings)

        with torch.inference_mode():
            said = {{name: says(lambda: call(model, one)) for name, one in {values(RENDERED)}.items()}}
            stranger = model.clone()
            stranger.model = torch.nn.Module()
            other = says(lambda: call(stranger, torch.rand(1, 8, 16, 16)))
        print(json.dumps([said, other]))
    """)
    matches(said, RENDERED)
    assert "The model is a Module" in other and "BLIP3o Loader" in other


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("setting, sends", [("none", False), ("latent2rgb", True), ("default", True)])
def test_a_prompt_chooses_its_previews(client, setting, sends):
    """Catches previews that are sent although the user turned them off; the server of the tests has them on."""
    from tools.comfyui.graphs import text_to_image

    seed = {"none": 401, "latent2rgb": 402, "default": 403}[setting]
    result = client.run(text_to_image(seed=seed, noise_seed=seed), preview_method=setting)
    assert result.status == "success"
    senders = {preview.metadata.get("node_id") for preview in result.previews}
    assert senders == ({"generate", "sample"} if sends else set())
