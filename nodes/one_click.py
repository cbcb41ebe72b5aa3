"""Text to image and edits as one node each, which stands for a graph of the other nodes."""

from .comfy_api import io
from .host import folders
from .inputs import Node
from .limits import MAX_BATCH
from .sample import steps_input
from .sockets import CATEGORY, TOKENS, decimal_input, seed_input


class _OneClick(Node):
    """A node that becomes a graph: ComfyUI runs and caches the nodes in it one by one."""

    FILES = ("checkpoint",)

    @classmethod
    def validate_inputs(cls, checkpoint):
        """As for BLIP3o Loader: the run says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint, **inputs):
        return folders.fingerprint(checkpoint)


class TextToImage(_OneClick):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oTextToImage",
            display_name="BLIP3o Text to Image",
            category=CATEGORY,
            description="An image from a prompt, in one node. It does what the BLIP3o nodes do one by one: a new "
            "noise_seed, size, steps or guidance writes no tokens again.",
            search_aliases=[
                "text to image",
                "txt2img",
                "t2i",
                "one click",
                "all in one",
                "simple",
                "quick start",
                "generate image",
                "blip3o",
            ],
            inputs=[
                _checkpoint_input(),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image shows, in a sentence.",
                ),
                *_seed_inputs(),
                _side_input("width"),
                _side_input("height"),
                steps_input(),
                _guidance_input(),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=MAX_BATCH,
                    tooltip="How many different images to make at once, with seed, seed + 1, seed + 2 and so on. More "
                    "take more memory.",
                ),
            ],
            outputs=_outputs("The image. Connect it to Save Image."),
            enable_expand=True,
        )

    @classmethod
    def run(
        cls, checkpoint, prompt, seed, noise_seed, width=0, height=0, steps=30, guidance=2.0, batch_size=1
    ):  # fmt: skip
        from .host.expansion import Graph, size_of

        graph = Graph(checkpoint)
        tokens = graph.tokens(prompt, seed, batch_size)
        empty = graph.empty(*size_of(checkpoint, width, height))
        image = graph.image(tokens, empty, noise_seed=noise_seed, steps=steps, guidance=guidance)
        return io.NodeOutput(image, tokens, expand=graph.finalize())


class ImageEdit(_OneClick):
    # Links, which go into the graph as they are: its nodes check what arrives.
    ANY_MODEL = ("image", "image_2", "image_3", "mask")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oImageEdit",
            display_name="BLIP3o Image Edit",
            category=CATEGORY,
            description="An edit of an image by an instruction, in one node. It does what the BLIP3o nodes do one by "
            "one: a new noise_seed, steps or guidance writes no tokens again.",
            search_aliases=[
                "image edit",
                "edit image",
                "img2img",
                "image to image",
                "instruct edit",
                "one click",
                "all in one",
                "inpaint",
                "blip3o",
            ],
            inputs=[
                _checkpoint_input(),
                io.Image.Input("image", raw_link=True, tooltip="The image to edit; the instruction calls it image 1."),
                io.String.Input(
                    "instruction",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to change, such as 'make the sky red'.",
                ),
                *_seed_inputs(),
                steps_input(),
                _guidance_input(),
                *(
                    io.Image.Input(
                        f"image_{number}",
                        optional=True,
                        raw_link=True,
                        tooltip=f"A further image to combine; the instruction calls it image {number}.",
                    )
                    for number in (2, 3)
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    raw_link=True,
                    tooltip="White where the image may change, as large as the image. Every other pixel stays as it "
                    "was.",
                ),
            ],
            outputs=_outputs("The edited image. With a mask it is as large as the original."),
            enable_expand=True,
        )

    @classmethod
    def run(
        cls, checkpoint, image, instruction, seed, noise_seed, steps=30, guidance=2.0, image_2=None, image_3=None,
        mask=None,
    ):  # fmt: skip
        from .host.expansion import Graph

        graph = Graph(checkpoint)
        images = [link for link in (image, image_2, image_3) if link is not None]
        reference, latent = graph.reference(images, mask)
        tokens = graph.tokens(instruction, seed, reference=reference)
        edited = graph.image(tokens, latent, reference, noise_seed=noise_seed, steps=steps, guidance=guidance)
        result = edited if mask is None else graph.masked(edited, image, mask)
        return io.NodeOutput(result, tokens, expand=graph.finalize())


def _checkpoint_input():
    return io.Combo.Input(
        "checkpoint",
        options=folders.checkpoints(),
        default=folders.bundled.NAME,
        tooltip="The model that makes the image: a folder in models/blip3o. The bundled one needs no download; it "
        "knows only coloured shapes and short words.",
    )


def _seed_inputs():
    seed = (
        "Another seed gives another image. While it stays, the tokens are kept, and a new noise_seed only renders them "
        "again."
    )
    noise_seed = "Another noise_seed renders the same content with other details, without writing tokens again."
    return [
        seed_input("seed", seed, after=io.ControlAfterGenerate.fixed),
        seed_input("noise_seed", noise_seed),
    ]


def _side_input(name: str):
    tooltip = f"The {name} of the image in pixels. 0 is the size that the checkpoint was trained at."
    return io.Int.Input(name, default=0, min=0, max=16384, step=8, tooltip=tooltip)


def _guidance_input():
    tooltip = "2 is the authors' value. Higher follows the prompt more closely; 1 is twice as fast."
    return decimal_input("guidance", 2.0, 0.0, 30.0, 0.1, tooltip)


def _outputs(image: str):
    return [
        io.Image.Output("image", display_name="image", tooltip=image),
        TOKENS.Output(
            "tokens", display_name="tokens", tooltip="The image as tokens, for BLIP3o Hidden-State Conditioner."
        ),
    ]
