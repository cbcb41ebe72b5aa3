"""Images of fixed prompts and seeds while training: one PNG with all of them in a row."""

from pathlib import Path

import torch

from ..diffusion import sampler as diffusion
from ..images.png import save_png
from ..models import autoencoder
from ..pipeline import condition
from ..tokens.generate import Request, generate_tokens
from .config import TrainingConfig
from .data.latent_cache import ImageEncoder
from .joint_model import JointModel


@torch.no_grad()
def save_samples(
    path: Path, model: JointModel, images: ImageEncoder, config: TrainingConfig, step: int
) -> torch.Tensor:
    """Write the row of images to `path` -> the row, (H, W, 3) in [0, 1]. Image k has seed k at every step."""
    checkpoint, prompts = images.checkpoint, list(config.sample_prompts)
    seeds = list(range(len(prompts)))
    tokens = generate_tokens(model.language, checkpoint.prompt_encoder, Request(prompts, seeds))
    latents = diffusion.sample(
        model.transformer,
        diffusion.initial_noise(images.shape, seeds),
        condition(model.language, tokens),
        diffusion.sigmas(config.sample_steps, checkpoint.shift),
        diffusion.GuidanceSchedule(config.sample_guidance),
    )
    vae = images.autoencoder
    row = torch.cat(list(autoencoder.decode(vae, latents / vae.config.scaling_factor).cpu()), dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, row, {"step": step, "prompts": prompts, "seeds": seeds})
    return row
