"""Rough renders of an image whose tokens are still being written, in the place of the mosaic.

About once per quarter of the grid the tokens so far are read, rendered in a few steps, and shown. The condition ends
there: with the bundled model the written part then looks as in the finished image, and the rest like its background.
Filled with copies of the last row, or with the null condition, it repeats shapes or invents some. What is written does
not change: nothing of the run that writes is touched, and no generator of the process is used.
"""

import logging

import comfy.model_management as mm
import torch
from PIL import Image

from ...blip3o_core import memory
from ...blip3o_core.decoding.interface import Compute
from ...blip3o_core.decoding.prefill import Prompts, encode_tokens
from ...blip3o_core.diffusion.sampler import initial_noise, sigmas
from ...blip3o_core.errors import first_line
from ...blip3o_core.models.connector import connect
from ...blip3o_core.tokens.generate import Request, prompt_features
from .offload import streamed

STEPS = 3
LEAST_CELLS = 16  # on a side, as far as the model was trained on so many; otherwise half of what it was trained on
MOST_ROWS = 4  # images of a batch that are rendered: the first ones
QUARTERS = 4


class RoughRenders:
    """Renders the tokens of one run."""

    def __init__(self, language, networks: tuple, request: Request):
        """`language`: the Language that writes the tokens. `networks`: the host's MODEL and VAE."""
        self._language, (self._model, self._vae) = language, networks
        self._rows = min(len(request.prompts), MOST_ROWS)
        self._seeds = request.seeds[: self._rows]
        self._ids = [request.prompt_ids(language.encoder, prompt) for prompt in request.prompts[: self._rows]]
        self._features = prompt_features(language.encoder, request)
        height, width = language.network.grid
        self._due = {height * k // QUARTERS * width for k in range(1, QUARTERS)} - {0}
        self._works, self.shown = True, False  # whether a render has been shown

    def load(self, needed: int) -> None:
        """Make room for all three networks; `needed`: bytes that writing takes. If they do not fit, none renders."""
        try:
            own = self._language.patcher
            mm.load_models_gpu([self._vae.patcher, self._model, own], memory_required=needed + self._bytes())
            if streamed(own) or streamed(self._model):
                mm.load_models_gpu([own], memory_required=needed)
                self._stop("the diffusion model does not fit into the memory next to the language model")
        except Exception as error:
            self._stop(first_line(error))

    def __call__(self, done: int, codes) -> Image.Image | None:
        """The tokens so far as an image, if it is time for one. `codes()`: (B, done)."""
        if not self._works or done not in self._due:
            return None
        try:
            with torch.inference_mode():
                image = _side_by_side(self._pixels(codes()[: self._rows]))
            self.shown = True
            return image
        except Exception as error:  # ComfyUI's interrupt is none, and passes
            self._stop(first_line(error))
            return None

    def _stop(self, reason: str) -> None:
        self._works = False
        logging.getLogger(__name__).warning("BLIP3o: the tokens so far are not rendered, their mosaic is: %s", reason)

    def _shape(self) -> tuple[int, int, int]:
        """Of a latent."""
        config = self._model.model.diffusion_model.config
        side = max(config.sample_size // 2, min(config.sample_size, LEAST_CELLS))
        side = max(side // config.patch_size, 1) * config.patch_size
        return config.in_channels, side, side

    def _bytes(self) -> int:
        network, vae, (_, height, width) = self._model.model, self._vae, self._shape()
        longest = max(map(len, self._ids)) + self._language.network.num_tokens
        cells = height * width
        return max(
            self._language.prefill_bytes(self._rows, longest),
            memory.diffusion_bytes(network.diffusion_model.config, self._rows, cells, network.get_dtype_inference()),
            memory.vae_bytes(vae.first_stage_model.config, cells * vae.downscale_ratio**2, vae.vae_dtype) * self._rows,
        )

    def _pixels(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, n) codes -> (B, H, W, 3) in [0, 1]. Without guidance, which would take twice as long."""
        model, vae, device = self._model.model, self._vae, self._model.load_device
        context = self._conditioning(codes).to(device)
        x = initial_noise(self._shape(), self._seeds).to(device)
        schedule = sigmas(STEPS, model.model_sampling.shift)
        options = {"sample_sigmas": schedule.to(device)}
        for now, then in zip(schedule[:-1], schedule[1:], strict=True):
            mm.throw_exception_if_processing_interrupted()
            sigma = now.to(device).expand(len(x))
            clean = model.apply_model(x, sigma, c_crossattn=context, transformer_options=options)
            x = clean + (x - clean) * float(then / now)
        latent = model.process_latent_out(x).to(vae.device, vae.vae_dtype)
        return vae.process_output(vae.first_stage_model.decode(latent).float()).movedim(1, -1).cpu()

    def _conditioning(self, codes: torch.Tensor) -> torch.Tensor:
        language = self._language
        network, device = language.network, language.patcher.load_device
        ids = codes.to(device) + network.vocabulary.image_start
        prompts = Prompts(self._ids, features=self._features)
        hidden = encode_tokens(network, prompts, ids, Compute(device, language.dtype))
        return connect(network.connector, hidden)[0]


def _side_by_side(images: torch.Tensor) -> Image.Image:
    strip = torch.cat(list(images), 1)
    return Image.fromarray((strip.clamp(0, 1) * 255).round().byte().numpy())
