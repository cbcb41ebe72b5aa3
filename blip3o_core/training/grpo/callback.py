"""What happens around TRL's updates: the log, the look at held-out tasks, the best checkpoint, alarms and stopping."""

import json
import time

import torch
from transformers import TrainerCallback

from ...checks import is_finite
from ...errors import Blip3oError
from ..rl.alarms import alarms, first_value
from ..rl.held_out import HeldOut, is_better, look, save_samples, was_seen
from ..rl.processes import share
from ..run_folder import Inputs, RunFolder
from ..save import save_adapter, save_checkpoint
from ..watch import Watch
from .exchange import BetweenUpdates, Exchange
from .policy import adapter_tensors, checkpoint_tensors
from .settings import GrpoSettings

# TRL's name -> ours, of the metrics that are logged. `kl` and `entropy` are in nats per token.
LOGGED = {
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "gradient_norm",
    "learning_rate": "lr",
    "frac_reward_zero_std": "equal_groups",
    "clip_ratio/region_mean": "clipped",
    "cispo_clip_ratio": "clipped",
    "loss": "loss",
}


class GrpoCallback(TrainerCallback):
    """Between the trainer and the run's folder. All processes have one; the main one writes."""

    def __init__(self, settings: GrpoSettings, folder: RunFolder, exchange: Exchange, held_out: HeldOut, watch: Watch):
        self.settings, self.folder, self.exchange = settings, folder, exchange
        self.held_out, self.watch = held_out, watch
        self.inputs: Inputs | None = None  # of the run, stored with the best checkpoint
        self.fingerprint = settings.resume_fingerprint
        self.failure: Blip3oError | None = None  # that ends the run behind a saved state
        self.first_entropy: float | None = None
        self.alarmed = self.must_stop = False
        self.random_state = torch.get_rng_state()  # of TRL, behind the last update
        self.began, self.seconds = 0.0, {}

    def on_train_begin(self, args, state, control, model=None, **_):
        if (
            state.global_step == 0
            or self._is_due(state)
            and not any(share(was_seen(self.folder.log, state.global_step)))
        ):
            try:
                self._look(state, model)
            except Blip3oError as error:
                raise BetweenUpdates(str(error)) from error

    def on_step_begin(self, args, state, control, **_):
        self.began = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not all(is_finite(p.grad) for p in model.parameters() if p.grad is not None):
            raise Blip3oError(
                f"Update {state.global_step + 1} stopped: its gradient contains NaN or infinite values. The weights "
                "did not change. Start a new run from the last checkpoint with a lower lr, or with bf16: false."
            )

    def on_step_end(self, args, state, control, model=None, **_):
        spent = self.exchange.clock.take()
        whole = time.perf_counter() - self.began
        self.seconds = {**spent, "update": whole - sum(spent.values())}
        if self._is_due(state):
            try:
                self._look(state, model)
            except Blip3oError as error:
                # The last update has no state behind it that could look again.
                if not self._may_save(state) or state.global_step == args.max_steps:
                    raise Blip3oError(
                        f"{error} Continue with --resume after that, from the last saved state."
                    ) from error
                self.failure, self.must_stop = error, True
        if state.global_step < args.max_steps:
            # All ask all: one of them alone may know that it must stop.
            self.must_stop = any(share(self.must_stop or self.watch.stop()))
            self._stop_if_asked(state, control)
        self.random_state = torch.get_rng_state()

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" not in logs:
            return  # TRL's summary at the end
        entry = {"step": state.global_step, **self.exchange.take_entry()}
        entry |= {ours: logs[theirs] for theirs, ours in LOGGED.items() if theirs in logs}
        if self.settings.iterations == 1:
            entry.pop("clipped", None)  # the ratio is 1
        self._sound_alarms(entry, state)
        if state.global_step < args.max_steps:
            self._stop_if_asked(state, control)
        if state.is_world_process_zero:
            seconds = {name: round(value, 4) for name, value in self.seconds.items()}
            self.folder.append_seconds({"step": state.global_step, **seconds})
            self._log(entry, seconds=sum(seconds.values()), **{f"seconds/{name}": one for name, one in seconds.items()})

    def _sound_alarms(self, entry: dict, state) -> None:
        if self.settings.entropy_alarm and self.first_entropy is None:
            logged = first_value(self.folder.log, "entropy")
            self.first_entropy = share(logged if logged is not None else entry.get("entropy"))[0]
        found = alarms(entry, self.settings.kl_alarm, self.settings.entropy_alarm, self.first_entropy)
        if found:
            entry["alarms"] = found
            if not self.alarmed and state.is_world_process_zero:
                self.watch.tell("\n".join(f"warning: {one}" for one in found))
            self.must_stop = self.must_stop or self.settings.stop_on_alarm
        self.alarmed = bool(found)

    def _stop_if_asked(self, state, control) -> None:
        if self.must_stop and self._may_save(state):
            control.should_save = control.should_training_stop = True

    def _may_save(self, state) -> bool:
        """Between two rollouts: TRL does not save the images that it still has to learn from."""
        return state.global_step % self.settings.iterations == 0

    def _is_due(self, state) -> bool:
        return state.global_step % self.settings.held_out_every == 0 or state.global_step == self.settings.updates

    def _look(self, state, policy) -> None:
        """All processes make a share of the images and wait for the others: none waits alone for the next update."""
        step = state.global_step
        seen = look(self.held_out, self.exchange.roller.held_out)
        self.exchange.clock.take()
        if not state.is_world_process_zero:
            return
        entry = {"step": step, **{f"held_out_{name}": value for name, value in seen.entry.items()}}
        samples = save_samples(self.folder.path, step, self.held_out, seen)
        if samples is not None:
            entry["samples"] = samples
        if is_better(seen, self.folder.last):
            self._save_best(step, policy, {**entry, "score": seen.score})
        self._log(entry)

    def _save_best(self, step: int, policy, entry: dict) -> None:
        lora, checkpoint = self.settings.lora, self.exchange.roller.pipeline.checkpoint
        with self.folder.new_checkpoint(step, self.fingerprint, self.inputs, keep=1) as staging:
            if not self.settings.adapter_only:
                size = int(self.settings.shard_gb * 1e9)
                save_checkpoint(staging, checkpoint, checkpoint_tensors(policy, lora), size)
            if lora is not None and (lora.save == "adapter" or self.settings.adapter_only):
                save_adapter(staging / "adapter", adapter_tensors(policy), lora)
            (staging / "training" / "held_out.json").write_text(json.dumps(entry, indent=1), encoding="utf-8")

    def _log(self, entry: dict, **timed) -> None:
        self.folder.append_log(entry)
        self.watch.report({**entry, **timed})
