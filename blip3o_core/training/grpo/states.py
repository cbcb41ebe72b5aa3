"""TRL's own states of a run, which resuming needs: `trainer/checkpoint-*` in the run's folder."""

import shutil
from pathlib import Path

from ...errors import Blip3oError
from ...files import read_json
from ..run_folder import step_of


def newest_state(folder: Path) -> Path | None:
    """The folder of TRL's newest complete state. TRL writes `trainer_state.json` last."""
    return max(filter(_is_complete, _states(folder)), key=step_of, default=None)


def remove_unfinished(folder: Path, done: int) -> None:
    """Remove what a killed process left of TRL's states: those behind update `done` are written again."""
    for state in _states(folder):
        if step_of(state) > done or not _is_complete(state):
            shutil.rmtree(state)


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def _is_complete(state: Path) -> bool:
    try:
        return read_json(state / "trainer_state.json")["global_step"] == step_of(state)
    except (Blip3oError, KeyError):  # absent, or cut short by a kill
        return False
