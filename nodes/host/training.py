"""GRPO of a LoRA for the language model on the wire, in a process of its own, and the LoRA it learnt.

TRL seeds and changes the whole process that it runs in, and that must not be ComfyUI's.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import torch
import yaml

from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.rewards.load import load_rewards
from ...blip3o_core.rewards.settings import RewardList
from ...blip3o_core.settings import load_settings
from .. import requirements
from . import lora_files, notes, reward_files
from .language import Language
from .lora import add_lora
from .training_run import Run
from .training_tasks import read_tasks

PACKAGES = ("accelerate", "datasets", "peft", "pydantic", "scipy", "tensorboard", "trl", "yaml")  # of train and rl
MEASURABLE = 16  # prompts, from which on some are left out of training
SAMPLES = 4  # images that the node shows
PROMPTS = 8  # in an update
TOGETHER = {True: 64, False: 16}  # images in a pass; True: of the bundled model
LOOKS = 5  # at the prompts that are measured with, at least where there are as many updates


@dataclass(frozen=True)
class Request:
    """The node's inputs."""

    prompts: str
    reward: str
    file_name: str
    updates: int
    group: int
    learning_rate: float
    rank: int
    kl: float
    seed: int
    reference: torch.Tensor | None
    mask: torch.Tensor | None


def train(lm: Language, request: Request) -> tuple[Language, str, dict]:
    """(the language model with its new LoRA, the LoRA's name, what the node's page shows).

    Raises ComfyUI's interrupt when the user cancels, and Blip3oError when the training fails; what was learnt until
    then is saved.
    """
    _require_packages()
    if lm.patcher.patches:
        raise Blip3oError(
            "lm has a LoRA or another change, but training starts from the checkpoint alone. Connect lm of BLIP3o "
            "Loader directly."
        )
    tasks = read_tasks(request.prompts, request.reference, request.mask)
    rewards = _rewards(request.reward)
    lora_files.check_new(request.file_name)
    temporary = Path(folder_paths.get_temp_directory()).absolute()
    temporary.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="blip3o_train_", dir=temporary))
    settings = _settings(lm, request, len(tasks.prompts), tasks.write(folder)) | {"rewards": rewards}
    (folder / "grpo.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    if mm.get_torch_device().type != "cpu":
        mm.unload_all_models()
        mm.soft_empty_cache()
    run = Run(folder, request.updates)
    try:
        run.follow()
    except BaseException as ending:
        kept = _keep(run, request.file_name)
        if not kept:
            raise
        if isinstance(ending, Blip3oError):
            raise Blip3oError(f"{ending} What was learnt until then is the LoRA {kept}.") from ending
        notes.show(f"Cancelled. What was learnt is the LoRA {kept}")
        raise
    best = run.best
    name = _keep(run, request.file_name)
    _tell(run, name, best)
    return add_lora(lm, lora_files.resolve(name), 1.0), name, run.shown()


def _require_packages() -> None:
    requirements.check_extras("Training", PACKAGES, "train,rl")


def _rewards(name: str) -> list[dict[str, Any]]:
    """The settings of a reward from the list. Raises Blip3oError for one that a workflow may not use."""
    entry: Any = reward_files.entry(name)
    if isinstance(entry, str) and entry not in reward_files.BUILT_IN:
        listed = load_settings(RewardList, entry).rewards
    else:
        listed = RewardList(rewards=[entry]).rewards
    load_rewards(listed)  # says what is missing before anything starts, and lets no code pass
    return [one.model_dump() for one in listed]


def _settings(lm: Language, request: Request, prompts: int, listed: Path) -> dict[str, Any]:
    on_card = mm.get_torch_device().type != "cpu"
    held_out = min(32, prompts // 4) if prompts >= MEASURABLE else 0
    each = min(PROMPTS, prompts - held_out)
    images = each * request.group
    return {
        "checkpoint": str(lm.folder), "diffusion_folder": str(lm.diffusion_folder), "out": str(listed.parent / "run"),
        "tasks": str(listed), "held_out": held_out or str(listed),
        "updates": request.updates, "prompts": each, "group": request.group, "lr": request.learning_rate,
        "warmup": min(10, request.updates // 10), "kl": request.kl, "seed": request.seed,
        "lora": {"rank": request.rank, "alpha": request.rank, "save": "adapter"}, "adapter_only": True,
        # docs/grpo.md, "The tiny world": with the layer in front it breaks.
        "frozen": ["model.layers.0"] if lm.is_bundled else [],
        "top_p": 0.95,  # as the images are made afterwards
        "batch": max(n for n in range(1, TOGETHER[lm.is_bundled] + 1) if images % n == 0),
        "bf16": on_card, "gradient_checkpointing": on_card, "device": "auto" if on_card else "cpu",
        "held_out_every": max(1, min(20, request.updates // LOOKS)), "samples": SAMPLES, "save_every": 5,
    }  # fmt: skip


def _keep(run: Run, name: str) -> str:
    """Save the LoRA that a run leaves behind -> its name in ComfyUI's list; '' where nothing was learnt."""
    source, saved = run.adapter(), ""
    if source is not None:
        try:
            saved = lora_files.save_new(name, source)
        except Blip3oError as error:
            raise Blip3oError(
                f"{error} What was learnt is in {source} until ComfyUI starts again: copy that folder to models/loras."
            ) from error
        logging.getLogger(__name__).info("BLIP3o: saved the LoRA %s", saved)
    run.remove_weights()
    return saved


def _tell(run: Run, name: str, best: int) -> None:
    looks = run.log.looks
    measured = f"Reward on the prompts to measure with: {looks[0][1]:.3g} before"
    if best:
        words = f"{measured}, {dict(looks)[best]:.3g} after update {best}, which is the best."
    else:
        words = f"{measured}. No update was better, so this is the last one ({looks[-1][1]:.3g})."
    notes.tell([f"Saved as models/loras/{name}. {words}"], logging.INFO)
    notes.tell(run.log.warnings)
