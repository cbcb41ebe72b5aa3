"""Scores of images, and the best by them."""

from .comfy_api import io
from .host import reward_files
from .inputs import Node
from .limits import MAX_BATCH
from .sockets import CATEGORY, TOKENS, decimal_input


class ScoreImages(Node):
    FILES = ("reward",)
    LISTS = ("scores",)
    MANY = ("images", "prompt", "tokens", "reference", "mask")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oScoreImages",
            display_name="BLIP3o Score Images",
            category=CATEGORY,
            has_intermediate_output=True,  # so that the note with the scores is shown from the cache, too
            is_input_list=True,
            description="Gives every image a number: how well it fits the prompt, or how much of a reference it kept. "
            "Connect the scores to BLIP3o Pick Best or to BLIP3o Choose Draft.",
            search_aliases=[
                "score images",
                "reward",
                "rate images",
                "best of n",
                "aesthetic score",
                "clip score",
                "ocr",
            ],
            inputs=[
                io.Image.Input("images", tooltip="The images to compare: a batch, or a list of images of any sizes."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What the images should show. Leave it empty to take the prompts of tokens.",
                ),
                io.Combo.Input(
                    "reward",
                    options=reward_files.names(),
                    tooltip="text reads the words in quotes, consistency compares an edit with its reference, tiny "
                    "knows the bundled model. Others are files of yours in models/blip3o_rewards.",
                ),
                TOKENS.Input(
                    "tokens",
                    optional=True,
                    tooltip="The tokens that the images were rendered from. Their prompts count where prompt is empty.",
                ),
                io.Image.Input(
                    "reference", optional=True, tooltip="For an edit: the images before it, for rewards that compare."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="For an edit: white where the image may change. Without it: anywhere.",
                ),
                io.Float.Input(
                    "scores",
                    optional=True,
                    force_input=True,
                    min=-1e9,
                    max=1e9,
                    tooltip="From a second BLIP3o Score Images with the same images: the scores add up.",
                ),
                decimal_input(
                    "weight",
                    1.0,
                    -100.0,
                    100.0,
                    0.05,
                    "The scores are multiplied by this. It matters where several nodes are added up; below 0 it avoids "
                    "what the reward likes.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip="A number for each image, higher is better; none where the reward cannot judge an image.",
                ),
                io.String.Output("info", display_name="info", tooltip="The scores as text. Preview as Text shows it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, reward):
        """As for BLIP3o Loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, reward, **_):
        return [reward_files.fingerprint(name) for name in (reward if isinstance(reward, list) else [reward])]

    @classmethod
    def run(
        cls, images, prompt=("",), reward="text", tokens=None, reference=None, mask=None, scores=None, weight=1.0
    ):  # fmt: skip
        from .host.scores import candidates_of, score

        found, info = score(candidates_of(images, prompt, tokens, reference, mask), reward, weight, scores)
        return io.NodeOutput(found, info)


class PickBest(Node):
    LISTS = ("scores",)
    MANY = ("images",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oPickBest",
            display_name="BLIP3o Pick Best",
            category=CATEGORY,
            is_input_list=True,
            description="Passes on the images with the highest scores. Of equal scores the first image wins.",
            search_aliases=["pick best", "best of n", "select image", "top k images", "filter images", "sort images"],
            inputs=[
                io.Image.Input("images", tooltip="The images that were scored, in the same order."),
                io.Float.Input(
                    "scores",
                    force_input=True,
                    min=-1e9,
                    max=1e9,
                    tooltip="A number for each image, from BLIP3o Score Images: a list of FLOAT, or one FLOAT that "
                    "holds a list. An image without a score loses.",
                ),
                io.Int.Input(
                    "count", default=1, min=1, max=MAX_BATCH, tooltip="How many images to pass on, the best first."
                ),
                io.Int.Input(
                    "group",
                    default=0,
                    min=0,
                    max=MAX_BATCH,
                    optional=True,
                    advanced=True,
                    tooltip="For several prompts: how many neighbouring images each has, so that the best of each are "
                    "passed on. 0 compares all images.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The best images, the best first."),
                io.Float.Output(
                    "scores", display_name="scores", is_output_list=True, tooltip="The scores of these images."
                ),
                io.Int.Output(
                    "index",
                    display_name="index",
                    is_output_list=True,
                    tooltip="Which images these are, counted from 0. An image of Token Generator has seed + index.",
                ),
            ],
        )

    @classmethod
    def run(cls, images, scores=None, count=1, group=0):
        from .host.scores import pick

        return io.NodeOutput(*pick(images, scores, count, group))
