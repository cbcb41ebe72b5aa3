"""Several rewards weighed together, and what happens when one of them fails.

Each reward is called in a thread of its own, so that one that never answers stops nothing but itself. Its answer is
checked before anything learns from it.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ..checks import require_finite
from ..errors import Blip3oError, bullet_list, first_line, shown
from .interface import Candidates, Reward

OnError = Literal["stop", "skip"]
TIMEOUT = 300.0  # seconds
_PAUSE = 0.2  # seconds between two questions whether to go on waiting
_SLACK = 1e-6  # of rounding, beyond the ends of a range


@dataclass(frozen=True, eq=False)  # each is itself only: a user's reward need not have a hash
class Part:
    """A reward in a mix."""

    reward: Reward
    weight: float = 1.0  # below 0: what it likes is avoided. 0: it is measured and counts for nothing
    timeout: float = TIMEOUT  # seconds for one call with all images
    on_error: OnError = "stop"
    name: str = ""  # in logs and messages; empty: the reward's own

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", self.reward.name)


@dataclass(frozen=True)
class Scores:
    """What each reward gave each image, and what went wrong where a reward was skipped."""

    parts: dict[str, list[float | None]]
    problems: list[str] = field(default_factory=list)


class RewardMix:
    """Rewards with weights. Raises Blip3oError for none, and for two of one name."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)
        if not self.parts:
            raise Blip3oError("The list of rewards is empty. Name at least one reward.")
        names = [part.name for part in self.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Blip3oError(f"Two rewards have the name {shown(twice[0])!r}. Give each a name of its own.")
        self._unanswered: dict[str, threading.Thread] = {}

    @property
    def versions(self) -> dict[str, str]:
        """The version of each reward: with another one the same image may get another number."""
        return {part.name: str(part.reward.version) for part in self.parts}

    def score(self, candidates: Candidates, waiting: Callable[[], Any] = lambda: None) -> Scores:
        """Ask every reward. Raises Blip3oError where one fails that may not be skipped, and for an image with NaN.

        `waiting` is called several times a second meanwhile. What it raises ends the call, such as a user's cancel; the
        reward that is at work is left to itself.
        """
        for place, (image, prompt) in enumerate(zip(candidates.images, candidates.prompts, strict=True), 1):
            what = f"Image {place} of {len(candidates.images)}, with the prompt {_quoted(prompt)},"
            require_finite(image, what, "The model that made it failed: use it in fp32, or look at its training loss.")
        scores = Scores({})
        for part in self.parts:
            values, problem = self._ask(part, candidates, waiting)
            if problem and part.on_error == "stop":
                raise Blip3oError(problem)
            scores.parts[part.name] = values
            scores.problems.extend([problem] if problem else [])
        return scores

    def combine(self, scores: Scores, group: int) -> list[float]:
        """The weighted sum for each image, for training. Images of one prompt are `group` neighbours.

        A reward adds nothing to a group of which it judged no image. An image that it alone did not judge gets the mean
        of the others of its group, so that this reward teaches nothing by it.
        """
        totals = [0.0] * self._count(scores, group)
        for part in self.parts:
            for first in range(0, len(totals), group):
                values = scores.parts[part.name][first : first + group]
                judged = [value for value in values if value is not None]
                if judged:
                    mean = math.fsum(judged) / len(judged)
                    for place, value in enumerate(values, first):
                        totals[place] += part.weight * (mean if value is None else value)
        return totals

    def totals(self, scores: Scores, group: int | None = None) -> list[float | None]:
        """The weighted sum for each image, to choose the best of a group; None where it cannot be compared.

        That is an image without a number from a reward that gave one to another image of the group, and every image of
        a group that no reward judged. `group` is the number of neighbours of one prompt; None: all images are.
        """
        count = self._count(scores, group or 1)
        found: list[float | None] = []
        for first in range(0, count, group or count or 1):
            found += self._totals_of_group(scores, slice(first, first + (group or count)))
        return found

    def _totals_of_group(self, scores: Scores, images: slice) -> list[float | None]:
        columns = {part: scores.parts[part.name][images] for part in self.parts}
        used = {part: column for part, column in columns.items() if any(value is not None for value in column)}
        count = len(next(iter(columns.values())))
        rows = [{part: column[place] for part, column in used.items()} for place in range(count)]
        return [
            math.fsum(part.weight * value for part, value in row.items() if value is not None)
            if row and None not in row.values()
            else None
            for row in rows
        ]

    def _count(self, scores: Scores, group: int) -> int:
        """How many images were scored. Raises Blip3oError where they are no whole groups, or scores of another mix."""
        wrong = [part.name for part in self.parts if part.name not in scores.parts]
        if wrong:
            raise Blip3oError(f"The scores lack the reward {shown(wrong[0])!r}. Combine them by the mix that scored.")
        count = len(scores.parts[self.parts[0].name])
        if group < 1 or count % group:
            raise Blip3oError(f"{count} images cannot be split into groups of {group}. Score whole groups.")
        return count

    def _ask(self, part: Part, candidates: Candidates, waiting: Callable[[], Any]) -> tuple[list[float | None], str]:
        """The reward's numbers, and what is wrong with them or nothing. Wrong ones are None."""
        count = len(candidates.images)
        nothing: list[float | None] = [None] * count
        if not count:
            return nothing, ""
        answer, problem = self._call(part, candidates, waiting)
        if not problem:
            values, problem = _checked(answer, part.reward.range, candidates.prompts)
            nothing = values or nothing
        if not problem:
            return nothing, ""
        return nothing, f"Reward {part.name!r} {problem}{'' if part.on_error == 'skip' else _SKIPPING}"

    def _call(self, part: Part, candidates: Candidates, waiting: Callable[[], Any]) -> tuple[Any, str]:
        """What the reward answered, and why it did not."""
        before = self._unanswered.get(part.name)
        if before is not None and before.is_alive():
            return None, f"still works on images of an earlier call and was not asked again. {_LONGER}"
        outcome: list[tuple[Any, BaseException | None]] = []
        # A daemon: a reward that hangs must not keep the process from ending.
        thread = threading.Thread(target=_run, args=(part.reward, candidates, outcome.append), daemon=True)
        thread.start()
        self._unanswered[part.name] = thread
        deadline = time.monotonic() + part.timeout
        while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            waiting()
            thread.join(min(left, _PAUSE))
        about = _about(candidates.prompts)
        if not outcome:
            return None, f"did not answer within {part.timeout:g} seconds for {about}. {_LONGER}"
        self._unanswered.pop(part.name)
        answer, error = outcome[0]
        if isinstance(error, Blip3oError):
            return None, f"could not judge {about}: {error}"
        if error is not None:
            return None, f"failed for {about}: {type(error).__name__}: {shown(first_line(error))}. Correct the reward."
        return answer, ""


_LONGER = "Give it fewer images at once, or raise its timeout in a settings file."
_SKIPPING = " In a settings file `on_error: skip` continues without its numbers where it fails."


def _run(reward: Reward, candidates: Candidates, finish: Callable) -> None:
    """Call a reward -> `finish((answer, error))`. Whatever it raises is its caller's: even SystemExit."""
    try:
        with torch.no_grad():  # a thread has a setting of its own
            finish((candidates.judged_by(reward), None))
    except BaseException as error:
        finish((None, error))


def _checked(answer: Any, limits: tuple[float, float], prompts: Sequence[str]) -> tuple[list[float | None], str]:
    """A reward's answer as numbers, and what is wrong with it. No numbers at all where it does not fit the images."""
    if hasattr(answer, "tolist"):  # a tensor or an array
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        return [], (
            f"gave {shown(repr(answer))} for {_about(prompts)}. A reward must give a list: a number or None for each "
            "image. Correct the reward."
        )
    if len(answer) != len(prompts):
        return [], (
            f"gave {len(answer)} values for {_about(prompts)}. A reward must give one for each image. "
            "Correct the reward."
        )
    values, faults = [], []
    for place, (given, prompt) in enumerate(zip(answer, prompts, strict=True)):
        value, fault = _number(given, limits)
        values.append(value)
        if fault:
            faults.append(f"{shown(repr(given))} for image {place + 1} with the prompt {_quoted(prompt)}; {fault}")
    if not faults:
        return values, ""
    if len(faults) == 1:
        return values, f"gave {faults[0]} Correct the reward."
    return values, f"gave {len(faults)} values that cannot be used:\n{bullet_list(faults, 5)}\nCorrect the reward."


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
