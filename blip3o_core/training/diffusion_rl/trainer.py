"""The loop: an update is a function of its number, the weights and the settings, and of nothing else.

- Whole groups belong to one process. Gradients are summed over the processes before the optimizer's step.
- `state.pt` is what a run resumes from; the best checkpoint so far is in `step-*`, with the LoRA merged and apart.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ...checkpoint import open_checkpoint
from ...checkpoint.bundled import resolve_checkpoint
from ...diffusion import sampler as diffusion
from ...errors import Blip3oError
from ...files import atomic_write, read_json
from ...models.meanflow import is_meanflow
from ...pipeline import Pipeline
from ...rewards.mix import RewardMix
from ...seeds import seed_of, seeded
from ..optimizer import adamw_and_muon, group
from ..rl.held_out import HeldOut, look, save_samples
from ..rl.judging import Judged, candidates_of, judge, summary
from ..rl.processes import rank_and_count, share, together
from ..rl.tasks import Opened, Task, TaskSet, open_task
from ..run_folder import Inputs, RunFolder, saving
from ..save import save_checkpoint
from ..schedule import WarmupCosine
from ..train_state import TrainState, read_state
from ..watch import Watch
from . import adapter
from .conditions import make_conditions
from .learner import Learner, Plan
from .objective import advantages
from .policy import Condition, Velocity, stack
from .rollout import Rollout, passes, roll_out
from .settings import DiffusionRlSettings
from .windows import steps_in_window

_OLD_RAMP = 0.001  # of nft: the average's decay grows by this in every update, as in the authors' code
_KEPT_BYTES = 2**31  # of conditions that are kept for the next time their tasks come
_REMEDY = "Start a new run with another out."


class Trainer:
    def __init__(self, settings: DiffusionRlSettings, tasks: TaskSet, mix: RewardMix, resume: bool, watch: Watch):
        self.settings, self.tasks, self.watch = settings, tasks, watch
        self.accelerator = _accelerator(settings)
        self.rank, self.processes = rank_and_count()
        self.folder = RunFolder(Path(settings.out))
        source = self.folder.resume_point(resume, settings.resume_fingerprint)
        self.checkpoint = open_checkpoint(resolve_checkpoint(settings.checkpoint), settings.diffusion_folder)
        self.inputs = Inputs(self.checkpoint.identity, tasks.identity, len(tasks.held_out))
        if source is not None:
            self.folder.require_inputs(source, self.inputs)
        self._check()
        self._read: dict[int, Opened] = {}  # by id of a task: a group judges by the same images
        self.held_out = HeldOut(tasks.held_out, mix, self._open, settings.pass_at, settings.samples)
        dtype = torch.bfloat16 if settings.bf16 else torch.float32
        self.pipeline = Pipeline(self.checkpoint, self.accelerator.device, dtype)
        transformer = self.pipeline.transformer
        if is_meanflow(transformer):
            raise Blip3oError(
                f"{self.checkpoint.folder} is a few-step (mean flow) checkpoint, which predicts the mean velocity of a "
                "step. Its diffusion cannot be trained here. Train the ordinary checkpoint instead."
            )
        adapter.add_adapters(transformer, settings.rank, settings.alpha, settings.targets, settings.seed)
        if settings.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.velocity = Velocity(transformer, settings.guidance, settings.bf16)
        self.state = self._new_state()
        self.learner = Learner(self.velocity, settings, self.state.ema)
        self.schedule = diffusion.sigmas(settings.steps, self.checkpoint.shift)
        self._conditions: list[Condition] = []  # of this process's held-out tasks
        self._kept: dict[int, Condition] = {}  # by place in the training tasks
        self._kept_bytes = 0
        if source is not None and self._state_file.is_file():
            self.state.restore(self._state_file, _REMEDY)
        self.saved = self.update
        self.accelerator.wait_for_everyone()  # all have looked at the folder before one changes it
        if self.rank == 0:
            self.folder.prepare(self.update if self._state_file.is_file() else -1)

    @property
    def update(self) -> int:
        """Updates that were made."""
        return self.state.step // self.settings.reuse

    @property
    def _state_file(self) -> Path:
        return self.folder.path / "state.pt"

    def run(self) -> Path | None:
        settings = self.settings
        if self.update == 0:
            self._look()
        while self.update < settings.updates:
            if any(share(self.watch.stop())):
                self._save_state()
                break
            self._log(self.train_step())
            if self.update % settings.held_out_every == 0 or self.update == settings.updates:
                self._look()
            if self.update % settings.save_every == 0 or self.update == settings.updates:
                self._save_state()
        self.accelerator.wait_for_everyone()
        return self.folder.last

    def close(self) -> None:
        self.accelerator.free_memory()

    def train_step(self) -> dict:
        """One update -> its log entry. Raises Blip3oError, with the weights as they were, for a gradient of NaN."""
        settings, update = self.settings, self.update
        self._read.clear()
        numbers = range(self.rank, settings.prompts, self.processes)
        places = [(update * settings.prompts + k) % len(self.tasks.train) for k in numbers]
        tasks = [self.tasks.train[place] for place in places]
        rows = [task for task in tasks for _ in range(settings.group)]
        plan = self._plan(numbers)
        rollouts, judged = self._roll_out(places, rows, plan)
        advantage = self._advantages(judged)
        entry = {**summary(rows, judged, settings.pass_at), "equal_groups": self._equal_groups(judged)}
        for _ in range(settings.reuse):
            totals = self._sum(self.learner.add_gradients(rollouts, advantage, self._images, plan))
            entry |= {**totals, **self._apply_gradients()}
        if not settings.flow_grpo:
            del entry["clipped"], entry["ratio"]
        return {"step": self.update, **entry}

    @property
    def _images(self) -> int:
        return self.settings.prompts * self.settings.group

    def _plan(self, numbers: Sequence[int]) -> Plan:
        settings, update = self.settings, self.update
        chance = seeded(seed_of(settings.seed, "window", update))
        window = steps_in_window(
            settings.window, settings.window_size, settings.window_every, settings.learnable, update, chance
        )
        seeds = [seed_of(settings.seed, update, k, row) for k in numbers for row in range(settings.group)]
        return Plan(self.schedule.tolist(), window, seeds)

    def _roll_out(self, places: list[int], rows: list[Task], plan: Plan) -> tuple[list[Rollout], Judged]:
        """Latents of every row, and what the rewards say of their images."""
        settings = self.settings

        def make() -> tuple[list[Rollout], list[torch.Tensor]]:
            conditions = self._training_conditions(places)
            repeated = [one for one in conditions for _ in range(settings.group)]
            with self.state.ema_applied():  # of nft; of flow_grpo there is no average
                window = plan.window if settings.flow_grpo else ()
                rollouts = roll_out(
                    self.velocity, repeated, plan.seeds, self.schedule, window, settings.noise, settings.batch
                )
            return rollouts, [image for one in rollouts for image in self.pipeline.decode(one.latents).cpu()]

        rollouts, images = together(make)
        candidates = candidates_of(rows, images, self.held_out.open_task)
        return rollouts, judge(self.held_out.mix, candidates, settings.group)

    def _advantages(self, judged: Judged) -> torch.Tensor:
        """(B,) of this process's rows."""
        settings = self.settings
        rewards = torch.tensor(judged.rewards).view(-1, settings.group)
        everywhere = None
        if settings.advantage_std == "all":
            everywhere = torch.tensor([one for some in share(judged.rewards) for one in some]).std(correction=0)
        return advantages(rewards, settings.advantage_clip, everywhere).flatten()

    def _equal_groups(self, judged: Judged) -> float:
        """Share of the groups whose images all have one reward: they teach nothing."""
        own = [judged.rewards[k : k + self.settings.group] for k in range(0, len(judged.rewards), self.settings.group)]
        equal = [max(one) - min(one) < 1e-9 for some in share(own) for one in some]
        return sum(equal) / len(equal)

    def _sum(self, totals: dict[str, float]) -> dict[str, float]:
        """Over all processes. As doubles from one to the other: their sum does not depend on who adds."""
        everywhere = share(totals)
        return {name: math.fsum(one[name] for one in everywhere) for name in totals}

    def _apply_gradients(self) -> dict[str, float]:
        parameters = list(self.state.parameters.values())
        if self.processes > 1:
            flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
            flat = self.accelerator.reduce(flat, "sum")
            for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = gradient.view_as(parameter)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip))
        if not math.isfinite(norm):
            raise Blip3oError(
                f"Update {self.update + 1} stopped: its gradient contains NaN or infinite values. The weights did not "
                "change. Start a new run from the last checkpoint with a lower lr, or with bf16: false."
            )
        if self.state.ema is not None:
            self.state.ema.decay = min(self.settings.old_decay, _OLD_RAMP * self.update)
        scale = self.state.apply_gradients()
        return {"gradient_norm": norm, "lr": self.settings.lr * scale}

    def _look(self) -> None:
        """Look at held-out tasks, log it, and keep the checkpoint when it is the best so far."""
        seen, step = look(self.held_out, self._make_held_out), self.update
        if self.rank:
            return
        entry = {"step": step, **{f"held_out_{name}": value for name, value in seen.entry.items()}}
        if self.settings.samples:
            entry["samples"] = save_samples(self.folder.path, step, self.held_out, seen)
        best = self.folder.last
        if best is None or seen.score > read_json(best / "training" / "held_out.json")["score"]:
            self._save_best(entry, seen.score)
        self._log(entry)

    def _make_held_out(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[torch.Tensor]:
        """As inference makes them, without noise between the steps. The tokens are written at the first look."""
        settings, network = self.settings, self.pipeline.transformer
        if not self._conditions:
            self._conditions = self._make_conditions(tasks, list(seeds))
        schedule = diffusion.sigmas(settings.held_out_steps, self.checkpoint.shift)
        guidance, images = diffusion.GuidanceSchedule(settings.guidance), []
        autocast = torch.autocast(network.device.type, torch.bfloat16, enabled=settings.bf16)
        for rows in passes(self._conditions, settings.batch):
            seen = self._conditions[rows]
            noise = diffusion.initial_noise(seen[0].shape, list(seeds[rows]))
            with autocast:
                latents = diffusion.sample(network, noise, stack(seen), schedule, guidance)
            images += list(self.pipeline.decode(latents).cpu())
        return images

    def _training_conditions(self, places: list[int]) -> list[Condition]:
        """Of the tasks at these places. A task has the same tokens in every update; they are kept while they fit."""
        wanted = [place for place in places if place not in self._kept]
        seeds = [seed_of(self.settings.seed, "tokens", place) for place in wanted]
        made = dict(zip(wanted, self._make_conditions([self.tasks.train[k] for k in wanted], seeds), strict=True))
        for place, condition in made.items():
            if self._kept_bytes < _KEPT_BYTES:
                self._kept[place] = condition
                self._kept_bytes += condition.nbytes
        return [made.get(place) or self._kept[place] for place in places]

    def _make_conditions(self, tasks: Sequence[Task], seeds: list[int]) -> list[Condition]:
        opened = [self._open(task) for task in tasks]
        return make_conditions(self.pipeline, tasks, opened, seeds, self.settings.batch)

    def _open(self, task: Task) -> Opened:
        if id(task) not in self._read:
            self._read[id(task)] = open_task(task)
        return self._read[id(task)]

    def _save_best(self, entry: dict, score: float) -> None:
        settings, transformer = self.settings, self.pipeline.transformer
        merged = adapter.merged_tensors(transformer, settings.scale)
        with self.folder.new_checkpoint(self.update, settings.resume_fingerprint, self.inputs, keep=1) as staging:
            save_checkpoint(staging, self.checkpoint, merged, int(settings.shard_gb * 1e9))
            adapter.save_adapters(staging / "adapter", transformer, settings.alpha)
            text = json.dumps({**entry, "score": score}, indent=1)
            (staging / "training" / "held_out.json").write_text(text, encoding="utf-8")

    def _save_state(self) -> None:
        if self.rank == 0 and self.update > self.saved:
            with saving(self._state_file), atomic_write(self._state_file) as scratch:
                torch.save(self.state.state_dict(), scratch)
        self.saved = self.update

    def _log(self, entry: dict) -> None:
        if self.rank == 0:
            self.folder.append_log(entry)
            self.watch.report(entry)

    def _new_state(self) -> TrainState:
        settings = self.settings
        parameters = adapter.adapter_parameters(self.pipeline.transformer)
        optimizers = adamw_and_muon([group(list(parameters.values()), settings.lr)], [], (0.9, 0.999))
        schedule = WarmupCosine(settings.updates * settings.reuse, settings.warmup, settings.final_lr)
        return TrainState(parameters, optimizers, schedule, None if settings.flow_grpo else 0.0)

    def _check(self) -> None:
        """Raises Blip3oError for what would fail hours later."""
        prompts, tasks = self.settings.prompts, self.tasks
        if prompts % self.processes:
            raise Blip3oError(
                f"prompts is {prompts}, which cannot be divided evenly between {self.processes} processes. Set prompts "
                f"to a multiple of {self.processes}."
            )
        for task in (*tasks.train, *tasks.held_out):
            self.checkpoint.prompt_encoder.encode(task.prompt)


def _accelerator(settings: DiffusionRlSettings):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision="no")
    if accelerator.distributed_type.name not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise Blip3oError(
            f"accelerate is configured for {accelerator.distributed_type.name}. Only the LoRA is trained, so every "
            "process holds the whole model: choose plain data parallelism (DDP)."
        )
    return accelerator
