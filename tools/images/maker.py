"""What the bundled model makes: tokens in their colours, images from noise to result, edits; each judged."""

import numpy as np
import torch
from PIL import Image

from blip3o_core.diffusion.sampler import initial_noise, sigmas
from blip3o_core.editing.references import EditInputs, References
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.code_colours import bundled_colours
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS
from blip3o_core.tiny.judge.judge import to_pixels
from blip3o_core.tokens.colours import mosaic
from blip3o_core.tokens.image_tokens import ImageTokens


class Maker:
    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self.colours = bundled_colours()

    def tokens(self, prompt: str, seed: int, references: References | None = None) -> ImageTokens:
        return self.pipeline.generate_tokens([prompt], [seed], references=references)

    def as_mosaic(self, tokens: ImageTokens, written: int | None = None) -> np.ndarray:
        """(h, w, 3) uint8, a pixel for each of the first `written` tokens."""
        return mosaic(tokens.codes[:, :written], self.colours, tokens.grid).numpy()

    def image(self, tokens: ImageTokens, noise_seed: int = 1, steps: int = STEPS, references=None) -> np.ndarray:
        """(H, W, 3) uint8."""
        edit = None if references is None else EditInputs(references)
        made = self.pipeline.render(tokens, [noise_seed], steps=steps, guidance=GUIDANCE, edit=edit)
        return to_pixels(made[0].numpy())

    def references(self, *images: np.ndarray) -> References:
        return self.pipeline.references([Image.fromarray(image) for image in images])

    def from_noise(self, tokens: ImageTokens, noise_seed: int, references=None) -> list[np.ndarray]:
        """What the latent looks like before the first step and after each, (H, W, 3) uint8."""
        estimates = []
        edit = None if references is None else EditInputs(references)
        self.pipeline.latents(
            tokens, [noise_seed], steps=STEPS, guidance=GUIDANCE, edit=edit,
            callback=lambda step, steps, estimate: estimates.append(estimate),
        )  # fmt: skip
        schedule = sigmas(STEPS, self.pipeline.checkpoint.shift)
        latent = initial_noise(tuple(estimates[0].shape[1:]), [noise_seed])
        latents = [latent]
        for sigma, next_sigma, estimate in zip(schedule[:-1], schedule[1:], estimates, strict=True):
            latent = estimate + next_sigma / sigma * (latent - estimate)
            latents.append(latent)
        return [to_pixels(image.numpy()) for image in self.pipeline.decode(torch.cat(latents))]
