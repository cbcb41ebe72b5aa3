"""The parts in order, for scripts, the command line and tests: prompt -> tokens -> conditioning -> latents -> image.

The nodes call the same functions one by one.
"""

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from . import memory
from .checkpoint import Checkpoint, open_checkpoint
from .decoding.interface import Compute
from .decoding.prefill import Prompts, encode_tokens
from .decoding.sampling import Sampling
from .diffusion import sampler as diffusion
from .diffusion.reference_conditioning import ReferenceConditioning
from .diffusion.reference_mode import ReferenceMode
from .diffusion.sampler import Conditioning, GuidanceSchedule
from .editing.references import EditInputs, Framing, References, encode_references
from .images.preprocess import to_images, tokenizer_input
from .models import autoencoder
from .models.connector import connect
from .models.image_tokenizer import encode_images
from .models.language import LanguageModel
from .tokens.generate import Request, generate_tokens
from .tokens.image_tokens import ImageTokens, require_same_codes
from .weights.lora import Lora, merge_lora


@torch.no_grad()
def condition(
    language: LanguageModel,
    tokens: ImageTokens,
    source: str | None = None,
    strength: float = 1.0,
    compute: Compute = Compute(),
) -> Conditioning:
    """Hidden states through the connector, and the null condition; `strength` 1 gives the first, 0 the second.

    The states that `tokens` carry are used when `source` names the weights that made them; else the language model
    encodes the tokens once more.
    """
    require_same_codes(language, tokens, "image tokens")
    device, dtype = compute.resolve(language.connector[0].weight)
    if tokens.hidden is not None and source is not None and tokens.hidden_source == source:
        hidden = tokens.hidden
    else:
        ids = tokens.codes + language.vocabulary.image_start
        prompts = Prompts(tokens.prompt_ids, features=tokens.features)
        hidden = encode_tokens(language, prompts, ids, Compute(device, dtype))
    positive, negative = connect(language.connector, hidden.to(device, dtype))
    if strength != 1:
        positive = torch.lerp(negative.expand_as(positive), positive, strength)
    return Conditioning(positive, negative, tokens.mask)


def check_rendering(
    checkpoint: Checkpoint,
    size: tuple[int, int] | None,
    steps: int,
    guidance: float | GuidanceSchedule,
    rows: int = 1,
    compute: Compute = Compute(),
) -> tuple[int, int]:
    """(width, height) to render, in pixels, for `rows` images at once.

    Raises Blip3oError for a size, steps or guidance that are out of range, and for more than fits beside the weights
    in the memory of `compute.device`, if that is given; without a dtype in half precision, so that nothing which might
    fit is refused.
    """
    diffusion.sigmas(steps)
    guidance = guidance if isinstance(guidance, GuidanceSchedule) else GuidanceSchedule(guidance)
    width, height = size or (checkpoint.trained_side, checkpoint.trained_side)
    autoencoder.check_size(width, height, checkpoint.latent_multiple)
    if compute.device is not None:
        pixels, dtype = width * height, compute.dtype or torch.bfloat16
        cells = pixels // autoencoder.compression(checkpoint.autoencoder_config) ** 2
        fed = rows * (1 if guidance.scale == 1 else 2)
        steps_need = memory.diffusion_bytes(checkpoint.transformer_config, fed, cells, dtype)
        decoding_needs = memory.vae_bytes(checkpoint.autoencoder_config, pixels, dtype)
        memory.require_memory(
            max(steps_need, decoding_needs) + memory.image_bytes(rows, pixels),
            compute.device,
            f"An image of {width}x{height}" if rows == 1 else f"A batch of {rows} images of {width}x{height}",
            "Make a smaller image." if rows == 1 else "Make smaller images, or fewer at once.",
        )
    return width, height


class Pipeline:
    """All parts of one checkpoint on one device.

    Several threads may use one Pipeline at the same time, and so may a callback: what a run computes is its own.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: torch.dtype | None = None):
        """`dtype` None: as stored."""
        self.checkpoint, self.device, self._dtype = checkpoint, torch.device(device), dtype
        self._image_tokenizer, self._loading = None, threading.Lock()
        self.encoder = checkpoint.prompt_encoder
        self.language = checkpoint.load_language(dtype).to(device)
        self.transformer = checkpoint.load_transformer(dtype).to(device)
        self.autoencoder = checkpoint.load_autoencoder(dtype).to(device)
        self.source = f"{checkpoint.language_identity} {self.language.connector[0].weight.dtype}"

    @classmethod
    def load(cls, folder: str | Path, device="cpu", dtype=None, diffusion_folder=None) -> "Pipeline":
        return cls(open_checkpoint(folder, diffusion_folder), device, dtype)

    @classmethod
    def of(cls, checkpoint: Checkpoint, language: LanguageModel, transformer, autoencoder) -> "Pipeline":
        """Of parts in memory, as while they are trained: hidden states are always read anew, for weights may move."""
        self = cls.__new__(cls)
        self.checkpoint, self.encoder, self._dtype, self.source = checkpoint, checkpoint.prompt_encoder, None, None
        self._image_tokenizer, self._loading = None, threading.Lock()
        self.language, self.transformer, self.autoencoder = language, transformer, autoencoder
        self.device = language.connector[0].weight.device
        return self

    def add_lora(self, lora: Lora, strength: float = 1.0) -> None:
        """Add a LoRA to the language model's weights, for good. Several add up."""
        merge_lora(self.language, lora, strength)
        self.source = f"{self.source} {lora.identity(strength)}"

    @property
    def image_tokenizer(self):
        """Loaded on first use, once: drawing from text needs none."""
        with self._loading:
            if self._image_tokenizer is None:
                self._image_tokenizer = self.checkpoint.load_image_tokenizer(self._dtype).to(self.device)
            return self._image_tokenizer

    def tokens_of(self, images: torch.Tensor, prompts: list[str]) -> ImageTokens:
        """Images (B, H, W, 3) in [0, 1] -> their image tokens, as if the model had written them for the prompts."""
        tokenizer = self.image_tokenizer
        views = [tokenizer_input(image, "stretch", tokenizer.image_size) for image in to_images(images)]
        codes, _ = encode_images(tokenizer, torch.cat(views))
        return ImageTokens(
            codes=codes, grid=self.language.grid, prompts=prompts, prompt_ids=list(map(self.encoder.encode, prompts)),
            seeds=[0] * len(codes), lengths=[codes.shape[1]] * len(codes), codes_id=self.language.codes_id,
        )  # fmt: skip

    @property
    def reference_mode(self) -> ReferenceMode:
        return self.checkpoint.reference_mode

    def references(self, images: list, fit: str = "stretch", resolution: int | None = None) -> References:
        """PIL images -> what an edit starts from; `fit`: see `images.preprocess`.

        `resolution`: pixels on a side of what the autoencoder sees of a square image; None: what the checkpoint was
        trained on.
        """

        def to_latents(pixels: torch.Tensor) -> torch.Tensor:
            return autoencoder.encode(self.autoencoder, pixels.to(self.device))

        resolution = self.checkpoint.trained_side if resolution is None else resolution
        framing = Framing(fit, resolution, self.checkpoint.latent_multiple)
        return encode_references(self.image_tokenizer, to_latents, images, framing, self.language.codes_id, self.device)

    def generate_tokens(
        self,
        prompts: list[str],
        seeds: list[int],
        sampling: Sampling = Sampling(),
        callback: Callable[[int, int, Callable[[], torch.Tensor]], None] | None = None,
        **more,
    ) -> ImageTokens:
        """Prompts -> image tokens; see the function `generate_tokens`. `more`: of a Request."""
        request = Request(prompts, seeds, features_in_prompt=self.reference_mode.features, **more)
        return generate_tokens(self.language, self.encoder, request, sampling, callback, self.source)

    def render(
        self,
        tokens: ImageTokens,
        seeds: list[int],
        size: tuple[int, int] | None = None,
        steps: int = 30,
        guidance: float | GuidanceSchedule = 2.0,
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        edit: EditInputs | None = None,
    ) -> torch.Tensor:
        """Tokens -> images (B, H, W, 3) float32 in [0, 1]. Arguments as for `latents`."""
        return self.decode(self.latents(tokens, seeds, size, steps, guidance, callback, edit))

    def latents(
        self,
        tokens: ImageTokens,
        seeds: list[int],
        size: tuple[int, int] | None = None,
        steps: int = 30,
        guidance: float | GuidanceSchedule = 2.0,
        callback: Callable[[int, int, torch.Tensor], None] | None = None,
        edit: EditInputs | None = None,
    ) -> torch.Tensor:
        """The first half of `render`: tokens -> scaled latents (B, C, h, w).

        `seeds`: noise seeds, one for each image; a single row of tokens is rendered once for each seed. `size`: (width,
        height) in pixels; None: what the checkpoint was trained on, or the first image of an edit. `guidance`: a
        GuidanceSchedule guides a part of the steps; its shift is the checkpoint's. `callback`: see `sample`.
        """
        if not isinstance(guidance, GuidanceSchedule):
            guidance = GuidanceSchedule(guidance)
        shift, vae = self.checkpoint.shift, self.autoencoder.config
        width, height = self.check(
            size if edit is None else edit.size(size), steps, guidance, max(len(seeds), len(tokens))
        )
        noise = diffusion.initial_noise(self.latent_shape(width, height), seeds)
        conditioning = self.conditioning(tokens, edit)
        inpaint = None if edit is None else edit.inpaint(vae.scaling_factor)
        return diffusion.sample(
            self.transformer,
            noise,
            conditioning,
            diffusion.sigmas(steps, shift),
            replace(guidance, shift=shift),
            inpaint,
            callback,
        )

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents of an image of so many pixels."""
        cell = autoencoder.compression(self.checkpoint.autoencoder_config)
        return self.transformer.config.in_channels, height // cell, width // cell

    def conditioning(self, tokens: ImageTokens, edit: EditInputs | None = None) -> Conditioning:
        """What the diffusion is conditioned on: the tokens, and the references of an edit."""
        if edit is None:
            return condition(self.language, tokens, self.source)
        conditioning = condition(self.language, tokens, self.source, strength=edit.strengths.text)
        scaled = [latents * self.autoencoder.config.scaling_factor for latents in edit.references.latents]
        mode = self.reference_mode if edit.mode is None else edit.mode
        references = ReferenceConditioning(scaled, mode, edit.strengths, self._reference_connector)
        return replace(conditioning, references=references)

    @cached_property
    def _reference_connector(self):
        """In the transformer's dtype; its weights belong to the language model's part of the checkpoint."""
        connector, dtype = self.language.reference_connector, self.transformer.dtype
        if connector is None or connector[0].weight.dtype == dtype:
            return connector
        return deepcopy(connector).to(dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The second half of `render`: scaled latents -> images (B, H, W, 3) float32 in [0, 1]."""
        return autoencoder.decode(self.autoencoder, latents / self.autoencoder.config.scaling_factor)

    def check(
        self, size: tuple[int, int] | None, steps: int, guidance: float | GuidanceSchedule, rows: int = 1
    ) -> tuple[int, int]:
        """As the function `check_rendering`, for this checkpoint, here."""
        compute = Compute(self.device, self.transformer.dtype)
        return check_rendering(self.checkpoint, size, steps, guidance, rows, compute)
