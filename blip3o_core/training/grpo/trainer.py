"""TRL's GRPOTrainer on one of our checkpoints, through its public parts: rollout function, reward function, callback.

- The rollout function generates with our decoder on the policy's own parameters. Prompts need no second tokenizer, and
  the decoder's hidden states condition the renderer. Rows of one prompt share their diffusion noise, so that a
  difference in reward comes from the tokens and not from the noise.
- Random numbers are functions of (seed, update, row), so a resumed run has the same ones.
- TRL's own state, which resuming needs, is in `trainer/`. The best checkpoint so far is in `step-*`.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer

from ...checkpoint import open_checkpoint
from ...checkpoint.bundled import resolve_checkpoint
from ...checks import is_finite
from ...errors import Blip3oError
from ...files import read_json
from ...pipeline import Pipeline
from ...seeds import seed_of
from ..run_folder import Inputs, RunFolder, saving, step_of
from ..save import save_checkpoint
from ..watch import Watch
from .policy import make_policy, mask_text_tokens, policy_tensors
from .rollout import Reward, Task, evaluate, pass_rates, rollout, score_images, share
from .settings import GrpoSettings

# What a write says that has no room or no right; a reward may raise others.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# TRL's name -> ours, of the metrics that are logged. `kl` and `entropy` are in nats per token.
_LOGGED = {
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "gradient_norm",
    "learning_rate": "lr",
    "frac_reward_zero_std": "equal_groups",
    "loss": "loss",
}


def run(
    settings: GrpoSettings,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    reward: Reward,
    resume: bool,
    watch: Watch,
) -> Path | None:
    """See `train` in train.py."""
    with warnings.catch_warnings():
        # About names that TRL still uses, and about its rollout function being new.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
        warnings.filterwarnings("ignore", "You are using 'rollout_func'")
        return _run(settings, tasks, held_out, reward, resume, watch)


def _run(settings: GrpoSettings, tasks, held_out, reward: Reward, resume: bool, watch: Watch) -> Path | None:
    folder = RunFolder(Path(settings.out))
    states = folder.path / "trainer"
    source = folder.resume_point(resume, settings.resume_fingerprint)
    state = _newest_state(states) if resume else None
    done = step_of(state) if state else 0
    if done >= settings.updates:
        return folder.last
    arguments = _arguments(settings, states)
    checkpoint = open_checkpoint(resolve_checkpoint(settings.checkpoint), settings.diffusion_folder)
    inputs = Inputs(checkpoint.identity, _identity(tasks[: settings.prompts], held_out), len(held_out))
    if source is not None:
        folder.require_inputs(source, inputs)
    for task in (*tasks, *held_out):
        checkpoint.prompt_encoder.encode(task.prompt)  # raises for a prompt that is too long, before hours of work
    pipeline = Pipeline(checkpoint, arguments.device, torch.float32)
    callback = GrpoCallback(settings, folder, pipeline, HeldOut(held_out, reward, inputs), watch)
    with saving(folder.path):
        if int(os.environ.get("RANK", 0)) == 0:
            folder.prepare(done if state else -1)
            _remove_unfinished(states, done)
        trainer = _trainer(settings, arguments, pipeline, tasks, reward, callback)
    trainer.accelerator.wait_for_everyone()
    # With a mask, the CPU's fused attention has a backward pass four times as slow as plain matrix products.
    plain = sdpa_kernel(SDPBackend.MATH) if arguments.device.type == "cpu" else nullcontext()
    with saving(folder.path, only=_DISK), plain:
        trainer.train(resume_from_checkpoint=str(state) if state else None)
    trainer.accelerator.free_memory()
    return folder.last


def _identity(tasks: Sequence[Task], held_out: Sequence[Task]) -> str:
    """Of the first update's prompts and the held-out ones: more tasks may follow when `updates` is raised."""
    return hashlib.sha256(repr([[task.prompt for task in some] for some in (tasks, held_out)]).encode()).hexdigest()


def _arguments(settings: GrpoSettings, folder: Path) -> GRPOConfig:
    processes = int(os.environ.get("WORLD_SIZE", 1))
    images = settings.prompts * settings.group
    share = images // processes
    batch = min(settings.batch, share)
    if images % processes or share % batch:
        raise Blip3oError(
            f"prompts x group is {images} images per update. They cannot be divided evenly between {processes} "
            f"processes with passes of {settings.batch} images. Change prompts, group or batch."
        )
    return GRPOConfig(
        output_dir=str(folder), max_steps=settings.updates, per_device_train_batch_size=batch,
        gradient_accumulation_steps=share // batch, num_generations=settings.group,
        learning_rate=settings.lr, lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.final_lr}, warmup_steps=settings.warmup,
        max_grad_norm=settings.clip, weight_decay=0.0, adam_beta2=0.95, beta=settings.kl,
        # One update per rollout: the ratio to the policy of the rollout is 1, and clipping it has no effect.
        num_iterations=1, loss_type="grpo", temperature=1.0, top_p=1.0, top_k=0,
        shuffle_dataset=False, seed=settings.seed, bf16=settings.bf16, gradient_checkpointing=False,
        use_cpu=settings.device == "cpu", dataloader_pin_memory=False, logging_steps=1, report_to="none",
        save_steps=settings.save_every, save_total_limit=2, disable_tqdm=True,
    )  # fmt: skip


def _trainer(settings, arguments: GRPOConfig, pipeline: Pipeline, tasks, reward: Reward, callback) -> GRPOTrainer:
    language, vocabulary = pipeline.language, pipeline.language.vocabulary
    policy = make_policy(language)
    # TRL loads the reference from a folder. transformers does not know the class of the checkpoint itself.
    reference = Path(arguments.output_dir) / "reference"
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0:
            policy.save_pretrained(reference)
    policy.config._name_or_path = str(reference)
    mask_text_tokens(policy, vocabulary)

    def rollout_func(prompts: list[str], trainer: GRPOTrainer) -> dict:
        update, rank = trainer.state.global_step, trainer.accelerator.process_index
        seeds = [seed_of(settings.seed, update, rank * len(prompts) + row) for row in range(len(prompts))]
        noise = [seed_of(settings.seed, update, prompt) for prompt in prompts]
        passes, images = rollout(pipeline, prompts, seeds, noise, settings.rollout_sampling, settings.steps, settings)
        return {
            "prompt_ids": [ids for tokens in passes for ids in tokens.prompt_ids],
            "completion_ids": [ids for tokens in passes for ids in (tokens.codes + vocabulary.image_start).tolist()],
            "logprobs": None,  # only vLLM's correction needs them
            "rendered": list(images),  # "image" would mean an input of a vision model to TRL
        }

    def reward_func(prompts, completions, completion_ids, task, rendered, log_metric, **_) -> list[float]:
        chosen = [tasks[number] for number in task]
        scores = score_images(reward, chosen, torch.stack(rendered))
        for name, value in pass_rates(chosen, scores).items():
            log_metric(name, value)
        return [one.reward for one in scores]

    data = Dataset.from_dict({"prompt": [task.prompt for task in tasks], "task": list(range(len(tasks)))})
    trainer = GRPOTrainer(
        model=policy, reward_funcs=reward_func, args=arguments, train_dataset=data, callbacks=[callback],
        processing_class=_tokenizer(pipeline), rollout_func=rollout_func,
    )  # fmt: skip
    if trainer.ref_model is not None:
        mask_text_tokens(trainer.ref_model, vocabulary)
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer


def _tokenizer(pipeline: Pipeline):
    """The tokenizer that TRL pads and prints completions with. Prompts do not go through it."""
    folder = pipeline.checkpoint.folder
    # False: without a word, transformers asks at the terminal whether to run code out of the checkpoint's folder.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pipeline.language.vocabulary.pad)
    return tokenizer


@dataclass(frozen=True)
class HeldOut:
    """What the best checkpoint is chosen by."""

    tasks: Sequence[Task]
    reward: Reward
    inputs: Inputs  # of the run, stored with the best checkpoint


class GrpoCallback(TrainerCallback):
    """Logs, evaluates held-out tasks, keeps the best checkpoint, and stops before a gradient that is not finite."""

    def __init__(self, settings, folder: RunFolder, pipeline: Pipeline, held_out: HeldOut, watch: Watch):
        self.settings, self.folder, self.pipeline = settings, folder, pipeline
        self.held_out, self.watch = held_out, watch

    def on_train_begin(self, args, state, control, model=None, **_):
        if state.global_step == 0:
            self._evaluate_held_out(state, model)

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not all(is_finite(p.grad) for p in model.parameters() if p.grad is not None):
            raise Blip3oError(
                f"Update {state.global_step + 1} stopped: its gradient contains NaN or infinite values. The weights "
                "did not change. Start a new run from the last checkpoint with a lower lr, or with bf16: false."
            )

    def on_step_end(self, args, state, control, model=None, **_):
        step = state.global_step
        if step % self.settings.held_out_every == 0 or step == args.max_steps:
            self._evaluate_held_out(state, model)
        if step < args.max_steps and any(share(self.watch.stop())):
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero or "reward" not in logs:
            return  # TRL's summary at the end
        entry = {"step": state.global_step}
        entry |= {ours: logs[theirs] for theirs, ours in _LOGGED.items() if theirs in logs}
        entry |= {name: value for name, value in logs.items() if name.startswith("passed")}
        self._log(entry, seconds=logs.get("step_time"))

    def _evaluate_held_out(self, state, policy) -> None:
        """All processes make a share of the images and wait for the others: none waits alone for the next update."""
        step, held_out = state.global_step, self.held_out
        found = evaluate(self.pipeline, held_out.tasks, held_out.reward, self.settings)
        if not state.is_world_process_zero:
            return
        entry = {"step": step, **{f"held_out_{name}": value for name, value in found.items()}}
        best = self.folder.last
        if best is None or found["passed"] > read_json(best / "training" / "held_out.json")["held_out_passed"]:
            self._save_best(step, policy, entry)
        self._log(entry)

    def _save_best(self, step: int, policy, entry: dict) -> None:
        fingerprint, size = self.settings.resume_fingerprint, int(self.settings.shard_gb * 1e9)
        with self.folder.new_checkpoint(step, fingerprint, self.held_out.inputs, keep=1) as staging:
            save_checkpoint(staging, self.pipeline.checkpoint, policy_tensors(policy), size)
            (staging / "training" / "held_out.json").write_text(json.dumps(entry, indent=1), encoding="utf-8")

    def _log(self, entry: dict, **timed) -> None:
        self.folder.append_log(entry)
        self.watch.report({**entry, **timed})


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def _newest_state(folder: Path) -> Path | None:
    """The folder of TRL's newest complete state. TRL writes `trainer_state.json` last."""
    return max(filter(_is_complete, _states(folder)), key=step_of, default=None)


def _is_complete(state: Path) -> bool:
    try:
        return read_json(state / "trainer_state.json")["global_step"] == step_of(state)
    except (Blip3oError, KeyError):  # absent, or cut short by a kill
        return False


def _remove_unfinished(folder: Path, done: int) -> None:
    """Remove what a killed process left of TRL's states: those behind update `done` are written again."""
    for state in _states(folder):
        if step_of(state) > done or not _is_complete(state):
            shutil.rmtree(state)
