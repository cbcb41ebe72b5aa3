"""The looks of one run: when they are due, what they leave behind, and the best checkpoint so far."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run_folder import Inputs, RunFolder
from ..watch import Watch
from .held_out import HeldOut, MakeImages, is_better, look, save_samples, was_seen
from .processes import rank_and_count, share
from .settings import RlSettings


@dataclass(frozen=True)
class Looks:
    """All processes have one; the first one writes. `fingerprint` and `inputs`: stored with the best checkpoint."""

    settings: RlSettings
    held_out: HeldOut
    folder: RunFolder
    fingerprint: dict[str, Any]
    inputs: Inputs
    watch: Watch

    def is_due(self, step: int) -> bool:
        return step % self.settings.held_out_every == 0 or step == self.settings.updates

    def is_missing(self, step: int) -> bool:
        """Whether a look is due behind update `step` that the log does not have. All processes must call it."""
        return self.is_due(step) and not any(share(was_seen(self.folder.log, step)))

    def take(self, step: int, make: MakeImages, save: Callable[[Path], None]) -> None:
        """Look, log it, and keep the checkpoint that `save` writes into a folder when it is the best so far.

        All processes must call it: each makes a share of the images and waits for the others.
        """
        seen = look(self.held_out, make)
        if rank_and_count()[0]:
            return
        entry = {"step": step, **{f"held_out_{name}": value for name, value in seen.entry.items()}}
        samples = save_samples(self.folder.path, step, self.held_out, seen)
        if samples is not None:
            entry["samples"] = samples
        if is_better(seen, self.folder.last):
            facts = json.dumps({**entry, "score": seen.score}, indent=1)
            with self.folder.new_checkpoint(step, self.fingerprint, self.inputs, keep=1) as staging:
                save(staging)
                (staging / "training" / "held_out.json").write_text(facts, encoding="utf-8")
        self.folder.append_log(entry)
        self.watch.report(entry)
