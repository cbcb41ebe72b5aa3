"""CONDITIONING in files."""

from .comfy_api import io
from .host import saved_files
from .inputs import Node
from .sockets import CATEGORY

END, FOLDER = ".conditioning.safetensors", "conditionings"


class SaveConditioning(Node):
    ANY_MODEL = ("conditioning",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oSaveConditioning",
            display_name="BLIP3o Save Conditioning",
            category=CATEGORY,
            description="Saves conditioning into a file, with every key it has: conditioning of this pack, and of any "
            "other model.",
            search_aliases=[
                "save conditioning",
                "export conditioning",
                "store conditioning",
                "cache conditioning",
                "save prompt encoding",
                "conditioning to file",
            ],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From any node that gives CONDITIONING."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/blip3o",
                    tooltip="How the files in the output folder begin. A number follows, so no file is replaced.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="The same conditioning, unchanged."
                )
            ],
            is_output_node=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def run(cls, conditioning, filename_prefix=f"{FOLDER}/blip3o"):
        from .host import conditioning as files

        saved = files.save(conditioning, filename_prefix, END, cls.hidden)
        return io.NodeOutput(conditioning, ui={"conditionings": [saved]})


class LoadConditioning(Node):
    FILES = ("file",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oLoadConditioning",
            display_name="BLIP3o Load Conditioning",
            category=CATEGORY,
            description="Loads conditioning from a file of BLIP3o Save Conditioning. The model that made it need not "
            "be loaded.",
            search_aliases=[
                "load conditioning",
                "import conditioning",
                "open conditioning",
                "conditioning from file",
                "cached conditioning",
            ],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=saved_files.names(END, FOLDER) or ["blip3o_00001_" + END],
                    tooltip="A .conditioning.safetensors file in the input folder, or in the folder 'conditionings' of "
                    "the output folder. Press R to see new ones.",
                )
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="What was saved, with every key. Connect it where its first node was connected.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file):
        """As for BLIP3o Loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file):
        return saved_files.fingerprint(file, END)

    @classmethod
    def run(cls, file):
        from .host import conditioning as files

        return io.NodeOutput(files.load(saved_files.resolve(file, END, "conditioning")))
