"""A folder of images -> shards to train with, from within a graph."""

from .comfy_api import io
from .host import image_folders
from .inputs import Node
from .sockets import CATEGORY, decimal_input

DUPLICATES = ("drop", "keep")


class CurateImages(Node):
    FILES = ("folder",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oCurateImages",
            display_name="BLIP3o Curate Images",
            category=CATEGORY,
            is_output_node=True,
            has_intermediate_output=True,  # so that the notes and the images are shown from the cache, too
            description="Chooses good images with captions from a folder, and writes them as shards for training. "
            "Small, blurred, damaged and doubled images are dropped; the node shows which, and why.",
            search_aliases=[
                "curate images",
                "dataset",
                "training data",
                "filter images",
                "find duplicates",
                "blur detection",
                "captions",
                "shards",
                "webdataset",
            ],
            inputs=_inputs(),
            outputs=[
                io.String.Output(
                    "shards",
                    display_name="shards",
                    tooltip="The folder of the shards. Connect it to shards of BLIP3o Train LoRA on Images.",
                ),
                io.Int.Output("kept", display_name="kept", tooltip="How many images were kept."),
                io.Int.Output("dropped", display_name="dropped", tooltip="How many images were dropped."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder):
        """As for BLIP3o Loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, folder, **_):
        return image_folders.fingerprint(folder)

    @classmethod
    def run(
        cls, folder, output_name, min_side=256, min_sharpness=20.0, near_duplicates=DUPLICATES[0], default_caption="",
    ):  # fmt: skip
        from .host.curation import Request, curate

        drop = near_duplicates == DUPLICATES[0]
        wanted = Request(folder, output_name, min_side, min_sharpness, drop, default_caption)
        shards, kept, dropped, shown = curate(wanted)
        return io.NodeOutput(shards, kept, dropped, ui=shown)


def _inputs():
    return [
        io.Combo.Input(
            "folder",
            options=image_folders.names(),
            tooltip="A folder in ComfyUI's input folder: images, and beside each a text of the same name, such as "
            "cat.jpg and cat.txt.",
        ),
        io.String.Input(
            "output_name",
            default="my-images",
            tooltip="The shards and a report go to output/curated under this name. The same name again updates them.",
        ),
        io.Int.Input(
            "min_side",
            default=256,
            min=0,
            max=16384,
            tooltip="Images whose shorter side has fewer pixels are dropped. 0 keeps all sizes.",
        ),
        decimal_input(
            "min_sharpness",
            20.0,
            0.0,
            100000.0,
            1.0,
            "Images less sharp than this are dropped. Raise it if blurred ones stay, lower it if good ones go; 0 keeps "
            "all.",
        ),
        io.Combo.Input(
            "near_duplicates",
            options=list(DUPLICATES),
            tooltip="drop: of images that look almost the same only the largest stays. keep: all stay.",
        ),
        io.String.Input(
            "default_caption",
            default="",
            optional=True,
            tooltip="The caption of images that have no text beside them; %name% in it is the name of the file. Empty: "
            "these images are dropped.",
        ),
    ]
