"""A list of prompts for a graph, and their images with scores in one grid."""

from .comfy_api import io
from .host import prompt_files
from .inputs import Node
from .sockets import CATEGORY


class PromptList(Node):
    FILES = ("file",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oPromptList",
            display_name="BLIP3o Prompt List",
            category=CATEGORY,
            description="Gives many prompts one after the other: the nodes behind it run once for each. Each prompt "
            "has a seed of its own that stays the same, so two checkpoints or settings can be compared fairly.",
            search_aliases=["prompt list", "batch prompts", "prompts from file", "benchmark", "evaluate", "test set"],
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt on each line. A line such as '# counting' names the category of those below.",
                ),
                io.Combo.Input(
                    "file",
                    options=prompt_files.names(),
                    tooltip="Or a file in ComfyUI's input folder: .txt with a prompt on each line, or .jsonl, .json or "
                    ".csv with the fields prompt, id and category.",
                ),
                io.Int.Input(
                    "sample", default=0, min=0, max=999, tooltip="Another number gives every prompt another seed."
                ),
                io.Int.Input("limit", default=0, min=0, max=1000, tooltip="Only the first prompts. 0 takes all."),
            ],
            outputs=[
                io.String.Output(
                    "prompts",
                    display_name="prompts",
                    is_output_list=True,
                    tooltip="For Token Generator, Score Images and Evaluation Grid.",
                ),
                io.Int.Output(
                    "seeds",
                    display_name="seeds",
                    is_output_list=True,
                    tooltip="A seed for each prompt: for seed and noise_seed. `blip3o evaluate own` has the same.",
                ),
                io.String.Output(
                    "categories",
                    display_name="categories",
                    is_output_list=True,
                    tooltip="The category of each prompt, for Evaluation Grid.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file):
        """As for BLIP3o Loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file, **_):
        return prompt_files.fingerprint(file)

    @classmethod
    def run(cls, prompts="", file=prompt_files.NONE, sample=0, limit=0):
        from .host.evaluation import list_prompts

        return io.NodeOutput(*list_prompts(prompts, file, sample, limit))


class EvaluationGrid(Node):
    LISTS = ("scores",)
    MANY = ("images", "prompts", "categories")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oEvaluationGrid",
            display_name="BLIP3o Evaluation Grid",
            category=CATEGORY,
            has_intermediate_output=True,  # so that the note with the mean is shown from the cache, too
            is_input_list=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            description="Puts the images of a list of prompts into one grid, each over its score and prompt, and gives "
            "the mean score of each category with its 95 % interval.",
            search_aliases=["contact sheet", "image grid", "xy plot", "evaluate", "benchmark", "compare prompts"],
            inputs=_grid_inputs(),
            outputs=[
                io.Image.Output("grid", display_name="grid", tooltip="All images with their prompts and scores."),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="The mean score of each category and its interval. Preview as Text shows it.",
                ),
            ],
        )

    @classmethod
    def run(cls, images, prompts=(), scores=None, categories=(), columns=4, image_width=256, filename_prefix=""):
        from .host import evaluation

        found = evaluation.evaluate(images, prompts, categories, scores)
        means, table = evaluation.summarise(found)
        if filename_prefix:
            evaluation.save(found, means, filename_prefix, cls.hidden)
        return io.NodeOutput(evaluation.draw(found, columns, image_width), table)


def _grid_inputs():
    return [
        io.Image.Input("images", tooltip="The images of the prompts, as a list: one batch for each prompt."),
        io.String.Input("prompts", force_input=True, optional=True, tooltip="From BLIP3o Prompt List: the labels."),
        io.Float.Input(
            "scores",
            optional=True,
            force_input=True,
            min=-1e9,
            max=1e9,
            tooltip="From BLIP3o Score Images: a number for each image.",
        ),
        io.String.Input(
            "categories",
            force_input=True,
            optional=True,
            tooltip="From BLIP3o Prompt List: each gets a row of the table.",
        ),
        io.Int.Input("columns", default=4, min=1, max=32, tooltip="How many images stand in a row of the grid."),
        io.Int.Input(
            "image_width", default=256, min=64, max=1024, tooltip="How wide each image of the grid is, in pixels."
        ),
        io.String.Input(
            "filename_prefix",
            default="",
            optional=True,
            advanced=True,
            tooltip="Folder and name in the output folder for a .json file with all scores. Empty writes none.",
        ),
    ]
