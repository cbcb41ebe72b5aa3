"""Conditioning -> latents, and the exact sigmas for ComfyUI's own samplers."""

from .comfy_api import io
from .inputs import Node
from .sockets import CATEGORY, decimal_input, seed_input


class DiffusionSampler(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oDiffusionSampler",
            display_name="BLIP3o Diffusion Sampler",
            category=CATEGORY,
            description="Renders the image tokens as a latent, in exactly even Euler steps as in the authors' code.",
            search_aliases=["blip3o ksampler", "flow matching", "euler", "render tokens", "cfg"],
            inputs=[
                io.Model.Input("model", tooltip="From BLIP3o Loader, with or without LoRAs."),
                io.Conditioning.Input("positive", tooltip="From BLIP3o Hidden-State Conditioner."),
                io.Conditioning.Input(
                    "negative", tooltip="From BLIP3o Hidden-State Conditioner. Unused while guidance is 1."
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Empty Latent Image for the size, or an encoded image. One latent serves a whole batch.",
                ),
                seed_input(
                    "noise_seed",
                    "A new seed renders the same tokens in another way. Further images of a batch use noise_seed + 1, "
                    "noise_seed + 2, ...",
                ),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="The authors' code takes 30."),
                decimal_input(
                    "guidance",
                    2.0,
                    0.0,
                    30.0,
                    0.1,
                    "How strongly the image follows the tokens; KSampler calls it cfg. 1 is off, and twice as fast.",
                ),
                decimal_input(
                    "denoise", 1.0, 0.01, 1.0, 0.01, "1 starts from noise. Lower values keep more of latent_image."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="Connect it to VAE Decode, with the VAE of BLIP3o Loader."
                )
            ],
        )

    @classmethod
    def run(cls, model, positive, negative, latent_image, noise_seed, steps=30, guidance=2.0, denoise=1.0):
        from .host.sampling import SamplerSettings, render

        settings = SamplerSettings(noise_seed, steps, guidance, denoise)
        return io.NodeOutput(render(model, positive, negative, latent_image, settings))


class Scheduler(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oScheduler",
            display_name="BLIP3o Scheduler",
            category=CATEGORY,
            description="Evenly spaced sigmas for SamplerCustomAdvanced. They are exact at any number of steps, which "
            "KSampler's 'simple' is not.",
            search_aliases=["blip3o sigmas", "linspace", "flow matching scheduler"],
            inputs=[
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="The authors' code takes 30."),
                decimal_input(
                    "shift", 1.0, 0.01, 100.0, 0.01, "1 is as trained. Higher values spend more steps on composition."
                ),
                decimal_input(
                    "denoise", 1.0, 0.01, 1.0, 0.01, "Below 1, only the last part of a longer schedule is returned."
                ),
            ],
            outputs=[io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="steps + 1 values; the last one is 0.")],
        )

    @classmethod
    def run(cls, steps=30, shift=1.0, denoise=1.0):
        from ..blip3o_core.diffusion.sampler import sigmas

        return io.NodeOutput(sigmas(steps, shift, denoise))
