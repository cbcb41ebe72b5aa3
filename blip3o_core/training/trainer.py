"""The training loop: one step is a function of its number, the weights and the configuration, and of nothing else.

- Losses are means over the whole step: every microbatch has the weight of its share of the labels and images of all
  processes.
- A loss or gradient that is not finite stops the run before the weights change.
- accelerate divides the work (DDP, or FSDP as `accelerate launch` was configured). Batches and state are ours.
"""

import contextlib
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from ..checkpoint import open_checkpoint
from ..checkpoint.bundled import resolve_checkpoint
from ..errors import Blip3oError, first_line, is_out_of_memory
from .config import TrainingConfig
from .data.ahead import Ahead
from .data.batches import Batches, Microbatch
from .data.items import find_items
from .data.latent_cache import ImageEncoder
from .data.survey import check_captions, combine, survey
from .edit_checkpoint import check_edits
from .joint_model import JointModel, add_lora, choose_parts
from .optimizer import make_optimizers
from .run_folder import Inputs, RunFolder, saving, state_of
from .samples import save_samples
from .save import save_adapter, save_checkpoint, trained_tensors
from .schedule import WarmupCosine
from .train_state import TrainState, gather
from .watch import Report, Watch


def train(config: TrainingConfig, resume: bool = False, watch: Watch = Watch()) -> Path | None:
    """Train to the last step, or until `watch.stop` -> the last checkpoint's folder, None when there is none."""
    trainer = Trainer(config, resume, watch.tell)
    try:
        return trainer.run(watch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Blip3oError(
            f"Step {trainer.state.step + 1} needs more memory than there is: {first_line(error)}. Set batch lower and "
            "accumulation higher, or set gradient_checkpointing to true, then continue with --resume."
        ) from error
    finally:
        trainer.close()


class Trainer:
    def __init__(self, config: TrainingConfig, resume: bool = False, tell: Callable[[str], None] | None = None):
        accelerator = self.accelerator = _accelerator(config)
        self.config, self.folder = config, RunFolder(Path(config.out))
        self.fingerprint = config.resume_fingerprint(accelerator.num_processes)
        source = self.folder.resume_point(resume, self.fingerprint)
        self.sharded = accelerator.distributed_type.name == "FSDP"
        if self.sharded:
            _check_sharding(config, accelerator)
        self.checkpoint = open_checkpoint(resolve_checkpoint(config.checkpoint), config.diffusion_folder)
        self.images, self.batches = self._load_data()
        if tell is not None and accelerator.is_main_process:
            for line in self.batches.items.summary():
                tell(line)
        self.inputs = self._look_at_inputs()
        if source is not None:
            self.folder.require_inputs(source, self.inputs)
        self.network = self._load_network()
        self.model, self.state = self._prepare()
        if source is not None:
            self.state.restore(*state_of(source))
        # Every process has looked at the folder before one of them changes it.
        accelerator.wait_for_everyone()
        self.writer = None
        if accelerator.is_main_process:
            self.folder.prepare(self.state.step)
            self.writer = _tensorboard(self.folder.path / "tensorboard", self.state.step)
        self.saved = self.state.step  # the step of the newest checkpoint
        self.ahead = Ahead(self.batches.prepare, config.steps, config.workers)

    def _load_data(self) -> tuple[ImageEncoder, Batches]:
        """Raises Blip3oError for data and prompts that do not fit the checkpoint, before its networks load."""
        config, checkpoint, accelerator = self.config, self.checkpoint, self.accelerator
        items = find_items(config.paths)
        side = config.image_size or checkpoint.trained_side
        images = ImageEncoder(checkpoint, config.cache_folder, side, config.fit, accelerator.device)
        check_edits(checkpoint, items, config.train, self.sharded)
        prompts = checkpoint.prompt_encoder
        for prompt in config.sample_prompts:
            prompts.encode(prompt)
        return images, Batches(config, items, prompts, images, accelerator.process_index, accelerator.num_processes)

    def _look_at_inputs(self) -> Inputs:
        """Identity of checkpoint and data.

        Raises Blip3oError, in every process, for images that cannot be read and captions that are too long.
        """
        accelerator, items = self.accelerator, self.batches.items
        found = [survey(items, accelerator.process_index, accelerator.num_processes)]
        if accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            found = gather_object(found)
        data = combine(items, found)
        checkpoint = self.checkpoint
        check_captions(items, checkpoint.prompt_encoder, math.prod(checkpoint.grid), self.config.parse_special)
        return Inputs(checkpoint.identity, data, len(items))

    def _load_network(self) -> JointModel:
        config, checkpoint = self.config, self.checkpoint
        language = checkpoint.load_language(torch.float32)
        if config.lora is not None:
            add_lora(language, config.lora.rank, config.lora.alpha, config.lora.targets, config.seed)
        return JointModel(
            language,
            checkpoint.load_transformer(torch.float32),
            checkpoint.reference_mode,
            config.quirks,
            config.bf16,
            config.gradient_checkpointing,
        ).eval()

    def _prepare(self) -> tuple[torch.nn.Module, TrainState]:
        """The model as accelerate wraps it, and what is trained of it."""
        config = self.config
        parts = choose_parts(self.network, config.train, config.lora is not None)
        parameters = {name: p for named in parts.values() for name, p in named.items()}
        model, *optimizers = self.accelerator.prepare(self.network, *make_optimizers(parts, config))
        if self.sharded:
            # FSDP replaces the parameters by their shards.
            self.network = self.accelerator.unwrap_model(model)
            now = dict(self.network.named_parameters())
            parameters = {name: now[name] for name in parameters}
        schedule = WarmupCosine(config.steps, config.warmup, config.final_lr)
        return model, TrainState(parameters, optimizers, schedule, config.ema_decay)

    def run(self, watch: Watch = Watch()) -> Path | None:
        config, main = self.config, self.accelerator.is_main_process
        while self.state.step < config.steps:
            if self._must_stop(watch):
                self._save_unsaved()
                break
            began = time.perf_counter()
            entry = self.train_step()
            step, last = self.state.step, self.state.step == config.steps
            if main and (step % config.log_every == 0 or last):
                self._log(entry, time.perf_counter() - began, watch.report)
            if main and config.sample_every and step % config.sample_every == 0:
                self._sample()
            if step % config.save_every == 0 or last:
                self._save()
        return self.folder.last

    def _must_stop(self, watch: Watch) -> bool:
        """Whether any process was asked to stop: they must all do it behind the same step."""
        asked = torch.tensor(int(watch.stop()), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            asked = self.accelerator.reduce(asked, "sum")
        return bool(asked)

    def _save_unsaved(self) -> None:
        if self.state.step > self.saved:
            self._save()

    def close(self) -> None:
        self.ahead.close()
        if self.writer is not None:
            with contextlib.suppress(OSError):  # a full disk; the run has ended with that
                self.writer.close()
        self.accelerator.free_memory()

    def _next_microbatches(self) -> list[Microbatch]:
        """This process's share of the next step. Before an error in the data ends the run, what was learnt is saved."""
        try:
            microbatches = self.batches.finish(self.ahead.get(self.state.step))
        except Blip3oError as error:
            if self.accelerator.num_processes > 1 or self.state.step == self.saved:
                raise
            self._save_unsaved()
            raise Blip3oError(
                f"{error} Step {self.state.step} was saved: continue with --resume after that."
            ) from error
        self.images.end_step()
        return microbatches

    def train_step(self) -> dict:
        """One optimizer step -> its log entry.

        Raises Blip3oError, with the weights as they were, when a loss or the gradient is not finite.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        microbatches = self._next_microbatches()
        labels = torch.tensor(sum(one.num_labels for one in microbatches), device=device)
        labels = max(1, int(accelerator.reduce(labels, "sum")))
        # DDP averages over processes, but the sum over rows is needed.
        processes = accelerator.num_processes
        losses = torch.zeros(2, device=device)
        for number, one in enumerate(microbatches, 1):
            with nullcontext() if number == len(microbatches) else accelerator.no_sync(self.model):
                moved = one.to(device)
                tokens, diffusion = self.model(moved.batch, moved.noising)
                tokens = tokens * (one.num_labels * processes / labels)
                diffusion = diffusion * (len(one.batch.ids) * processes / self.batches.rows)
                accelerator.backward(tokens + diffusion)
            losses += torch.stack([tokens, diffusion]).detach()
        tokens, diffusion = accelerator.reduce(losses, "mean").tolist()
        norm = float(accelerator.clip_grad_norm_(list(self.state.parameters.values()), self.config.clip))
        if not all(map(math.isfinite, (tokens, diffusion, norm))):
            last = (
                f"The last good checkpoint is {self.folder.last}." if self.folder.last else "No checkpoint was saved."
            )
            raise Blip3oError(
                f"Step {self.state.step + 1} stopped: the token loss is {tokens}, the diffusion loss {diffusion} and "
                f"the gradient norm {norm}. The weights did not change. {last} Check the images of this step, or start "
                "a new run from the checkpoint with a lower learning rate or clip, or with bf16: false."
            )
        scale = self.state.apply_gradients()
        return {
            "step": self.state.step,
            "loss": tokens + diffusion,
            "tokens": tokens,
            "diffusion": diffusion,
            "gradient_norm": norm,
            "lr_scale": scale,
        }

    def _log(self, entry: dict, seconds: float, report: Report) -> None:
        self.folder.append_log(entry)
        with saving(self.folder.path / "tensorboard"):
            for name, value in {**entry, "seconds": seconds}.items():
                if name != "step":
                    self.writer.add_scalar(name, value, self.state.step)
        report({**entry, "seconds": seconds})

    def _sample(self) -> None:
        path = self.folder.path / "samples" / f"step-{self.state.step:08d}.png"
        with saving(path), self.state.ema_applied():
            row = save_samples(path, self.network, self.images, self.config, self.state.step)
            self.writer.add_image("samples", row, self.state.step, dataformats="HWC")

    def _save(self) -> None:
        """Write a complete checkpoint. All processes must call it, for each may hold a share of the tensors."""
        config, main, step = self.config, self.accelerator.is_main_process, self.state.step
        with contextlib.ExitStack() as stack:
            if main:
                place = self.folder.new_checkpoint(step, self.fingerprint, self.inputs, config.keep)
                staging = stack.enter_context(place)
            with self.state.ema_applied():
                named = self.network.named_parameters()
                trained = gather({n: p for n, p in named if n in self.state.parameters or ".base_layer." in n}, main)
                # In one process these are the model's own tensors: they are written while they are the average.
                if main and not config.adapter_only:
                    tensors = trained_tensors(trained, config.lora)
                    save_checkpoint(staging, self.checkpoint, tensors, int(config.shard_gb * 1e9))
                if main and config.lora is not None and (config.lora.save == "adapter" or config.adapter_only):
                    save_adapter(staging / "adapter", trained, config.lora)
            # float32 weights are in the state, too: the checkpoint's own may be rounded.
            state = self.state.state_dict(main)
            if main:
                torch.save(state, staging / "training" / "state.pt")
        self.saved = step
        self.accelerator.wait_for_everyone()


def _check_sharding(config: TrainingConfig, accelerator) -> None:
    if config.sample_every:
        raise Blip3oError(
            f"sample_every is {config.sample_every}, but samples need the whole model on one device and FSDP divides "
            "it. Set sample_every to 0, or use DDP."
        )
    if not getattr(accelerator, "is_fsdp2", False):
        raise Blip3oError("FSDP version 1 is not supported. Set fsdp_version to 2 in accelerate's configuration.")
    if config.muon is not None:
        raise Blip3oError(
            f"muon is {config.muon}, but muon needs whole matrices and FSDP divides them. Remove muon, or use DDP."
        )


def _accelerator(config: TrainingConfig):
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise _missing(error) from error
    # bf16 is a matter of the model's forward: accelerate would choose it for the whole process.
    return Accelerator(cpu=config.device == "cpu", mixed_precision="no", step_scheduler_with_optimizer=False)


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing(error) from error
    with saving(folder):
        return SummaryWriter(str(folder), purge_step=step + 1)


def _missing(error: ImportError) -> Blip3oError:
    return Blip3oError(f"Training needs more packages: {error}. Install this project with its `train` extra.")
