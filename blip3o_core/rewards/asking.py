"""A question to one reward: in a thread of its own, with a time limit, and with an answer that is checked.

So a reward that never answers stops nothing but itself, and nothing learns from a number that is none.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import require_finite
from ..errors import Blip3oError, bullet_list, first_line, shown
from .interface import Candidates, Reward

IMAGES = 16  # that a reward may judge within its time limit; it has as much more time as there are more images
_PAUSE = 0.2  # seconds between two questions whether to go on waiting
_SLACK = 1e-6  # of rounding, beyond the ends of a range
_LONGER = "Give it fewer images at once, or raise its timeout in a settings file."


@dataclass(frozen=True)
class Answer:
    """A number for each image or None. `failure`: what is wrong with the reward. `note`: why images have no number.

    `why`: for each image what kept it from having a number, "" where nothing did.
    """

    values: list[float | None]
    failure: str = ""
    note: str = ""
    why: tuple[str, ...] = ()

    def reasons(self) -> tuple[str, ...]:
        """`why`; what is wrong with the whole call stands for each image."""
        return self.why or (self.failure,) * len(self.values)


class Question:
    """A reward that works on images from now on. `timeout`: seconds for each `IMAGES` of them."""

    def __init__(self, reward: Reward, candidates: Candidates, timeout: float):
        self._limits, self._prompts = reward.range, candidates.prompts
        self._seconds = timeout * max(1.0, len(candidates.images) / IMAGES)
        self._deadline = time.monotonic() + self._seconds
        self._outcome: list[tuple[Any, BaseException | None]] = []
        # A daemon: a reward that hangs must not keep the process from ending.
        work = (reward, candidates, self._outcome.append)
        self._thread = threading.Thread(target=_run, args=work, daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether the reward still works."""
        return not self._outcome

    def answer(self, waiting: Callable[[], Any]) -> Answer:
        """Wait for the reward as long as it may take. `waiting` is called meanwhile; what it raises ends the call."""
        while self.is_open and (left := self._deadline - time.monotonic()) > 0:
            waiting()
            self._thread.join(min(left, _PAUSE))
        about = _about(self._prompts)
        if not self._outcome:
            return self._failed(f"did not answer within {self._seconds:g} seconds for {about}. {_LONGER}")
        answer, error = self._outcome[0]
        if error is None:
            return _checked(answer, self._limits, self._prompts)
        if isinstance(error, Blip3oError):
            return self._failed(f"could not judge {about}: {error}")
        return self._failed(
            f"failed for {about}: {type(error).__name__}: {shown(first_line(error))}. Correct the reward."
        )

    def _failed(self, failure: str) -> Answer:
        return Answer([None] * len(self._prompts), failure)


def check_images(candidates: Candidates) -> None:
    """Raise Blip3oError for an image with NaN: no reward could say anything true about it."""
    for place, (image, prompt) in enumerate(zip(candidates.images, candidates.prompts, strict=True), 1):
        what = f"Image {place} of {len(candidates.images)}, with the prompt {_quoted(prompt)},"
        require_finite(image, what, "The model that made it failed: use it in fp32, or look at its training loss.")


def not_asked(count: int) -> Answer:
    """Of a reward whose earlier question is still open."""
    return Answer([None] * count, f"still works on images of an earlier call and was not asked again. {_LONGER}")


def _run(reward: Reward, candidates: Candidates, finish: Callable) -> None:
    """Call a reward -> `finish((answer, error))`. Whatever it raises is its caller's: even SystemExit."""
    try:
        with torch.no_grad():  # a thread has a setting of its own
            finish((candidates.judged_by(reward), None))
    except BaseException as error:
        finish((None, error))


def _checked(answer: Any, limits: tuple[float, float], prompts: Sequence[str]) -> Answer:
    """A reward's answer as numbers, and what is wrong with it. No numbers at all where it does not fit the images."""
    nothing: list[float | None] = [None] * len(prompts)
    if hasattr(answer, "tolist"):  # a tensor or an array
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        return Answer(
            nothing,
            f"gave {shown(repr(answer))} for {_about(prompts)}. A reward must give a list: a number or None for each "
            "image. Correct the reward.",
        )
    if len(answer) != len(prompts):
        return Answer(
            nothing,
            f"gave {len(answer)} values for {_about(prompts)}. A reward must give one for each image. "
            "Correct the reward.",
        )
    values, faults, reasons = [], [], []
    why = [""] * len(prompts)
    for place, (given, prompt) in enumerate(zip(answer, prompts, strict=True), 1):
        value, fault = (None, "") if isinstance(given, Exception) else _number(given, limits)
        values.append(value)
        which = f"image {place} with the prompt {_quoted(prompt)}"
        if isinstance(given, Exception):
            why[place - 1] = _reason(given)
            reasons.append(f"{which}: {why[place - 1]}")
        elif fault:
            why[place - 1] = f"it gave {shown(repr(given))}; {fault}"
            faults.append(f"{shown(repr(given))} for {which}; {fault}")
    note = _unjudged(reasons, len(prompts))
    if len(faults) == 1:
        return Answer(values, f"gave {faults[0]} Correct the reward.", note, tuple(why))
    if faults:
        listed = bullet_list(faults, 5)
        return Answer(
            values, f"gave {len(faults)} values that cannot be used:\n{listed}\nCorrect the reward.", note, tuple(why)
        )
    if reasons and all(value is None for value in values):
        return Answer(values, f"{note.rstrip('.')}. Check what judges them.", why=tuple(why))
    return Answer(values, "", note, tuple(why))


def _unjudged(reasons: list[str], count: int) -> str:
    """About images that could not be judged, while others perhaps were."""
    if not reasons:
        return ""
    first = reasons[0] if len(reasons) == 1 else f"the first is {reasons[0]}"
    return f"could not judge {len(reasons)} of {count} images; {first}"


def _reason(error: Exception) -> str:
    words = str(error) if isinstance(error, Blip3oError) else f"{type(error).__name__}: {first_line(error)}"
    return shown(words, 600)


def _number(given: Any, limits: tuple[float, float]) -> tuple[float | None, str]:
    """A value of a reward as a number, and what is wrong with it."""
    if given is None:
        return None, ""
    try:
        value = None if isinstance(given, str | bytes) else float(given)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch: of more than one value
        value = None
    if value is None:
        return None, "a number or None is needed."
    if not math.isfinite(value):
        return None, "a finite number or None is needed."
    low, high = limits
    if not low - _SLACK * max(1, abs(low)) <= value <= high + _SLACK * max(1, abs(high)):
        return None, f"its range is {low:g} to {high:g}."
    return value, ""


def _about(prompts: Sequence[str]) -> str:
    if len(prompts) == 1:
        return f"the image with the prompt {_quoted(prompts[0])}"
    return f"{len(prompts)} images, the first with the prompt {_quoted(prompts[0])}"


def _quoted(prompt: str) -> str:
    return f"'{shown(prompt, 80)}'"
