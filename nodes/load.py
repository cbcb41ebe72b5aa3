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
            description="Loads a BLIP3o-NEXT checkpoint as four parts: language model, diffusion model, VAE and image "
            "tokenizer. ComfyUI moves them to the GPU and back like any other model.",
            search_aliases=["blip3o checkpoint", "blip3o next", "load blip3o", "sana", "qwen3 image"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=folders.checkpoints(),
                    default=folders.bundled.NAME,
                    tooltip="A checkpoint folder in models/blip3o. The bundled tiny model needs no download.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=DTYPES,
                    default="auto",
                    tooltip="'auto' lets ComfyUI choose for your device. fp16 is not offered because the diffusion "
                    "transformer overflows in it.",
                ),
                io.Combo.Input(
                    "diffusion_folder",
                    options=folders.diffusion_folders(),
                    default=folders.AUTOMATIC,
                    optional=True,
                    advanced=True,
                    tooltip="The folder with transformer/config.json and vae/config.json. 'auto' looks in the "
                    "checkpoint's folder and next to it.",
                ),
                io.Combo.Input(
                    "lm_weights",
                    options=LM_WEIGHTS,
                    default=LM_WEIGHTS[0],
                    optional=True,
                    advanced=True,
                    tooltip="'int8' and 'fp8' store the language model in less memory. It gets slower and writes other "
                    "tokens than with 'same as dtype'.",
                ),
            ],
            outputs=[
                LM.Output("lm", display_name="lm", tooltip="Language model: writes the image tokens."),
                io.Model.Output("model", display_name="model", tooltip="Diffusion transformer: renders the tokens."),
                io.Vae.Output("vae", display_name="vae", tooltip="Autoencoder: turns latents into pixels and back."),
                IMAGE_TOKENIZER.Output(
                    "image_tokenizer",
                    display_name="image_tokenizer",
                    tooltip="TA-Tok: turns images into image tokens. Needed for edits only.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint):
        """ComfyUI's own check only says that a value is not in the list."""
        return True if checkpoint is None else folders.problem_with(checkpoint) or True

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
            description="Loads the image tokenizer (TA-Tok) from its own file, ta_tok.pth. You need it to edit with a "
            "checkpoint that has no image tokenizer.",
            search_aliases=["ta-tok", "tatok", "ta_tok.pth", "siglip", "blip3o tokenizer"],
            inputs=[
                io.Combo.Input("file", options=folders.tatok_files(), tooltip="A .pth file in models/blip3o."),
                io.Combo.Input(
                    "dtype", options=DTYPES, default="auto", tooltip="'auto' lets ComfyUI choose for your device."
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
    def fingerprint_inputs(cls, file, dtype="auto"):
        return folders.file_fingerprint(file)

    @classmethod
    def run(cls, file, dtype="auto"):
        from .host.image_tokenizer import load_tatok_file

        return io.NodeOutput(load_tatok_file(folders.resolve_file(file), dtype))
