"""Image tokens <-> files."""

from .comfy_api import io
from .host import saved_files
from .inputs import Node
from .sockets import CATEGORY, TOKENS

END, FOLDER = ".tokens.safetensors", "tokens"


class SaveTokens(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oSaveTokens",
            display_name="BLIP3o Save Tokens",
            category=CATEGORY,
            is_output_node=True,
            has_intermediate_output=True,  # so that the note with the file's name is shown from the cache, too
            description="Saves image tokens with all that renders the same image again: codes, hidden states, prompts "
            "and seeds. BLIP3o Load Tokens opens the file.",
            search_aliases=["save tokens", "export tokens", "save image tokens", "keep draft", "safetensors"],
            inputs=[
                TOKENS.Input("tokens", tooltip="The image tokens to save, all rows of them in one file."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/BLIP3o",
                    tooltip="Folder and name in the output folder. A number is added, so that no file is overwritten.",
                ),
            ],
            outputs=[
                TOKENS.Output(
                    "tokens", display_name="tokens", tooltip="The same tokens, for BLIP3o Hidden-State Conditioner."
                )
            ],
        )

    @classmethod
    def run(cls, tokens, filename_prefix=f"{FOLDER}/BLIP3o"):
        from .host.token_files import save

        return io.NodeOutput(tokens, ui=save(tokens, filename_prefix, END, cls.hidden))


class LoadTokens(Node):
    FILES = ("file",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oLoadTokens",
            display_name="BLIP3o Load Tokens",
            category=CATEGORY,
            description="Opens a file of BLIP3o Save Tokens. With the checkpoint that wrote it, or a copy of that, "
            "the image is the same, and no token is written again.",
            search_aliases=["load tokens", "open tokens", "import tokens", "load image tokens", "load draft"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=saved_files.names(END, FOLDER) or ["BLIP3o_00001_" + END],
                    tooltip="A .tokens.safetensors file in ComfyUI's input folder, or in the folder tokens of its "
                    "output folder. The button below uploads one.",
                )
            ],
            outputs=[
                TOKENS.Output(
                    "tokens", display_name="tokens", tooltip="Connect it to BLIP3o Hidden-State Conditioner."
                ),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="How many images, and the seed and prompt of each. Preview as Text shows it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file):
        """As for the checkpoint loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file):
        return saved_files.fingerprint(file, END)

    @classmethod
    def run(cls, file):
        from ..blip3o_core.tokens.file import load_tokens
        from .host.token_files import describe

        tokens = load_tokens(saved_files.resolve(file, END, "image tokens"))
        return io.NodeOutput(tokens, describe(tokens))
