"""TRL's GRPOTrainer on one of our checkpoints, through its public parts: rollout function, reward function, callback.

- The rollout function generates with our decoder on the policy's own parameters. Prompts need no second tokenizer, and
  the decoder's hidden states condition the renderer.
- The reference that the KL is measured against is a second policy on the disk's weights; with LoRA it is the policy
  with its adapters off, and there is no second one.
- TRL's own state, which resuming needs, is in `trainer/`. The best checkpoint so far is in `step-*`.
"""

import errno
import math
import os
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer

from ...checkpoint import open_checkpoint
from ...checkpoint.bundled import resolve_checkpoint
from ...errors import Blip3oError
from ...pipeline import Pipeline
from ...rewards.mix import RewardMix
from ..rl.held_out import HeldOut
from ..rl.looks import Looks
from ..rl.processes import refuse_sharding
from ..rl.report import finish
from ..rl.tasks import TaskSet
from ..run_folder import Inputs, RunFolder, saving, step_of
from ..watch import Watch
from .callback import GrpoCallback
from .exchange import BetweenUpdates, Exchange
from .policy import excluded, freeze, make_policy, mask_text_tokens, share_adapters
from .rollout import Roller, check_tasks
from .settings import GrpoSettings
from .states import newest_state, remove_unfinished

# What a write says that has no room or no right; a reward may raise others.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run(settings: GrpoSettings, tasks: TaskSet, mix: RewardMix, resume: bool, watch: Watch) -> Path | None:
    """See `train_on` in train.py."""
    with warnings.catch_warnings():
        # About names that TRL still uses, and about its rollout function being new.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
        warnings.filterwarnings("ignore", "You are using 'rollout_func'")
        try:
            return _run(settings, tasks, mix, resume, watch)
        finally:
            AcceleratorState._reset_state()  # as transformers does before a run: `train` may follow with other settings


def _run(settings: GrpoSettings, tasks: TaskSet, mix: RewardMix, resume: bool, watch: Watch) -> Path | None:
    folder = RunFolder(Path(settings.out))
    states = folder.path / "trainer"
    fingerprint = settings.fingerprint_with(mix.versions)
    source = folder.resume_point(resume, fingerprint)
    state = newest_state(states) if resume else None
    done = step_of(state) if state else 0
    if done >= settings.updates:
        return folder.last
    refuse_sharding(
        "GRPO",
        " With `lora` and `gradient_checkpointing: true` a process needs the least memory; docs/grpo.md has a table.",
    )
    checkpoint = open_checkpoint(resolve_checkpoint(settings.checkpoint), settings.diffusion_folder)
    inputs = Inputs(checkpoint.identity, tasks.identity, len(tasks.held_out))
    if source is not None:
        folder.require_inputs(source, inputs)
    check_tasks([*tasks.train, *tasks.held_out], checkpoint)
    arguments = trl_arguments(settings, states, checkpoint.grid[0] * checkpoint.grid[1])
    pipeline = Pipeline(checkpoint, arguments.device, torch.float32)
    exchange = Exchange(settings, tasks.train, mix, Roller(pipeline, settings))
    held_out = HeldOut(tasks.held_out, mix, exchange.roller.open_task, settings.pass_at, settings.samples)
    callback = GrpoCallback(exchange, Looks(settings, held_out, folder, fingerprint, inputs, watch))
    with saving(folder.path):
        if int(os.environ.get("RANK", 0)) == 0:
            folder.prepare(done if state else -1)
            remove_unfinished(states, done)
        trainer = make_trainer(settings, arguments, exchange, callback)
    trainer.accelerator.wait_for_everyone()
    # With a mask, the CPU's fused attention has a backward pass four times as slow as plain matrix products.
    plain = sdpa_kernel(SDPBackend.MATH) if arguments.device.type == "cpu" else nullcontext()
    try:
        with saving(folder.path, only=_DISK), plain:
            _train(trainer, callback, state)
    finally:
        if trainer.accelerator.is_main_process and folder.log.is_file():
            finish(folder.path, watch)
    trainer.accelerator.free_memory()
    return folder.last


def _train(trainer: GRPOTrainer, callback: GrpoCallback, state: Path | None) -> None:
    """Train on from `state`. Raises Blip3oError where rewards or rollouts failed, when what was learnt is saved."""
    try:
        trainer.train(resume_from_checkpoint=str(state) if state else None)
    except BetweenUpdates as error:
        raise _after_saving(trainer, callback, error) from error
    if callback.failure is not None:
        raise _after_saving(trainer, callback, callback.failure) from callback.failure


def _after_saving(trainer: GRPOTrainer, callback: GrpoCallback, error: Blip3oError) -> Blip3oError:
    """Save what was learnt before `error` stopped the run -> the error with how to go on."""
    step = trainer.state.global_step
    newest = newest_state(Path(trainer.args.output_dir))
    if step > (step_of(newest) if newest else 0):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(callback.random_state)  # the next update's data loader may have begun
            trainer._save_checkpoint(trainer.model, trial=None)
        trainer.accelerator.wait_for_everyone()
    if step == 0:
        return Blip3oError(f"{error} No update was made yet. Start again with --resume after that.")
    return Blip3oError(f"{error} Update {step} was saved: continue with --resume after that.")


def trl_arguments(settings: GrpoSettings, folder: Path, num_tokens: int) -> GRPOConfig:
    """TRL's arguments; `num_tokens`: of one image."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    images = settings.prompts * settings.group
    share = images // processes
    batch = min(settings.batch, share)
    if settings.prompts % processes or share % batch:
        raise Blip3oError(
            f"prompts is {settings.prompts} and group {settings.group}: {images} images per rollout. They cannot be "
            f"divided evenly between {processes} processes, whole groups to each, with passes of {settings.batch} "
            "images. Change prompts, group or batch."
        )
    return GRPOConfig(
        output_dir=str(folder), max_steps=settings.updates, per_device_train_batch_size=batch,
        gradient_accumulation_steps=share // batch, num_generations=settings.group,
        learning_rate=settings.lr, lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.final_lr}, warmup_steps=settings.warmup,
        max_grad_norm=settings.clip, weight_decay=0.0, adam_beta2=0.95, beta=settings.kl,
        num_iterations=settings.iterations, loss_type=settings.loss_type, epsilon=settings.epsilon,
        epsilon_high=settings.epsilon_high, importance_sampling_level=settings.importance_sampling_level,
        scale_rewards=settings.scale_rewards, entropy_coef=settings.entropy_bonus,
        max_completion_length=num_tokens, temperature=1.0, top_p=1.0, top_k=0,
        shuffle_dataset=False, seed=settings.seed, bf16=settings.bf16,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        use_cpu=settings.device == "cpu",
        ddp_find_unused_parameters=False, dataloader_pin_memory=False, logging_steps=1, report_to="none",
        save_steps=settings.save_every, save_total_limit=2, disable_tqdm=True,
    )  # fmt: skip


def make_trainer(
    settings: GrpoSettings, arguments: GRPOConfig, exchange: Exchange, callback: GrpoCallback
) -> GRPOTrainer:
    """TRL's trainer on the language model that `exchange` generates with."""
    pipeline = exchange.roller.pipeline
    language, vocabulary = pipeline.language, pipeline.language.vocabulary
    policy = make_policy(language)
    freeze(policy, settings.frozen)
    if settings.lora is None and settings.kl:
        # TRL loads the reference from a folder. transformers does not know the class of the checkpoint itself.
        reference = Path(arguments.output_dir) / "reference"
        with arguments.main_process_first(local=False):
            if arguments.process_index == 0:
                policy.save_pretrained(reference)
        policy.config._name_or_path = str(reference)
    mask_text_tokens(policy, vocabulary)
    trainer = GRPOTrainer(
        model=policy, reward_funcs=exchange.reward, args=arguments, callbacks=[callback],
        train_dataset=Dataset.from_dict({"prompt": _order(settings, len(exchange.tasks))}),
        processing_class=_tokenizer(pipeline), rollout_func=exchange.rollout, peft_config=_peft_config(settings),
    )  # fmt: skip
    if settings.lora is not None:
        share_adapters(trainer.accelerator.unwrap_model(trainer.model), language, settings.seed)
    if trainer.ref_model is not None:
        mask_text_tokens(trainer.ref_model, vocabulary)
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer


def _order(settings: GrpoSettings, count: int) -> list[str]:
    """The numbers of `count` tasks as rollouts take them, around the end of the list.

    TRL leaves out what is behind the last whole rollout of its data: so this is as many tasks as whole rollouts take.
    """
    return [str(number % count) for number in range(math.lcm(count, settings.prompts))]


def _peft_config(settings: GrpoSettings):
    if settings.lora is None:
        return None
    from peft import LoraConfig

    lora = settings.lora
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0, bias="none",
        exclude_modules=excluded(settings.frozen) or None, task_type="CAUSAL_LM",
    )  # fmt: skip


def _tokenizer(pipeline: Pipeline):
    """The tokenizer that TRL pads and prints completions with. Prompts do not go through it."""
    folder = pipeline.checkpoint.folder
    # False: without a word, transformers asks at the terminal whether to run code out of the checkpoint's folder.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pipeline.language.vocabulary.pad)
    return tokenizer
