"""The training loop: one step is a function of its number, the weights and the configuration, and of nothing else.

- Losses are means over the whole step: every pass is weighed by its share of the labels and pictures of all processes.
- A loss or gradient that is not finite stops the run before the weights are touched.
- accelerate divides the work (DDP, FSDP as `accelerate launch` was configured); batches, schedule and state are ours.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from ..checkpoint.checkpoint import open_checkpoint
from ..errors import Blip3oError
from .config import TrainingConfig
from .data.batches import Batches
from .data.items import find_items
from .data.latent_cache import ImageEncoder
from .edit_checkpoint import check_edits
from .joint_model import JointModel, add_lora, choose_parts
from .optimizer import make_optimizers
from .run_folder import RunFolder, load_state
from .samples import save_samples
from .save import save_adapter, save_checkpoint, trained_tensors
from .schedule import WarmupCosine
from .train_state import TrainState, gather

Report = Callable[[dict], None]


def train(config: TrainingConfig, resume: bool = False, report: Report | None = None) -> Path:
    """Run to the last step -> the last checkpoint's folder. `report` gets each logged entry, on the main process."""
    trainer = Trainer(config, resume)
    try:
        return trainer.run(report)
    finally:
        trainer.close()


class Trainer:
    def __init__(self, config: TrainingConfig, resume: bool = False):
        accelerator = self.accelerator = _accelerator(config)
        self.config, self.folder = config, RunFolder(Path(config.out))
        self.fingerprint = config.resume_fingerprint(accelerator.num_processes)
        self.source = self.folder.resume_point(resume, self.fingerprint)
        self.sharded = accelerator.distributed_type.name == "FSDP"
        if self.sharded and config.sample_every:
            raise Blip3oError("sample_every needs the whole model on one device; FSDP divides it. Leave it out.")
        if self.sharded and not getattr(accelerator, "is_fsdp2", False):
            raise Blip3oError("This is FSDP version 1; set fsdp_version: 2 in accelerate's configuration.")
        if self.sharded and config.muon is not None:
            raise Blip3oError("muon needs whole matrices; FSDP divides them. Leave muon out, or use DDP.")
        self.checkpoint = checkpoint = open_checkpoint(config.checkpoint, config.diffusion_folder)
        side = config.image_size or checkpoint.trained_side
        self.pictures = ImageEncoder(checkpoint, config.cache_folder, side, config.fit, accelerator.device)
        items = find_items(config.data)
        check_edits(checkpoint, items, config.train, self.sharded)
        prompts, processes = checkpoint.prompt_encoder, accelerator.num_processes
        for prompt in config.sample_prompts:
            prompts.encode(prompt)
        self.batches = Batches(config, items, prompts, self.pictures, accelerator.process_index, processes)
        language = checkpoint.load_language(torch.float32)
        if config.lora is not None:
            add_lora(language, config.lora.rank, config.lora.alpha, config.lora.targets, config.seed)
        self.network = JointModel(
            language, checkpoint.load_transformer(torch.float32), self.batches.objective, config.bf16,
            config.gradient_checkpointing, checkpoint.reference_mode,
        ).eval()  # fmt: skip
        parts = choose_parts(self.network, config.train, config.lora is not None)
        parameters = {name: p for named in parts.values() for name, p in named.items()}
        self.model, *optimizers = accelerator.prepare(self.network, *make_optimizers(parts, config))
        if self.sharded:
            # FSDP puts shards in the parameters' places.
            self.network = accelerator.unwrap_model(self.model)
            now = dict(self.network.named_parameters())
            parameters = {name: now[name] for name in parameters}
        schedule = WarmupCosine(config.steps, config.warmup, config.final_lr)
        self.state = TrainState(parameters, optimizers, schedule, config.ema_decay)
        if self.source:
            self.state.load_state_dict(load_state(self.source))
        # Every process has looked at the folder before one of them changes it.
        accelerator.wait_for_everyone()
        self.writer = None
        if accelerator.is_main_process:
            self.folder.remove_leftovers(self.state.step)
            self.writer = _tensorboard(self.folder.path / "tensorboard", self.state.step)

    def run(self, report: Report | None = None) -> Path:
        config, main = self.config, self.accelerator.is_main_process
        while self.state.step < config.steps:
            began = time.perf_counter()
            entry = self.train_step()
            if main and (self.state.step % config.log_every == 0 or self.state.step == config.steps):
                self._log(entry, time.perf_counter() - began, report)
            if config.sample_every and self.state.step % config.sample_every == 0 and main:
                self._sample()
            if self.state.step % config.save_every == 0 or self.state.step == config.steps:
                self._save()
        return self.folder.last

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.accelerator.free_memory()

    def train_step(self) -> dict:
        """One optimizer step. Raises Blip3oError, weights untouched, when a loss or the gradient is not finite."""
        accelerator, device = self.accelerator, self.accelerator.device
        passes = self.batches.microbatches(self.state.step)
        labels = torch.tensor(sum(p.labels for p in passes), device=device)
        labels = max(1, int(accelerator.reduce(labels, "sum")))
        # DDP averages over processes; sums over rows are wanted.
        processes = accelerator.num_processes
        losses = torch.zeros(2, device=device)
        for number, one in enumerate(passes, 1):
            with nullcontext() if number == len(passes) else accelerator.no_sync(self.model):
                moved = one.to(device)
                tokens, diffusion = self.model(moved.batch, moved.noise, moved.timesteps, moved.dropped)
                tokens = tokens * (one.labels * processes / labels)
                diffusion = diffusion * (len(one.timesteps) * processes / self.batches.rows)
                accelerator.backward(tokens + diffusion)
            losses += torch.stack([tokens, diffusion]).detach()
        tokens, diffusion = accelerator.reduce(losses, "mean").tolist()
        norm = float(accelerator.clip_grad_norm_(list(self.state.parameters.values()), self.config.clip))
        if not all(map(math.isfinite, (tokens, diffusion, norm))):
            raise Blip3oError(
                f"Step {self.state.step + 1} stopped: token loss {tokens}, diffusion loss {diffusion}, gradient norm "
                f"{norm}. "
                f"The last good checkpoint is {self.folder.last or 'none, no step was saved yet'}. Start a new run "
                "from it with a lower learning rate or clip, or without bf16, or look at the step's pictures."
            )
        scale = self.state.apply_gradients()
        return {"step": self.state.step, "loss": tokens + diffusion, "tokens": tokens, "diffusion": diffusion,
                "gradient_norm": norm, "lr_scale": scale}  # fmt: skip

    def _log(self, entry: dict, seconds: float, report: Report | None) -> None:
        self.folder.append_log(entry)
        for name, value in {**entry, "seconds": seconds}.items():
            if name != "step":
                self.writer.add_scalar(name, value, self.state.step)
        if report is not None:
            report({**entry, "seconds": seconds})

    def _sample(self) -> None:
        path = self.folder.path / "samples" / f"step-{self.state.step:08d}.png"
        with self.state.ema_applied():
            row = save_samples(path, self.network, self.pictures, self.config, self.state.step)
        self.writer.add_image("samples", row, self.state.step, dataformats="HWC")

    def _save(self) -> None:
        """A complete checkpoint, written by the main process; all take part, each may hold a share of the tensors."""
        config, accelerator = self.config, self.accelerator
        main = accelerator.is_main_process
        with self.state.ema_applied():
            named = self.network.named_parameters()
            trained = gather({n: p for n, p in named if n in self.state.parameters or ".base_layer." in n}, main)
            # The tensors of one process are the model's own: they are written before the average is taken off again.
            if main:
                staging = self.folder.staging_dir(self.state.step)
                tensors = trained_tensors(trained, config.lora)
                save_checkpoint(staging, self.checkpoint, tensors, int(config.shard_gb * 1e9))
                if config.lora is not None and config.lora.save == "adapter":
                    save_adapter(staging / "adapter", trained, config.lora)
        state = self.state.state_dict(main)
        if main:
            torch.save(state, staging / "training" / "state.pt")
            self.folder.commit(staging, self.state.step, self.fingerprint, config.keep)
        accelerator.wait_for_everyone()


def _accelerator(config: TrainingConfig):
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise Blip3oError(f"Training needs more packages: {error}. Install this project's `train` extra.") from error
    # bf16 is a matter of the model's forward: accelerate keeps its own choice for a whole process.
    return Accelerator(cpu=config.device == "cpu", mixed_precision="no", step_scheduler_with_optimizer=False)


def _tensorboard(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Blip3oError(f"Training needs more packages: {error}. Install this project's `train` extra.") from error
    return SummaryWriter(str(folder), purge_step=step + 1)
