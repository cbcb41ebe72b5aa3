"""Checkpoint folder -> the four parts the other nodes work with."""

from .compat import io
from .host import folders
from .sockets import CATEGORY, LM, TATOK

LM_WEIGHTS = ["same as dtype", "int8", "fp8"]  # `host.quantised` has them too, with what they mean


class Loader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oLoader",
            display_name="BLIP3o Loader",
            category=CATEGORY,
            description="Loads a BLIP3o-NEXT checkpoint as four parts, which ComfyUI moves and frees like any model.",
            search_aliases=["blip3o checkpoint", "blip3o next", "load blip3o", "sana", "qwen3 image"],
            inputs=[
                io.Combo.Input(
                    "checkpoint", options=folders.checkpoints(), default=folders.bundled.NAME,
                    tooltip="The tiny model that comes with the pack, or a checkpoint folder under models/blip3o.",
                ),
                io.Combo.Input(
                    "dtype", options=["auto", "bf16", "fp32"], default="auto",
                    tooltip="auto: what ComfyUI chooses for this device. No fp16: the transformer overflows it.",
                ),
                io.Combo.Input(
                    "diffusion_folder", options=folders.diffusion_folders(), default=folders.AUTOMATIC, optional=True,
                    advanced=True,
                    tooltip="Folder with the transformer and vae configs. auto: inside or beside the checkpoint.",
                ),
                io.Combo.Input(
                    "lm_weights", options=LM_WEIGHTS, default=LM_WEIGHTS[0], optional=True, advanced=True,
                    tooltip="int8, fp8: the language model takes less memory, is slower, and writes other tokens.",
                ),
            ],
            outputs=[
                LM.Output("lm", display_name="lm", tooltip="Language model: writes the image tokens."),
                io.Model.Output("model", display_name="model", tooltip="Diffusion transformer: renders them."),
                io.Vae.Output("vae", display_name="vae", tooltip="Autoencoder: latents to pixels."),
                TATOK.Output(
                    "image_tokenizer", display_name="image_tokenizer", tooltip="TA-Tok: pictures to image tokens."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, checkpoint):
        """The host's own check only says that a value is not in the list."""
        return True if checkpoint is None else folders.complaint(checkpoint) or True

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint, dtype="auto", diffusion_folder=folders.AUTOMATIC, lm_weights=LM_WEIGHTS[0]
    ):  # fmt: skip
        return folders.fingerprint(checkpoint, *([] if diffusion_folder == folders.AUTOMATIC else [diffusion_folder]))

    @classmethod
    def execute(cls, checkpoint, dtype="auto", diffusion_folder=folders.AUTOMATIC, lm_weights=LM_WEIGHTS[0]):
        from .host.loaders import load

        folder = folders.resolve(checkpoint)
        diffusion = None if diffusion_folder == folders.AUTOMATIC else folders.resolve(diffusion_folder)
        return io.NodeOutput(*load(folder, diffusion, dtype, lm_weights))


class ImageTokenizerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oImageTokenizerLoader",
            display_name="BLIP3o Image Tokenizer Loader",
            category=CATEGORY,
            description="Loads TA-Tok from its own published file (ta_tok.pth), for checkpoints that come without it.",
            search_aliases=["ta-tok", "ta_tok.pth", "siglip", "blip3o tatok"],
            inputs=[
                io.Combo.Input("file", options=folders.tatok_files(), tooltip="A .pth file under models/blip3o."),
                io.Combo.Input("dtype", options=["auto", "bf16", "fp32"], default="auto", tooltip="As in the loader."),
            ],
            outputs=[
                TATOK.Output(
                    "image_tokenizer", display_name="image_tokenizer", tooltip="For BLIP3o Edit-Reference Encoder."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, dtype="auto"):
        return folders.fingerprint(file)

    @classmethod
    def execute(cls, file, dtype="auto"):
        from .host.language import load_tatok_file

        return io.NodeOutput(load_tatok_file(folders.resolve_file(file), dtype))
