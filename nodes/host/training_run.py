"""One run of `blip3o grpo` in a process of its own: followed, cancelled, and what it leaves behind."""

import json
import shutil
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
from PIL import Image

from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.files import naming_failures
from ...blip3o_core.training.grpo.states import newest_state
from ...blip3o_core.training.run_folder import RunFolder, step_of
from . import child, notes
from .training_image import WIDTH, draw

MOST_WARNINGS = 4
CURVE = "curve.png"
_WARNINGS = ("alarms", "problems", "held_out_problems")  # lists in the log
_OFFLINE = {"HF_HUB_OFFLINE": "1"}  # all that a run reads is on this machine


class Log:
    """What the log of a run says so far, read as it grows."""

    def __init__(self, path: Path):
        self._path, self._read = path, 0
        self.rewards: list[tuple[int, float]] = []  # of training images, by update
        self.looks: list[tuple[int, float]] = []  # of the images that are measured with
        self.samples: str | None = None  # the newest file of samples, in the folder of the run
        self.warnings: list[str] = []
        self.has_looked = False
        self.is_judged = True  # whether the rewards gave any image of the first look a number

    def read(self) -> bool:
        """Read what is new -> whether there was anything."""
        if not self._path.is_file():
            return False
        with open(self._path, "rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]  # the last one may be half written
        self._read += len(lines)
        for line in lines.splitlines():
            self._take(json.loads(line))
        return bool(lines)

    def _take(self, entry: dict) -> None:
        if not self.has_looked and any(name.startswith("held_out_") for name in entry):
            self.has_looked = True
            # A reward that failed, which its settings allow, has numbers another time.
            self.is_judged = any(name.startswith(("held_out_reward/", "held_out_problems")) for name in entry)
            for name, share in entry.items():
                if name.startswith("held_out_judged/"):
                    reward = name.partition("/")[2]
                    self.warnings.append(f"{reward} judges {share:.0%} of the prompts: the others do not ask for it.")
        for name, points in (("reward", self.rewards), ("held_out_reward", self.looks)):
            if name in entry:
                points.append((entry["step"], entry[name]))
        self.samples = entry.get("samples", self.samples)
        for warning in (one for name in _WARNINGS for one in entry.get(name, ())):
            if len(self.warnings) < MOST_WARNINGS:
                self.warnings.append(f"Update {entry['step']}: {warning}")


class Run:
    """`folder` has grpo.yaml, which puts the run into `run` beside it."""

    def __init__(self, folder: Path, updates: int):
        self.folder, self.updates = folder, updates
        self.log = Log(folder / "run" / "log.jsonl")
        self._output = folder / "output.txt"
        self._image: Image.Image | None = None

    def follow(self) -> None:
        """Until the run has ended. Raises ComfyUI's interrupt after a cancel, Blip3oError after a failure."""
        notes.show("Starting the training: the model is loaded a second time")
        bar = comfy.utils.ProgressBar(self.updates)
        bar.update_absolute(0)
        cancelled: BaseException | None = None
        words = ["grpo", str(self.folder / "grpo.yaml")]
        with child.started("The training", words, self._output, _OFFLINE) as process:
            while (status := child.status_of(process)) is None:
                try:
                    mm.throw_exception_if_processing_interrupted()
                except mm.InterruptProcessingException as interrupt:
                    if cancelled is None:
                        process.terminate()
                        notes.show("Cancelling: this update ends, and its LoRA is saved. Cancel again to stop at once")
                    else:
                        process.kill()
                    cancelled = interrupt
                if self.log.read():
                    if not self.log.is_judged:
                        process.kill()
                        raise Blip3oError(
                            "The reward has no number for any image, so nothing can be learnt. text needs words in "
                            "quotation marks in the prompts, tiny a description of the bundled model's shapes, and "
                            "consistency an edit with its mask. Change prompts, or choose another reward."
                        )
                    self._show(bar, cancelled is not None)
        self.log.read()
        if cancelled is not None:
            raise cancelled
        if status:
            raise Blip3oError(child.failure("The training", status, self._output, "set group lower"))

    def _show(self, bar, cancelled: bool) -> None:
        done = self.log.rewards[-1][0] if self.log.rewards else 0
        self._image = draw(self.log.rewards, self.log.looks, self._samples(), self.updates)
        bar.update_absolute(done, self.updates, ("PNG", self._image, WIDTH))
        if self.log.rewards and not cancelled:
            notes.show(f"Update {done}/{self.updates}, reward {self.log.rewards[-1][1]:.3g}")

    def _samples(self) -> Image.Image | None:
        if self.log.samples is None:
            return None
        with Image.open(self.folder / "run" / self.log.samples) as image:
            return image.convert("RGB")

    @property
    def best(self) -> int:
        """The update that did best on the prompts that are measured with; 0: none was better than the checkpoint."""
        best = RunFolder(self.folder / "run").last
        return 0 if best is None else step_of(best)

    def adapter(self) -> Path | None:
        """The folder of the LoRA to keep: the best of a run that came to its end, else that of the last state."""
        best = RunFolder(self.folder / "run").last
        ended = bool(self.log.rewards) and self.log.rewards[-1][0] == self.updates
        if ended and best is not None and step_of(best):
            return best / "adapter"
        return newest_state(self.folder / "run" / "trainer")

    def shown(self) -> dict[str, list[dict[str, str]]]:
        """The last image of the node, as its page shows it."""
        if self._image is None:
            return {}
        with naming_failures(self.folder / CURVE):
            self._image.save(self.folder / CURVE)
        return {"images": [{"filename": CURVE, "subfolder": self.folder.name, "type": "temp"}]}

    def remove_weights(self) -> None:
        """What else is left is small, and goes when ComfyUI empties its temporary folder."""
        run = self.folder / "run"
        for path in (run / "trainer", *run.glob("step-*")):
            shutil.rmtree(path, ignore_errors=True)
