"""Images and what rewards say of them: one number for each image to learn from, and what the log says of all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...errors import Blip3oError
from ...rewards.interface import Candidates
from ...rewards.mix import RewardMix, Scores
from .processes import rank_and_count, share, together
from .tasks import Opened, Task

MAX_PROBLEMS = 5  # that one entry of the log lists

OpenTask = Callable[[Task], Opened]


@dataclass(frozen=True)
class Judged:
    """What the rewards say of some images, in their order."""

    rewards: list[float]  # all of them, weighed together
    parts: dict[str, list[float | None]]
    problems: list[str]
    failed: list[str]  # the names of rewards that were skipped: numbers of theirs are missing

    def is_judged(self, place: int) -> bool:
        """Whether any reward gave this image a number."""
        return any(values[place] is not None for values in self.parts.values())


def candidates_of(tasks: Sequence[Task], images: Sequence[torch.Tensor], open_task: OpenTask) -> Candidates:
    """Images with what their tasks say; `open_task` may remember what it read."""
    opened = [open_task(task) for task in tasks]
    return Candidates(
        images=list(images),
        prompts=[task.prompt for task in tasks],
        references=[one.pixels for one in opened],
        masks=[one.mask for one in opened],
        meta=[task.meta for task in tasks],
    )


def judge(mix: RewardMix, candidates: Candidates, group: int) -> Judged:
    """Score images; `group` neighbours belong to one prompt. Every process judges its own, and all must call it.

    Raises Blip3oError, in every process, for a reward that stops the run in one of them.
    """

    def score() -> Judged:
        if not candidates.images:
            return Judged([], {}, [], [])
        scores = mix.score(candidates)
        rewards = mix.combine(scores, group)
        for prompt, reward in zip(candidates.prompts, rewards, strict=True):
            if not math.isfinite(reward):
                raise Blip3oError(f"The reward for {prompt!r} is {reward}. It must be a finite number.")
        return Judged(rewards, dict(scores.parts), list(scores.problems), list(scores.failed))

    return together(score)


def judge_each(mix: RewardMix, candidates: Candidates) -> Judged:
    """As `judge`, for images that are compared with none of the others.

    In place of a number that one reward left out stands its mean over the images of all processes: 0 would lower the
    image's sum.
    """
    judged = judge(mix, candidates, group=1)
    everywhere, filled = share(judged.parts), {}
    for name, values in judged.parts.items():
        numbers = [number for parts in everywhere for number in parts.get(name, ()) if number is not None]
        mean = math.fsum(numbers) / len(numbers) if numbers else None
        filled[name] = [mean if value is None else value for value in values]
    return replace(judged, rewards=mix.combine(Scores(filled), 1)) if filled else judged


def summary(
    tasks: Sequence[Task], judged: Judged, pass_at: float | None, positions: Sequence[int] | None = None
) -> dict[str, Any]:
    """For the log, of the images of all processes, all of which must call it.

    `reward`, `reward_spread` (standard deviation), the same for each reward by name, what share of the images it gave a
    number if not all, and with `pass_at` the share of images that passed: of all, and of each group. Images without any
    number are left out of these; `unjudged` counts them. If there are any: `problems` of the rewards, and `failed`, the
    names of those that were skipped. `positions` of this process's images among all; None: behind those of the
    processes before it.
    """
    start = 2**32 * rank_and_count()[0]
    own = [
        (
            positions[k] if positions else start + k,
            task.group,
            judged.rewards[k] if judged.is_judged(k) else None,
            {n: v[k] for n, v in judged.parts.items()},
        )
        for k, task in enumerate(tasks)
    ]
    found = share((own, judged.problems, judged.failed))
    rows = sorted((row for rows, _, _ in found for row in rows), key=lambda row: row[0])
    known = [(group, reward) for _, group, reward, _ in rows if reward is not None]
    entry: dict[str, Any] = _mean_and_spread("reward", [reward for _, reward in known])
    for name in rows[0][3]:
        numbers = [parts[name] for _, _, _, parts in rows if parts[name] is not None]
        entry |= _mean_and_spread(f"reward/{name}", numbers)
        if len(numbers) < len(rows):
            entry[f"judged/{name}"] = len(numbers) / len(rows)
    if len(known) < len(rows):
        entry["unjudged"] = len(rows) - len(known)
    if pass_at is not None and known:
        groups: dict[str, list[bool]] = {}
        for group, reward in known:
            groups.setdefault(group, []).append(reward >= pass_at)
        entry["passed"] = sum(map(sum, groups.values())) / len(known)
        entry |= {f"passed/{name}": sum(passed) / len(passed) for name, passed in sorted(groups.items())}
    if problems := list(dict.fromkeys(problem for _, problems, _ in found for problem in problems)):
        more = len(problems) - MAX_PROBLEMS
        entry["problems"] = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    if failed := sorted({name for _, _, names in found for name in names}):
        entry["failed"] = failed
    return entry


def _mean_and_spread(name: str, numbers: Sequence[float]) -> dict[str, float]:
    """Nothing where there are no numbers."""
    if not numbers:
        return {}
    mean = sum(numbers) / len(numbers)
    return {name: mean, f"{name}_spread": math.sqrt(sum((one - mean) ** 2 for one in numbers) / len(numbers))}
