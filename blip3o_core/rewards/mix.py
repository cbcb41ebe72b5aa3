"""Several rewards weighed together, and what happens when one of them fails.

Rewards of this machine are asked one after the other, because each uses all of it. Those that ask another program are
asked at the start and answer meanwhile. What is found never depends on who answers first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Blip3oError, shown
from .asking import Answer, Question, check_images, not_asked
from .interface import Candidates, Reward
from .settings import TIMEOUT, OnError


@dataclass(frozen=True, eq=False)  # each is itself only: a user's reward need not have a hash
class Part:
    """A reward in a mix."""

    reward: Reward
    weight: float = 1.0  # below 0: what it likes is avoided. 0: it is measured and counts for nothing
    timeout: float = TIMEOUT  # seconds for a call with up to 16 images; more images have as much more time
    on_error: OnError = "stop"
    name: str = ""  # in logs and messages; empty: the reward's own
    elsewhere: bool = False  # another program judges: it is asked while others work

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", self.reward.name)


@dataclass(frozen=True)
class Scores:
    """What each reward gave each image, and what went wrong where a reward was skipped or could not judge an image.

    `failed`: the names of those that were skipped. Numbers that they would have given are missing. `why`: for each
    reward and image what kept it from a number, "" where nothing did.
    """

    parts: dict[str, list[float | None]]
    problems: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    why: dict[str, tuple[str, ...]] = field(default_factory=dict)


class RewardMix:
    """Rewards with weights. Raises Blip3oError for none, and for two of one name."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)
        if not self.parts:
            raise Blip3oError("The list of rewards is empty. Name at least one reward.")
        names = [part.name for part in self.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Blip3oError(f"Two rewards have the name {shown(twice[0])!r}. Give each a name of its own.")
        self._asked: dict[str, Question] = {}  # the newest question to each

    @property
    def versions(self) -> dict[str, str]:
        """The version of each reward: with another one the same image may get another number."""
        return {part.name: str(part.reward.version) for part in self.parts}

    def score(self, candidates: Candidates, waiting: Callable[[], Any] = lambda: None) -> Scores:
        """Ask every reward. Raises Blip3oError where one fails that may not be skipped, and for an image with NaN.

        `waiting` is called several times a second meanwhile. What it raises ends the call, such as a user's cancel;
        rewards that are at work then are left to themselves.
        """
        check_images(candidates)
        if not candidates.images:
            return Scores({part.name: [] for part in self.parts})
        begun = {part: self._begin(part, candidates) for part in self.parts if part.elsewhere}
        answers: dict[Part, Answer] = {}
        for part in sorted(self.parts, key=lambda one: one.elsewhere):  # those of this machine first
            question = begun[part] if part in begun else self._begin(part, candidates)
            answer = question.answer(waiting) if question else not_asked(len(candidates.images))
            if answer.failure and part.on_error == "stop":
                raise Blip3oError(f"{_problems(part, answer)[0]} {_SKIPPING}")
            answers[part] = answer
        return Scores(
            {part.name: answers[part].values for part in self.parts},
            [problem for part in self.parts for problem in _problems(part, answers[part])],
            [part.name for part in self.parts if answers[part].failure],
            {part.name: answers[part].reasons() for part in self.parts},
        )

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

    def _begin(self, part: Part, candidates: Candidates) -> Question | None:
        """Ask a reward. None where it still works on an earlier question."""
        before = self._asked.get(part.name)
        if before is not None and before.is_open:
            return None
        question = self._asked[part.name] = Question(part.reward, candidates, part.timeout)
        return question


_SKIPPING = "In a settings file `on_error: skip` continues without its numbers where it fails."


def _problems(part: Part, answer: Answer) -> list[str]:
    return [f"Reward {part.name!r} {words}" for words in (answer.failure, answer.note) if words]
