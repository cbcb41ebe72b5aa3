"""A LoRA on the language model."""

from .comfy_api import io
from .host import lora_files
from .inputs import Node
from .sockets import CATEGORY, LM, decimal_input


class LoraLoader(Node):
    FILES = ("lora_name",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oLoraLoader",
            display_name="BLIP3o LoRA Loader",
            category=CATEGORY,
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Adds a LoRA to the language model, which decides what the image shows. For a LoRA of the "
            "diffusion model use LoraLoaderModelOnly.",
            search_aliases=[
                "lora",
                "load lora",
                "lora loader",
                "blip3o lora",
                "peft",
                "adapter",
                "fine-tune",
                "language model lora",
                "text encoder lora",
            ],
            inputs=[
                LM.Input("lm", tooltip="From BLIP3o Loader, or from another BLIP3o LoRA Loader: their changes add up."),
                io.Combo.Input(
                    "lora_name",
                    options=lora_files.names(),
                    tooltip="A .safetensors file in models/loras. For a LoRA of your own training copy its whole "
                    "folder 'adapter' there: the file beside it says how strongly it acts.",
                ),
                decimal_input(
                    "strength",
                    1.0,
                    -10.0,
                    10.0,
                    0.01,
                    "1 is as trained. 0 turns the LoRA off, lower values weaken it, and negative ones do the opposite.",
                ),
            ],
            outputs=[
                LM.Output(
                    "lm",
                    display_name="lm",
                    tooltip="The language model with the LoRA. Connect it to both Token Generator and Conditioner.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name):
        """As for BLIP3o Loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name, strength=1.0, lm=None):
        return lora_files.fingerprint(lora_name)

    @classmethod
    def run(cls, lm, lora_name, strength=1.0):
        from .host.lora import add_lora

        return io.NodeOutput(add_lora(lm, lora_files.resolve(lora_name), strength))
