"""The look at held-out tasks: what the best checkpoint is chosen by, and the images that people look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...files import read_json
from ...images.png import save_png
from ...seeds import seed_of
from ..run_folder import saving
from .judging import OpenTask, candidates_of, judge_each, summary
from .processes import rank_and_count, share, together
from .tasks import Task

if TYPE_CHECKING:
    from ...rewards.mix import RewardMix

# Tasks and a seed for each -> an image (H, W, 3) in [0, 1] on the CPU for each.
MakeImages = Callable[[Sequence[Task], Sequence[int]], Sequence[torch.Tensor]]
GAP = 2  # pixels between the images of a row


@dataclass(frozen=True)
class HeldOut:
    """What a run looks at. `samples`: how many of the first images are kept to look at."""

    tasks: Sequence[Task]
    mix: "RewardMix"
    open_task: OpenTask
    pass_at: float | None = None
    samples: int = 0


@dataclass(frozen=True)
class Look:
    """What was seen: an entry for the log, and the first images with their rewards (in every process)."""

    entry: dict[str, Any]
    images: list[torch.Tensor]
    rewards: list[float | None]

    @property
    def score(self) -> float | None:
        """What checkpoints are compared by: the share that passed, or without `pass_at` the mean reward.

        None where no reward gave any image a number.
        """
        return self.entry.get("passed", self.entry.get("reward"))


def look(held_out: HeldOut, make: MakeImages) -> Look:
    """Make and judge an image for each task. Task k has its own seed, the same at every look.

    Where there are several processes all must call it: each makes its share of the images, and all get the result.
    """
    rank, count = rank_and_count()
    mine = range(rank, len(held_out.tasks), count)
    own = [held_out.tasks[row] for row in mine]
    images = together(lambda: list(make(own, [seed_of("held out", row) for row in mine])) if own else [])
    judged = judge_each(held_out.mix, candidates_of(own, images, held_out.open_task))
    entry = summary(own, judged, held_out.pass_at, mine)
    rewards = [reward if judged.is_judged(k) else None for k, reward in enumerate(judged.rewards)]
    kept = share([(row, images[k], rewards[k]) for k, row in enumerate(mine) if row < held_out.samples])
    first = sorted((one for some in kept for one in some), key=lambda one: one[0])
    return Look(entry, [image for _, image, _ in first], [reward for _, _, reward in first])


def was_seen(log: Path, step: int) -> bool:
    """Whether a run's log has a look behind update `step`: one that failed is made again by a resumed run."""
    return log.is_file() and any(
        f'{{"step": {step},' in line and '"held_out_' in line for line in log.read_text(encoding="utf-8").splitlines()
    )


def is_better(seen: Look, best: Path | None) -> bool:
    """Whether a checkpoint with this look takes the place of the best one so far.

    A look in which a reward failed, or none gave a number, cannot be compared: it is kept only until there is another.
    """
    if best is None:
        return True
    before = read_json(best / "training" / "held_out.json")
    now, then = seen.score, before["score"]
    is_whole = now is not None and "failed" not in seen.entry
    if not is_whole or then is None or "held_out_failed" in before:
        return is_whole
    return now > then


def save_samples(folder: Path, step: int, held_out: HeldOut, seen: Look) -> str | None:
    """Write the look's images in a row into `samples/` of a run's folder -> the path in that folder.

    The file names the prompts, rewards and widths of the images, for the report.
    """
    if not seen.images:
        return None
    name = f"samples/step-{step:08d}.png"
    height = max(image.shape[0] for image in seen.images)
    columns = []
    for image in seen.images:
        column = torch.ones(height, image.shape[1] + GAP, 3)
        column[: image.shape[0], : image.shape[1]] = image
        columns.append(column)
    facts = {
        "step": step,
        "prompts": [task.prompt for task in held_out.tasks[: len(seen.images)]],
        "rewards": seen.rewards,
        "sizes": [[image.shape[1], image.shape[0]] for image in seen.images],
    }
    path = folder / name
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, torch.cat(columns, 1)[:, :-GAP], facts)
    return name
