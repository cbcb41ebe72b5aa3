"""One training of a LoRA in a process of its own: followed, cancelled, and the LoRA that it leaves behind.

A training seeds and changes the whole process that it runs in, and that must not be ComfyUI's.
"""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.utils
import folder_paths
import yaml
from PIL import Image

from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.files import naming_failures
from . import child, lora_files, notes
from .language import Language
from .training_image import WIDTH, draw
from .training_log import Log

CURVE = "curve.png"
_OFFLINE = {"HF_HUB_OFFLINE": "1"}  # all that a run reads is on this machine
_WHAT = "The training"


def check(lm: Language, file_name: str) -> None:
    """Raise Blip3oError unless the checkpoint of `lm` alone can be trained, into a LoRA of this name."""
    if lm.patcher.patches:
        raise Blip3oError(
            "lm has a LoRA or another change, but training starts from the checkpoint alone. Connect lm of BLIP3o "
            "Loader directly."
        )
    lora_files.check_new(file_name)


def new_folder() -> Path:
    """Of a run. It goes when ComfyUI empties its temporary folder."""
    temporary = Path(folder_paths.get_temp_directory()).absolute()
    temporary.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="blip3o_train_", dir=temporary))


def settings(lm: Language, folder: Path, rank: int) -> dict[str, Any]:
    """What all trainings of a LoRA have in common."""
    on_card = mm.get_torch_device().type != "cpu"
    return {
        "checkpoint": str(lm.folder), "diffusion_folder": str(lm.diffusion_folder), "out": str(folder / "run"),
        "lora": {"rank": rank, "alpha": rank, "save": "adapter"}, "adapter_only": True,
        "bf16": on_card, "gradient_checkpointing": on_card, "device": "auto" if on_card else "cpu",
    }  # fmt: skip


class Run:
    """One command that trains, whose settings put the run into the folder `run` beside them."""

    COMMAND: str
    ADVICE: str  # what to do where memory was full

    def __init__(self, folder: Path, log: Log):
        self.folder, self.log = folder, log
        self._output = folder / "output.txt"
        self._image: Image.Image | None = None

    @property
    def config(self) -> Path:
        return self.folder / f"{self.COMMAND}.yaml"

    def adapter(self) -> Path | None:
        """The folder of the LoRA to keep; None where nothing was learnt."""
        raise NotImplementedError

    def train(self, own: dict[str, Any], file_name: str) -> str:
        """Train with these settings, to the end -> the LoRA's name in ComfyUI's list.

        Raises ComfyUI's interrupt when the user cancels, and Blip3oError when the training fails; what was learnt
        until then is saved.
        """
        self.config.write_text(yaml.safe_dump(own, allow_unicode=True), encoding="utf-8")
        if mm.get_torch_device().type != "cpu":
            mm.unload_all_models()
            mm.soft_empty_cache()
        try:
            self.follow()
        except BaseException as ending:
            kept = self._keep(file_name)
            if not kept:
                raise
            if isinstance(ending, Blip3oError):
                raise Blip3oError(f"{ending} What was learnt until then is the LoRA {kept}.") from ending
            notes.show(f"Cancelled. What was learnt is the LoRA {kept}")
            raise
        return self._keep(file_name)

    def follow(self) -> None:
        """Until the run has ended. Raises ComfyUI's interrupt after a cancel, Blip3oError after a failure."""
        notes.show("Starting the training: the model is loaded a second time")
        bar = comfy.utils.ProgressBar(self.log.steps)
        bar.update_absolute(0)
        cancelled: BaseException | None = None
        with child.started(_WHAT, [self.COMMAND, str(self.config)], self._output, _OFFLINE) as process:
            while (status := child.status_of(process)) is None:
                try:
                    mm.throw_exception_if_processing_interrupted()
                except mm.InterruptProcessingException as interrupt:
                    if cancelled is None:
                        process.terminate()
                        notes.show("Cancelling: this step ends, and its LoRA is saved. Cancel again to stop at once")
                    else:
                        process.kill()
                    cancelled = interrupt
                try:
                    news = self.log.read()
                except Blip3oError:
                    process.kill()
                    raise
                if news:
                    self._show(bar, cancelled is not None)
        self.log.read()
        if cancelled is not None:
            raise cancelled
        if status:
            raise Blip3oError(child.failure(_WHAT, status, self._output, self.ADVICE))

    def _show(self, bar, cancelled: bool) -> None:
        self._image = draw(self.log.curves(), self._samples(), self.log.steps)
        bar.update_absolute(self.log.done, self.log.steps, ("PNG", self._image, WIDTH))
        if self.log.done and not cancelled:
            notes.show(self.log.newest())

    def _samples(self) -> Image.Image | None:
        samples = self.log.samples()
        if samples is None:
            return None
        with Image.open(samples) as image:
            return image.convert("RGB")

    def _keep(self, name: str) -> str:
        """Save the LoRA that the run leaves behind -> its name in ComfyUI's list; '' where nothing was learnt."""
        source, saved = self.adapter(), ""
        if source is not None:
            try:
                saved = lora_files.save_new(name, source)
            except Blip3oError as error:
                raise Blip3oError(
                    f"{error} What was learnt is in {source} until ComfyUI starts again: copy that folder to "
                    "models/loras."
                ) from error
            logging.getLogger(__name__).info("BLIP3o: saved the LoRA %s", saved)
        self._remove_large()
        return saved

    def shown(self) -> dict[str, list[dict[str, str]]]:
        """The last image of the node, as its page shows it."""
        if self._image is None:
            return {}
        with naming_failures(self.folder / CURVE):
            self._image.save(self.folder / CURVE)
        return {"images": [{"filename": CURVE, "subfolder": self.folder.name, "type": "temp"}]}

    def _remove_large(self) -> None:
        """What else is left is small."""
        run = self.folder / "run"
        for path in (run / "trainer", run / "cache", *run.glob("step-*")):
            shutil.rmtree(path, ignore_errors=True)
