"""The folder of one run: checkpoints that appear whole or not at all, and the log of losses.

    log.jsonl  tensorboard/  samples/  cache/  step-00001000/  step-00002000/training/state.pt

A checkpoint is written under a name that starts with a dot, then renamed. A folder without the dot is complete.
"""

import json
import os
import shutil
from pathlib import Path

from ..errors import Blip3oError
from ..files import atomic_write, read_json, sync
from .train_state import read_state

_STEP = "step-"


class RunFolder:
    def __init__(self, path: Path):
        self.path, self.log = path, path / "log.jsonl"

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        found = [p for p in self.path.glob(_STEP + "*") if (p / "training" / "state.json").is_file()]
        return sorted(found, key=lambda p: p.name)

    @property
    def last(self) -> Path | None:
        return self.checkpoints[-1] if self.checkpoints else None

    def resume_point(self, resume: bool, fingerprint: dict) -> Path | None:
        """The checkpoint to continue from, None at the beginning. Changes nothing, so every process may call it.

        Raises Blip3oError when a run is there and `resume` is false, or when its fingerprint differs from this one.
        """
        if not resume:
            if self.last or self.log.is_file():
                raise Blip3oError(
                    f"{self.path} already contains a run. Continue it with --resume, or set out to a new folder."
                )
            return None
        if self.last is None:
            return None
        saved = read_json(self.last / "training" / "state.json")["resume_fingerprint"]
        fingerprint = json.loads(json.dumps(fingerprint))
        # A setting that was added after the checkpoint was written was off then.
        names = sorted(name for name in {*saved, *fingerprint} if name in saved or fingerprint[name])
        changed = [name for name in names if saved.get(name) != fingerprint.get(name)]
        if changed:
            name = changed[0]
            raise Blip3oError(
                f"{self.last} was trained with {name} {saved.get(name)!r}, but {name} is {fingerprint.get(name)!r} "
                f"now. Resuming would change training. Restore {name}, or start a new run from {self.last}."
            )
        return self.last

    def remove_leftovers(self, step: int) -> None:
        """Remove what a killed process left: half-written checkpoints, and log lines of steps after `step`."""
        self.path.mkdir(parents=True, exist_ok=True)
        for partial in self.path.glob(f".{_STEP}*"):
            shutil.rmtree(partial)
        if self.log.is_file():
            lines = []
            for line in self.log.read_text(encoding="utf-8").splitlines(keepends=True):
                # The last line may have been cut short.
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    lines.append(line)
            with atomic_write(self.log) as scratch:
                scratch.write_text("".join(lines), encoding="utf-8")

    def append_log(self, entry: dict) -> None:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def staging_dir(self, step: int) -> Path:
        """An empty folder to write a checkpoint into, until `commit` gives it its name."""
        staging = self.path / f".{_STEP}{step:08d}"
        if staging.exists():
            shutil.rmtree(staging)
        (staging / "training").mkdir(parents=True)
        return staging

    def commit(self, staging: Path, step: int, fingerprint: dict, keep: int) -> Path:
        """Name the complete checkpoint, then delete the oldest ones until `keep` are left."""
        state = {"step": step, "resume_fingerprint": fingerprint}
        (staging / "training" / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for file in staging.rglob("*"):
            if file.is_file():
                sync(file)
        final = self.path / staging.name.removeprefix(".")
        os.replace(staging, final)
        sync(self.path)
        for old in self.checkpoints[:-keep]:
            # Renamed first: a half-deleted checkpoint must not look complete.
            gone = old.with_name("." + old.name)
            os.replace(old, gone)
            shutil.rmtree(gone)
        return final


def load_state(checkpoint: Path) -> dict:
    """The trainer's state in `training/state.pt` of a checkpoint. Raises Blip3oError when it cannot be read."""
    remedy = f"Remove {checkpoint} to resume from the checkpoint before it."
    return read_state(checkpoint / "training" / "state.pt", remedy)
