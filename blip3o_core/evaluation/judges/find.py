"""The judge of a task, from a YAML file. Each benchmark has its own questions and its own defaults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import Blip3oError
from ...settings import load_settings
from .gedit import GEditOptions, GEditQuestions, GEditQwenOptions
from .imgedit import ImgEditOptions, ImgEditQuestions
from .judge import Judge, Questions
from .options import JudgeOptions
from .wise import WiseOptions, WiseOriginalOptions, WiseOriginalQuestions, WiseQuestions

_JUDGES: dict[str, tuple[type[JudgeOptions], Callable[[Any], Questions]]] = {
    "imgedit": (ImgEditOptions, ImgEditQuestions),
    "gedit": (GEditOptions, GEditQuestions),
    "wise": (WiseOptions, WiseQuestions),
    "wise-original": (WiseOriginalOptions, WiseOriginalQuestions),
}
JUDGED = tuple(_JUDGES)


def open_judge(task: str, settings: Path) -> Judge:
    """Raises Blip3oError for a task whose judge is not known here, faulty settings, and prompts that cannot be read."""
    if task not in _JUDGES:
        raise Blip3oError(f"{task} has no judge behind an address. --judge is for {', '.join(JUDGED)}.")
    kind, questions = _JUDGES[task]
    return Judge(questions(load_settings(kind, settings, variant=_variant if task == "gedit" else None)))


def _variant(content: dict) -> type[GEditOptions]:
    return GEditQwenOptions if content.get("backbone") == "qwen25vl" else GEditOptions
