"""Conditioning -> latents, and the exact sigmas for the stock samplers."""

from .compat import io
from .sockets import CATEGORY, decimal_input, seed_input


class DiffusionSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oDiffusionSampler",
            display_name="BLIP3o Diffusion Sampler",
            category=CATEGORY,
            description="Renders the conditioning: Euler over exactly evenly spaced sigmas, as in the authors' code.",
            search_aliases=["blip3o ksampler", "flow matching", "euler", "render tokens"],
            inputs=[
                io.Model.Input("model", tooltip="Diffusion transformer from BLIP3o Loader, with LoRAs if you like."),
                io.Conditioning.Input("positive", tooltip="From BLIP3o Hidden-State Conditioner."),
                io.Conditioning.Input("negative", tooltip="The null condition. Unused at guidance 1."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Empty Latent Image for the size, or an encoded picture. One row serves a whole batch.",
                ),
                seed_input("noise_seed", "Another seed renders the same tokens anew. Row k of a batch uses seed + k."),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Euler steps."),
                decimal_input("guidance", 2.0, 0.0, 30.0, 0.1, "How far to lead away from the null condition."),
                decimal_input("denoise", 1.0, 0.01, 1.0, 0.01, "1 starts from noise; less keeps some of the latent."),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="For VAE Decode, with the same VAE.")],
        )

    @classmethod
    def execute(cls, model, positive, negative, latent_image, noise_seed, steps=30, guidance=2.0, denoise=1.0):
        from .host.sampling import render

        return io.NodeOutput(render(model, positive, negative, latent_image, noise_seed, steps, guidance, denoise))


class Scheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oScheduler",
            display_name="BLIP3o Scheduler",
            category=CATEGORY,
            description="Evenly spaced sigmas for SamplerCustomAdvanced: exact at any step count, unlike 'simple'.",
            search_aliases=["blip3o sigmas", "linspace", "flow matching scheduler"],
            inputs=[
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="30 in the authors' code."),
                decimal_input("shift", 1.0, 0.01, 100.0, 0.01, "1 as trained; more spends more steps on composition."),
                decimal_input("denoise", 1.0, 0.01, 1.0, 0.01, "Below 1: only the last part of the schedule."),
            ],
            outputs=[io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="steps + 1 values, falling to 0.")],
        )

    @classmethod
    def execute(cls, steps=30, shift=1.0, denoise=1.0):
        from ..blip3o_core.diffusion.sampler import sigmas

        return io.NodeOutput(sigmas(steps, shift, denoise))
