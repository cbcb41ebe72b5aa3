"""From the name of a task to the task. Its module is imported when it is asked for, and not before."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import Blip3oError, did_you_mean, shown
from ..interface import Task

if TYPE_CHECKING:
    from ...checkpoint import Checkpoint

# Name -> (the module, seen from here, and the function in it that opens the task; what it asks for).
TASKS: dict[str, tuple[str, str]] = {
    "own": (".own:open_task", "a prompt file of yours"),
    "tiny": (".tiny:open_task", "images from text in the world of the bundled model"),
    "tiny-edits": (".tiny_edits:open_task", "edits in the world of the bundled model"),
    "imgedit": (".imgedit:open_task", "ImgEdit: edits of nine kinds"),
    "gedit": (".gedit:open_task", "GEdit-Bench: edits of eleven kinds, in English or Chinese"),
    "geneval": (".geneval:open_task", "GenEval: objects, counts, colours, positions"),
    "dpg": (".dpg:open_task", "DPG-Bench: long prompts"),
    "wise": (".wise:open_task", "WISE_Verified: knowledge of the world"),
    "wise-original": (".wise:open_original", "the original WISE"),
    "text": (".text:open_task", "text in images: own prompts"),
    "flow-grpo-ocr": (".text:open_flow_grpo", "text in images: the prompts of flow_grpo"),
    "longtext": (".text:open_long_text", "LongText-Bench in English"),
    "longtext-zh": (".text:open_long_text_zh", "LongText-Bench in Chinese"),
}
OF_THE_WORLD = ("tiny", "tiny-edits")  # of the bundled model, which has editions


def open_task(
    name: str, data: Path | None = None, options: Mapping[str, str] = {}, checkpoint: "Checkpoint | None" = None
) -> Task:
    """A task by its name. `data`: where the benchmark's files are; `options`: the task's own.

    `checkpoint`: of which images will be made. Tasks of the bundled model's world are of its edition unless an option
    says otherwise.

    Raises Blip3oError for an unknown name, data that the task lacks or cannot read, and options that it does not have.
    """
    if name not in TASKS:
        raise Blip3oError(f"There is no task {shown(name, 60)!r}. {did_you_mean(name, list(TASKS)) or known()}")
    module, _, function = TASKS[name][0].partition(":")
    if checkpoint is not None and name in OF_THE_WORLD:
        from ...tiny.evaluation import edition_of

        options = {"edition": str(edition_of(checkpoint)), **options}
    return getattr(import_module(module, __package__), function)(data, options)


def known() -> str:
    return f"Tasks are {', '.join(TASKS)}."
