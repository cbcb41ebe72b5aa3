"""Checkpoint folder -> the four parts that the other nodes work with."""

from .comfy_api import io
from .host import folders
from .inputs import Node
from .sockets import CATEGORY, IMAGE_TOKENIZER, LM

DTYPES = ["auto", "bf16", "fp32"]
LM_WEIGHTS = ["same as dtype", "int8", "fp8"]  # `host.quantised` says what they mean


class Loader(Node):
    FILES = ("checkpoint", "diffusion_folder")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oLoader",
            display_name="BLIP3o Loader",
            category=CATEGORY,
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Loads a BLIP3o-NEXT checkpoint: everything that makes images from text and edits them. Start "
            "here, and connect the four outputs to the other BLIP3o nodes.",
            search_aliases=[
                "blip3o next",
                "blip3o checkpoint",
                "load blip3o",
                "load checkpoint",
                "checkpoint loader",
                "load model",
                "unified model",
                "unified",
                "sana",
                "qwen3 image",
            ],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=folders.checkpoints(),
                    default=folders.bundled.NAME,
                    tooltip="The model that makes the image: a folder in models/blip3o. The bundled one needs no "
                    "download; it knows only coloured shapes and short words.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=DTYPES,
                    default="auto",
                    tooltip="'auto' lets ComfyUI choose for your device. 'bf16' takes half the memory of 'fp32', and "
                    "the same seed may give another image.",
                ),
                io.Combo.Input(
                    "diffusion_folder",
                    options=folders.diffusion_folders(),
                    default=folders.AUTOMATIC,
                    optional=True,
                    advanced=True,
                    tooltip="'auto' finds the configuration of the diffusion model and the VAE. Choose a folder with "
                    "transformer/config.json and vae/config.json to use another one.",
                ),
                io.Combo.Input(
                    "lm_weights",
                    options=LM_WEIGHTS,
                    default=LM_WEIGHTS[0],
                    optional=True,
                    advanced=True,
                    tooltip="'int8' and 'fp8' store the language model in half the memory of bf16. Writing tokens "
                    "takes longer, and the same seed gives another image.",
                ),
            ],
            outputs=[
                LM.Output(
                    "lm",
                    display_name="lm",
                    tooltip="The language model: it decides what the image shows. For Token Generator and Conditioner.",
                ),
                io.Model.Output(
                    "model",
                    display_name="model",
                    tooltip="The diffusion model: it renders the tokens. For Diffusion Sampler, LoRA loaders or "
                    "KSampler.",
                ),
                io.Vae.Output(
                    "vae",
                    display_name="vae",
                    tooltip="Turns latents into pixels and back. For VAE Decode and Edit-Reference Encoder.",
                ),
                IMAGE_TOKENIZER.Output(
                    "image_tokenizer",
                    display_name="image_tokenizer",
                    tooltip="Turns images into image tokens (TA-Tok). You need it for edits only.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint, diffusion_folder=None):
        """Not before the run: ComfyUI's page shows of a refused value only that there is one, of an error all."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint, dtype="auto", diffusion_folder=folders.AUTOMATIC, lm_weights=LM_WEIGHTS[0]
    ):  # fmt: skip
        return folders.fingerprint(checkpoint, diffusion_folder)

    @classmethod
    def run(cls, checkpoint, dtype="auto", diffusion_folder=folders.AUTOMATIC, lm_weights=LM_WEIGHTS[0]):
        from .host.loaders import load

        diffusion = folders.resolve_diffusion(diffusion_folder)
        return io.NodeOutput(*load(folders.resolve(checkpoint), diffusion, dtype, lm_weights))


class ImageTokenizerLoader(Node):
    FILES = ("file",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oImageTokenizerLoader",
            display_name="BLIP3o Image Tokenizer Loader",
            category=CATEGORY,
            description="Loads the image tokenizer (TA-Tok) from its own file, ta_tok.pth. You need it only to edit "
            "with a checkpoint that has no image tokenizer.",
            search_aliases=["blip3o tokenizer", "load image tokenizer", "ta-tok", "tatok", "ta_tok.pth", "siglip"],
            inputs=[
                io.Combo.Input(
                    "file", options=folders.tatok_files(), tooltip="ta_tok.pth, or another .pth file in models/blip3o."
                ),
                io.Combo.Input(
                    "dtype",
                    options=DTYPES,
                    default="auto",
                    tooltip="'auto' lets ComfyUI choose for your device. 'bf16' takes half the memory of 'fp32'.",
                ),
            ],
            outputs=[
                IMAGE_TOKENIZER.Output(
                    "image_tokenizer",
                    display_name="image_tokenizer",
                    tooltip="Connect it to BLIP3o Edit-Reference Encoder.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file):
        """As for the loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file, dtype="auto"):
        return folders.file_fingerprint(file)

    @classmethod
    def run(cls, file, dtype="auto"):
        from .host.image_tokenizer import load_tatok_file

        return io.NodeOutput(load_tatok_file(folders.resolve_file(file), dtype))
