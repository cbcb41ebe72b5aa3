"""The loop: a rollout is a function of its number, the weights and the settings, and of nothing else.

- Whole groups belong to one process. Gradients are summed over the processes before the optimizer's step.
- `state.pt` is what a run resumes from; the best checkpoint so far is in `step-*`, with the LoRA merged and apart.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ...checkpoint import open_checkpoint
from ...checkpoint.bundled import resolve_checkpoint
from ...diffusion import sampler as diffusion
from ...errors import Blip3oError
from ...files import atomic_write
from ...models.meanflow import is_meanflow
from ...pipeline import Pipeline
from ...rewards.mix import RewardMix
from ...seeds import seed_of, seeded
from ..optimizer import adamw_and_muon, group
from ..rl.clock import Clock
from ..rl.held_out import HeldOut
from ..rl.judging import Judged, candidates_of, judge, summary
from ..rl.looks import Looks
from ..rl.processes import rank_and_count, refuse_sharding, share, together
from ..rl.report import finish
from ..rl.tasks import Task, TaskSet
from ..run_folder import Inputs, RunFolder, saving
from ..save import save_checkpoint
from ..schedule import WarmupCosine
from ..train_state import TrainState
from ..watch import Watch
from . import adapter
from .imaging import Imaging, check_tasks
from .learner import Learner, Plan
from .objective import advantages
from .policy import Velocity
from .rollout import Rollout, roll_out
from .settings import DiffusionRlSettings
from .windows import steps_in_window

T = TypeVar("T")
_OLD_RAMP = 0.001  # of nft: what the old policy keeps of itself grows by this in every update, as the authors have it
_REMEDY = "Start a new run with another out."


class Trainer:
    def __init__(self, settings: DiffusionRlSettings, tasks: TaskSet, mix: RewardMix, resume: bool, watch: Watch):
        self.settings, self.tasks, self.mix, self.watch = settings, tasks, mix, watch
        self.launched, self.clock = _processes(settings), Clock()
        self.rank, self.processes = rank_and_count()
        self._check_processes()
        self.own_prompts = settings.prompts // self.processes
        self.folder = RunFolder(Path(settings.out))
        fingerprint = settings.fingerprint_with(mix.versions)
        source = self.folder.resume_point(resume, fingerprint)
        checkpoint = self.checkpoint = open_checkpoint(
            resolve_checkpoint(settings.checkpoint), settings.diffusion_folder
        )
        inputs = Inputs(checkpoint.identity, tasks.identity, len(tasks.held_out))
        if source is not None:
            self.folder.require_inputs(source, inputs)
        check_tasks([*tasks.train, *tasks.held_out], checkpoint)
        dtype = torch.bfloat16 if settings.bf16 else torch.float32
        self.pipeline = Pipeline(checkpoint, self.launched.device, dtype)
        self.imaging = Imaging(self.pipeline, settings, tasks.train, self.own_prompts)
        held_out = HeldOut(tasks.held_out, mix, self.imaging.open_task, settings.pass_at, settings.samples)
        self.looks = Looks(settings, held_out, self.folder, fingerprint, inputs, watch)
        self.velocity = Velocity(self._prepare_network(), settings.guidance, settings.bf16)
        self.state = self._new_state()
        self.learner = Learner(self.velocity, settings, self.state.ema)
        self.schedule = diffusion.sigmas(settings.steps, checkpoint.shift)
        self.must_stop = self.alarmed = False
        resumes = source is not None and self._state_file.is_file()
        if resumes:
            self.state.restore(self._state_file, _REMEDY)
        self.saved = self.update
        self.launched.wait_for_everyone()  # all have looked at the folder before one changes it
        if self.rank == 0:
            self.folder.prepare(self.update if resumes else -1)

    def _prepare_network(self):
        settings, transformer = self.settings, self.pipeline.transformer
        if is_meanflow(transformer):
            raise Blip3oError(
                f"{self.checkpoint.folder} is a few-step (mean flow) checkpoint: it predicts the mean velocity of a "
                "step. Its diffusion cannot be trained here. Train the ordinary checkpoint instead."
            )
        lora = settings.lora
        adapter.add_adapters(transformer, lora.rank, lora.alpha, lora.targets, settings.seed)
        if settings.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        return transformer

    def _new_state(self) -> TrainState:
        settings = self.settings
        parameters = adapter.adapter_parameters(self.pipeline.transformer)
        optimizers = adamw_and_muon([group(list(parameters.values()), settings.lr)], [], (0.9, 0.999))
        schedule = WarmupCosine(settings.updates, settings.warmup, settings.final_lr)
        return TrainState(parameters, optimizers, schedule, None if settings.flow_grpo else 0.0)

    @property
    def update(self) -> int:
        """Updates that were made."""
        return self.state.step

    @property
    def _state_file(self) -> Path:
        return self.folder.path / "state.pt"

    # ---- the run

    def run(self) -> Path | None:
        try:
            return self._run()
        finally:
            if self.rank == 0 and self.folder.log.is_file():
                finish(self.folder.path, self.watch)

    def _run(self) -> Path | None:
        settings = self.settings
        if self.looks.is_missing(self.update):
            self._saving(self._look)
        while self.update < settings.updates and not self._stops():
            self._log(self.train_step(), self.clock.take())
            if self.update % settings.save_every == 0 or self.update == settings.updates:
                self._save_state()
            if self.looks.is_due(self.update):
                self._saving(self._look)
        self._save_state()
        return self.folder.last

    def _stops(self) -> bool:
        """Whether any process was asked to stop: they must all do it behind the same update."""
        return any(share(self.must_stop or self.watch.stop()))

    def _saving(self, work: Callable[[], T]) -> T:
        """`work()`, which changes no weight. Before an error of it ends the run, what was learnt is saved."""
        try:
            return work()
        except Blip3oError as error:
            if self.update == 0:
                raise
            self._save_state()
            raise Blip3oError(f"{error} Update {self.update} was saved: continue with --resume after that.") from error

    def train_step(self) -> dict:
        """One rollout and the updates on it -> the log entry.

        Raises Blip3oError, with the weights as they were, for a gradient that is not finite.
        """
        settings, rollout = self.settings, self.update // self.settings.iterations
        self.imaging.forget_images()
        numbers = range(self.rank * self.own_prompts, (self.rank + 1) * self.own_prompts)
        places = [(rollout * settings.prompts + k) % len(self.tasks.train) for k in numbers]
        rows = [self.tasks.train[place] for place in places for _ in range(settings.group)]
        seeds = [seed_of(settings.seed, rollout, k, row) for k in numbers for row in range(settings.group)]
        chance = seeded(seed_of(settings.seed, "window", rollout))
        window = steps_in_window(
            settings.window, settings.window_size, settings.window_every, settings.learnable, self.update, chance
        )
        plan = Plan(self.schedule.tolist(), window, seeds)
        rollouts, judged = self._saving(lambda: self._roll_out(places, rows, plan))
        advantage = self._advantages(judged)
        entry = {**summary(rows, judged, settings.pass_at), "equal_groups": self._equal_groups(judged)}
        with self.clock("update"):
            for _ in range(settings.iterations):
                images = settings.prompts * settings.group
                entry |= self._sum(self.learner.add_gradients(rollouts, advantage, images, plan))
                entry |= self._apply_gradients()
        if settings.iterations == 1:
            del entry["clipped"], entry["ratio"]  # the ratio is 1
        self._sound_alarm(entry)
        return {"step": self.update, **entry}

    def _roll_out(self, places: list[int], rows: list[Task], plan: Plan) -> tuple[list[Rollout], Judged]:
        """Latents of every row, and what the rewards say of their images."""
        settings = self.settings

        def make() -> tuple[list[Rollout], list[torch.Tensor]]:
            with self.clock("rollout"):
                conditions = [one for one in self.imaging.conditions(places) for _ in range(settings.group)]
            with self.clock("render"), self.state.ema_applied():  # the old policy of nft
                window = plan.window if settings.flow_grpo else ()
                rollouts = roll_out(
                    self.velocity, conditions, plan.seeds, self.schedule, window, settings.noise, settings.batch
                )
                return rollouts, [image for one in rollouts for image in self.pipeline.decode(one.latents).cpu()]

        rollouts, images = together(make)
        with self.clock("score"):
            return rollouts, judge(self.mix, candidates_of(rows, images, self.imaging.open_task), settings.group)

    def _advantages(self, judged: Judged) -> torch.Tensor:
        """(B,) of this process's rows."""
        settings = self.settings
        rewards = torch.tensor(judged.rewards).view(-1, settings.group)
        spread = None
        if settings.scale_rewards == "batch":
            spread = torch.tensor([one for some in share(judged.rewards) for one in some]).std(correction=0)
        return advantages(rewards, settings.advantage_clip, spread).flatten()

    def _equal_groups(self, judged: Judged) -> float:
        """Share of the groups whose images all have one reward: they teach nothing."""
        rewards, size = judged.rewards, self.settings.group
        own = [rewards[k : k + size] for k in range(0, len(rewards), size)]
        equal = [max(one) - min(one) < 1e-9 for some in share(own) for one in some]
        return sum(equal) / len(equal)

    @staticmethod
    def _sum(totals: dict[str, float]) -> dict[str, float]:
        """Over all processes."""
        everywhere = share(totals)
        return {name: math.fsum(one[name] for one in everywhere) for name in totals}

    def _apply_gradients(self) -> dict[str, float]:
        parameters = list(self.state.parameters.values())
        if self.processes > 1:
            flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
            torch.distributed.all_reduce(flat)
            for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = gradient.view_as(parameter)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip))
        if not math.isfinite(norm):
            for optimizer in self.state.optimizers:
                optimizer.zero_grad()
            raise Blip3oError(
                f"Update {self.update + 1} stopped: its gradient contains NaN or infinite values. The weights did not "
                "change. Start a new run with a lower lr, or with bf16: false."
            )
        if self.state.ema is not None:
            self.state.ema.decay = min(self.settings.old_decay, _OLD_RAMP * self.update)
        return {"gradient_norm": norm, "lr": self.settings.lr * self.state.apply_gradients()}

    def _sound_alarm(self, entry: dict) -> None:
        limit = self.settings.kl_alarm
        over = bool(limit) and entry["kl"] > limit
        if over:
            words = f"KL is {entry['kl']:.3g}, above kl_alarm {limit:g}: images leave the checkpoint's. "
            words += "Raise kl, or lower lr."
            entry["alarms"] = [words]
            if not self.alarmed and self.rank == 0:
                self.watch.tell(f"warning: {words}")
            self.must_stop = self.must_stop or self.settings.stop_on_alarm
        self.alarmed = over

    # ---- looking and saving

    def _look(self) -> None:
        self.looks.take(self.update, self.imaging.held_out, self._save_weights)
        self.launched.wait_for_everyone()

    def _save_weights(self, staging: Path) -> None:
        lora, transformer = self.settings.lora, self.pipeline.transformer
        merged = adapter.merged_tensors(transformer, lora.alpha / lora.rank)
        save_checkpoint(staging, self.checkpoint, merged, int(self.settings.shard_gb * 1e9))
        adapter.save_adapters(staging / "adapter", transformer, lora.alpha)

    def _save_state(self) -> None:
        if self.rank == 0 and self.update > self.saved:
            with saving(self._state_file), atomic_write(self._state_file) as scratch:
                torch.save(self.state.state_dict(), scratch)
        self.saved = self.update

    def _log(self, entry: dict, seconds: dict[str, float] | None = None) -> None:
        if self.rank:
            return
        self.folder.append_log(entry)
        spent = {name: round(value, 4) for name, value in (seconds or {}).items()}
        if spent:
            self.folder.append_seconds({"step": entry["step"], **spent})
        self.watch.report({**entry, **{f"seconds/{name}": value for name, value in spent.items()}})

    def _check_processes(self) -> None:
        prompts = self.settings.prompts
        if prompts % self.processes:
            raise Blip3oError(
                f"prompts is {prompts}, which cannot be divided evenly between {self.processes} processes. Set prompts "
                f"to a multiple of {self.processes}."
            )


def _processes(settings: DiffusionRlSettings):
    """Joins the processes that a launcher started, and chooses this one's device."""
    from accelerate import PartialState

    refuse_sharding("RL on the diffusion")
    return PartialState(cpu=settings.device == "cpu")
