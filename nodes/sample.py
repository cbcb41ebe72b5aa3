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
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Renders image tokens as a latent, for VAE Decode. It takes the authors' steps; KSampler "
            "works, too.",
            search_aliases=[
                "sampler",
                "ksampler",
                "blip3o ksampler",
                "generate image",
                "render tokens",
                "flow matching",
                "euler",
                "cfg",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The diffusion model, from BLIP3o Loader. A LoRA loader may stand between."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="What the image shows, from BLIP3o Hidden-State Conditioner."
                ),
                io.Conditioning.Input(
                    "negative", tooltip="From the same BLIP3o Hidden-State Conditioner. Unused while guidance is 1."
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Empty Latent Image sets the size, an encoded image is changed. Leave its batch_size at 1: "
                    "Token Generator's batch_size gives different images.",
                ),
                seed_input(
                    "noise_seed",
                    "Another noise_seed renders the same content with other details, without writing tokens again. "
                    "Further images of a batch count on from it.",
                ),
                steps_input(),
                decimal_input(
                    "guidance",
                    2.0,
                    0.0,
                    30.0,
                    0.1,
                    "2 is the authors' value. Higher follows the prompt more closely; 1 is twice as fast.",
                ),
                decimal_input(
                    "denoise",
                    1.0,
                    0.01,
                    1.0,
                    0.01,
                    "1 makes a new image. Lower values keep more of the image in latent_image.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The rendered image. Connect it to VAE Decode, with the vae of BLIP3o Loader.",
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
            description="The authors' steps as sigmas, for SamplerCustomAdvanced. They are even at any number of "
            "steps, which KSampler's 'simple' is not.",
            search_aliases=["scheduler", "sigmas", "blip3o sigmas", "flow matching scheduler", "linspace"],
            inputs=[
                steps_input(),
                decimal_input(
                    "shift",
                    1.0,
                    0.01,
                    100.0,
                    0.01,
                    "1 is as trained. Higher values spend more of the steps on the composition, lower ones on details.",
                ),
                decimal_input(
                    "denoise",
                    1.0,
                    0.01,
                    1.0,
                    0.01,
                    "1 makes a new image. Lower values keep more of the latent you start from.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    "sigmas",
                    display_name="sigmas",
                    tooltip="Connect it to SamplerCustomAdvanced. It has steps + 1 values; the last one is 0.",
                )
            ],
        )

    @classmethod
    def run(cls, steps=30, shift=1.0, denoise=1.0):
        from ..blip3o_core.diffusion.sampler import sigmas

        return io.NodeOutput(sigmas(steps, shift, denoise))


def steps_input():
    tooltip = "30 is the authors' value. Fewer steps are faster, more steps refine details."
    return io.Int.Input("steps", default=30, min=1, max=1000, tooltip=tooltip)
