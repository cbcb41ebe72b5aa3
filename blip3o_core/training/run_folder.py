"""The folder of one run: checkpoints that appear whole or not at all, and the log of losses.

    log.jsonl  seconds.jsonl  tensorboard/  samples/  cache/  step-00001000/  step-00002000/training/state.pt

A checkpoint is written under a name that starts with a dot, then renamed. A folder without the dot is complete.
"""

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError

from ..errors import Blip3oError, first_line
from ..files import atomic_write, read_json, remove_abandoned, sync

_STEP = "step-"


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, by content: folders may be moved and renamed."""

    checkpoint: str
    data: str
    items: int


class RunFolder:
    def __init__(self, path: Path):
        self.path, self.log, self.seconds = path, path / "log.jsonl", path / "seconds.jsonl"

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        found = [p for p in self.path.glob(_STEP + "*") if re.fullmatch(r"step-[0-9]{8,}", p.name)]
        return sorted((p for p in found if (p / "training" / "state.json").is_file()), key=step_of)

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
        saved = _facts(self.last, "resume_fingerprint")
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

    def require_inputs(self, checkpoint: Path, now: Inputs) -> None:
        """Raise Blip3oError unless the run that saved `checkpoint` began with the same weights and data as `now`."""
        before = Inputs(**_facts(checkpoint, "inputs"))
        if before.checkpoint != now.checkpoint:
            reason = "the checkpoint that it started from has other weights now. Restore that checkpoint"
        elif before.items != now.items:
            reason = f"it was trained on {before.items:,} images, and data has {now.items:,} now. Restore the data"
        elif before.data != now.data:
            reason = "data has other images or captions now, or has them in another order. Restore the data"
        else:
            return
        raise Blip3oError(
            f"{checkpoint} cannot be continued as it was begun: {reason}, or start a new run from {checkpoint}."
        )

    def prepare(self, step: int) -> None:
        """Make the folder, and remove parts of checkpoints and log lines of steps after `step` that a kill left."""
        with saving(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.path)
            for partial in self.path.glob(f".{_STEP}*"):
                _remove(partial)
            for log in (self.log, self.seconds):
                if log.exists():
                    cut_log(log, step)

    def append_log(self, entry: dict) -> None:
        _append(self.log, entry)

    def append_seconds(self, entry: dict) -> None:
        """What a step took. It is not in the log, which a resumed run writes as it would have been."""
        _append(self.seconds, entry)

    @contextlib.contextmanager
    def new_checkpoint(self, step: int, fingerprint: dict, inputs: Inputs, keep: int) -> Iterator[Path]:
        """An empty folder to write a checkpoint into, which gets its name when the block ends.

        Then the oldest are deleted until `keep` are left. When the block fails nothing is left of it.
        """
        staging = self.path / f".{_STEP}{step:08d}"
        try:
            with saving(staging, self._last_words()):
                _remove(staging)
                (staging / "training").mkdir(parents=True)
                yield staging
                self._commit(staging, step, fingerprint, inputs)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        for old in self.checkpoints[:-keep]:
            with contextlib.suppress(OSError):  # somebody looks at it: the next time
                _remove(_put_aside(old))

    def _commit(self, staging: Path, step: int, fingerprint: dict, inputs: Inputs) -> None:
        state = {"step": step, "resume_fingerprint": fingerprint, "inputs": asdict(inputs)}
        (staging / "training" / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for file in (*staging.rglob("*"), self.log):
            if file.is_file():
                sync(file)
        final = self.path / staging.name.removeprefix(".")
        former = _put_aside(final) if final.exists() else None  # of an interrupted run, at the same step
        os.replace(staging, final)
        sync(self.path)
        if former is not None:
            _remove(former)

    def _last_words(self) -> str:
        kept = f"The last checkpoint is {self.last}." if self.last else "No checkpoint was saved before."
        return f"{kept} Free some space or make the folder writable, then continue with --resume."


@contextlib.contextmanager
def saving(
    path: Path,
    remedy: str = "Free some space or choose a folder that can be written, then continue with --resume.",
    only: tuple[int, ...] = (),
) -> Iterator[None]:
    """What goes wrong while files are written becomes a Blip3oError that names `path` and ends with `remedy`.

    `only`: the error numbers that are about writing, where the block does other things, too.
    """
    try:
        yield
    except (OSError, SafetensorError, UnicodeEncodeError) as error:
        if only and isinstance(error, OSError) and error.errno not in only:
            raise
        reason = first_line(error)
    except RuntimeError as error:
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        reason = "the disk is full, or files may not be that large"  # torch says where in its code it noticed
    else:
        return
    raise Blip3oError(f"Cannot write {path}: {reason}. {remedy}")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to fill that becomes `path` when the block ends; when the block fails nothing is left of it."""
    staging = None
    try:
        with saving(path, "Free some space, or give another folder."):
            if "\0" in str(path):
                raise Blip3oError(f"{str(path)!r} has a zero byte, which no name can have. Give another folder.")
            if os.path.lexists(path):
                raise Blip3oError(f"{path} already exists. Give a new folder.")
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.part")
            staging.mkdir()
            yield staging
            os.replace(staging, path)
    except BaseException:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        raise


def _append(log: Path, entry: dict) -> None:
    with saving(log), open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def cut_log(log: Path, step: int) -> None:
    """Remove the lines of steps after `step`, which a resumed run writes again, and lines that a kill cut short."""
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):
        entry = None
        with contextlib.suppress(ValueError):  # half a line, or zeros of a power cut
            entry = json.loads(line)
        if line.endswith(b"\n") and isinstance(entry, dict) and entry.get("step", step + 1) <= step:
            kept.append(line)
    with atomic_write(log) as scratch:
        scratch.write_bytes(b"".join(kept))


def step_of(checkpoint: Path) -> int:
    """The number that the name of a checkpoint ends with."""
    return int(checkpoint.name.rpartition("-")[2])


def state_of(checkpoint: Path) -> tuple[Path, str]:
    """Where the trainer's state of a checkpoint is, and what to do when it cannot be read."""
    return checkpoint / "training" / "state.pt", _remedy(checkpoint)


def _facts(checkpoint: Path, name: str) -> dict:
    """What a checkpoint's state.json says of its run under `name`."""
    path = checkpoint / "training" / "state.json"
    facts = read_json(path, _remedy(checkpoint)).get(name)
    if not isinstance(facts, dict):
        raise Blip3oError(
            f"{path} does not say its {name}: it was changed, or a different program wrote it. {_remedy(checkpoint)}"
        )
    return facts


def _remedy(checkpoint: Path) -> str:
    return f"Remove {checkpoint} to resume from the checkpoint before it."


def _put_aside(checkpoint: Path) -> Path:
    """Rename a checkpoint that is to be deleted: half deleted it must not look complete -> its new path."""
    gone = checkpoint.with_name(f".{checkpoint.name}.old")
    _remove(gone)
    os.replace(checkpoint, gone)
    return gone


def _remove(path: Path) -> None:
    """Delete a folder, or a link without what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
