"""The log of a training, read as it grows, and what the node says and shows of it."""

import json
from pathlib import Path

from ...blip3o_core.errors import Blip3oError
from .training_image import Curve, Point

MOST_WARNINGS = 4
AVERAGED = 20  # steps whose mean is the curve of the loss: one step's says little
_WARNINGS = ("alarms", "problems", "held_out_problems")  # lists in the log


class Log:
    """What `log.jsonl` in the folder of a run says so far."""

    def __init__(self, run: Path, steps: int):
        self.run, self.steps = run, steps
        self.done = 0  # steps
        self._read = 0  # bytes

    def read(self) -> bool:
        """Read what is new -> whether there was anything. Raises Blip3oError where nothing can be learnt."""
        path = self.run / "log.jsonl"
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]  # the last one may be half written
        self._read += len(lines)
        for line in lines.splitlines():
            self._take(json.loads(line))
        return bool(lines)

    def _take(self, entry: dict) -> None:
        raise NotImplementedError

    def curves(self) -> list[Curve]:
        raise NotImplementedError

    def newest(self) -> str:
        """The last step in words; '' before there is one."""
        raise NotImplementedError

    def samples(self) -> Path | None:
        """The newest row of images."""
        raise NotImplementedError


class RewardLog(Log):
    """Of `blip3o grpo`."""

    def __init__(self, run: Path, steps: int):
        super().__init__(run, steps)
        self.rewards: list[Point] = []  # of training images, by update
        self.looks: list[Point] = []  # of the images that are measured with
        self.warnings: list[str] = []
        self._samples: str | None = None  # in the folder of the run
        self._has_looked = False

    def _take(self, entry: dict) -> None:
        if not self._has_looked and any(name.startswith("held_out_") for name in entry):
            self._has_looked = True
            self._look_at_first(entry)
        for name, points in (("reward", self.rewards), ("held_out_reward", self.looks)):
            if name in entry:
                points.append((entry["step"], entry[name]))
        self.done = self.rewards[-1][0] if self.rewards else 0
        self._samples = entry.get("samples", self._samples)
        for warning in (one for name in _WARNINGS for one in entry.get(name, ())):
            if len(self.warnings) < MOST_WARNINGS:
                self.warnings.append(f"Update {entry['step']}: {warning}")

    def _look_at_first(self, entry: dict) -> None:
        for name, share in entry.items():
            if name.startswith("held_out_judged/"):
                reward = name.partition("/")[2]
                self.warnings.append(f"{reward} judges {share:.0%} of the prompts: the others do not ask for it.")
        # A reward that failed, which its settings allow, has numbers another time.
        if not any(name.startswith(("held_out_reward/", "held_out_problems")) for name in entry):
            raise Blip3oError(
                "The reward has no number for any image, so nothing can be learnt. text needs words in quotation marks "
                "in the prompts, tiny a description of the bundled model's shapes, and consistency an edit with its "
                "mask. Change prompts, or choose another reward."
            )

    def curves(self) -> list[Curve]:
        return [
            Curve("reward: in training", self.rewards),
            Curve("on the prompts to measure with", self.looks, is_main=True),
        ]

    def newest(self) -> str:
        return f"Update {self.done}/{self.steps}, reward {self.rewards[-1][1]:.3g}" if self.rewards else ""

    def samples(self) -> Path | None:
        return None if self._samples is None else self.run / self._samples


class LossLog(Log):
    """Of `blip3o train`."""

    def __init__(self, run: Path, steps: int):
        super().__init__(run, steps)
        self.losses: list[Point] = []
        self.means: list[Point] = []  # of the last AVERAGED steps

    def _take(self, entry: dict) -> None:
        self.done = entry["step"]
        self.losses.append((self.done, entry["loss"]))
        last = [loss for _, loss in self.losses[-AVERAGED:]]
        self.means.append((self.done, sum(last) / len(last)))

    def curves(self) -> list[Curve]:
        return [
            Curve("loss: of each step", self.losses),
            Curve(f"mean of the last {AVERAGED}", self.means, is_main=True),
        ]

    def newest(self) -> str:
        return f"Step {self.done}/{self.steps}, loss {self.means[-1][1]:.3g}" if self.means else ""

    def samples(self) -> Path | None:
        return max(self.run.glob("samples/step-*.png"), default=None)
