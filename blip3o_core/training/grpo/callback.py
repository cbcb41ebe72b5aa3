"""What happens around TRL's updates: the log, the look at held-out tasks, the best checkpoint, alarms and stopping."""

import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from ...checks import is_finite
from ...errors import Blip3oError
from ..rl.alarms import alarms, first_value
from ..rl.looks import Looks
from ..rl.processes import share
from ..save import save_adapter, save_checkpoint
from .exchange import BetweenUpdates, Exchange
from .policy import adapter_tensors, checkpoint_tensors

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

    def __init__(self, exchange: Exchange, looks: Looks):
        self.settings, self.exchange, self.looks = exchange.settings, exchange, looks
        self.folder, self.watch = looks.folder, looks.watch
        self.failure: Blip3oError | None = None  # that ends the run behind a saved state
        self.first_entropy: float | None = None
        self.alarmed = self.must_stop = False
        self.random_state = torch.get_rng_state()  # of TRL, behind the last update
        self.began, self.seconds = 0.0, {}

    def on_train_begin(self, args, state, control, model=None, **_):
        if self.looks.is_missing(state.global_step):
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
        if self.looks.is_due(state.global_step):
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
            self.folder.append_log(entry)
            timed = {"seconds": sum(seconds.values()), **{f"seconds/{name}": one for name, one in seconds.items()}}
            self.watch.report({**entry, **timed})

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

    def _look(self, state, policy) -> None:
        self.looks.take(
            state.global_step, self.exchange.roller.held_out, lambda staging: self._save_weights(staging, policy)
        )
        self.exchange.clock.take()

    def _save_weights(self, staging: Path, policy) -> None:
        lora, checkpoint = self.settings.lora, self.exchange.roller.pipeline.checkpoint
        if not self.settings.adapter_only:
            size = int(self.settings.shard_gb * 1e9)
            save_checkpoint(staging, checkpoint, checkpoint_tensors(policy, lora), size)
        if lora is not None and (lora.save == "adapter" or self.settings.adapter_only):
            save_adapter(staging / "adapter", adapter_tensors(policy), lora)
