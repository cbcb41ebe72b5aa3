"""The acts in order, for scripts, the command line and tests: prompt -> tokens -> conditioning -> latents -> picture.

The nodes call the same functions one by one.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from . import autoencoder, diffusion, image_tokenizer
from .checkpoint import Checkpoint, open_checkpoint
from .connector import connect
from .decoding import Callback, Sampling, decode, read
from .errors import Blip3oError
from .language import LanguageModel
from .tokens import ImageTokens
from .vocabulary import PromptEncoder


@dataclass(frozen=True)
class Conditioning:
    """What the diffusion transformer attends to: (B, 1 + T, C) each; `mask` (B, 1 + T) bool or None."""

    positive: torch.Tensor
    negative: torch.Tensor
    mask: torch.Tensor | None


def draw_tokens(
    language: LanguageModel,
    encoder: PromptEncoder,
    prompts: list[str],
    seeds: list[int],
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    negative_prompt: str | None = None,
    parse_special: bool = False,
    callback: Callback | None = None,
    source: str | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> ImageTokens:
    """Write one picture per prompt as image tokens, hidden states kept.

    `callback(done, total, codes (B, done))` runs once per token. `source` names the weights, see `condition`.
    """
    for prompt in prompts:
        if not prompt.strip():
            raise Blip3oError(f"The prompt is {prompt!r}: there is nothing to draw. Describe the picture in words.")
    rows = [encoder.encode(prompt, parse_special) for prompt in prompts]
    guided = sampling.guidance > 1
    negative = encoder.encode(negative_prompt or "", parse_special) if guided else None
    start = language.vocabulary.image_start

    def on_codes(done: int, total: int, ids: torch.Tensor) -> None:
        callback(done, total, ids - start)

    drawn = decode(language, rows, seeds, sampling, negative, on_codes if callback else None, device, dtype)
    return ImageTokens(
        codes=(drawn.ids - start).cpu(), grid=language.grid, prompts=prompts, prompt_ids=rows, seeds=seeds,
        lengths=drawn.lengths, vocabulary_id=language.vocabulary_id, hidden=drawn.hidden.cpu(), hidden_source=source,
    )  # fmt: skip


@torch.no_grad()
def condition(
    language: LanguageModel,
    tokens: ImageTokens,
    source: str | None = None,
    reference_batch: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Conditioning:
    """Hidden states through the connector, and the null condition.

    The states that `tokens` carry are used when `source` names the weights that made them; else the language model
    reads the tokens once. `reference_batch` repeats the authors' unmasked second pass, where rows change each other.
    """
    if tokens.vocabulary_id != language.vocabulary_id:
        raise Blip3oError(
            f"These image tokens are of another checkpoint: {tokens.vocabulary_id}; this language model has "
            f"{language.vocabulary_id}. Draw them again with this model, or connect the model that drew them."
        )
    weight = language.connector[0].weight
    device, dtype = device or weight.device, dtype or weight.dtype
    if tokens.hidden is not None and source is not None and tokens.hidden_source == source and not reference_batch:
        hidden = tokens.hidden
    else:
        ids = tokens.codes + language.vocabulary.image_start
        hidden = read(language, tokens.prompt_ids, ids, reference_batch, device, dtype)
    positive, negative = connect(language.connector, hidden.to(device, dtype))
    return Conditioning(positive, negative, None if reference_batch else tokens.mask)


class Pipeline:
    """All parts of one checkpoint on one device."""

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: torch.dtype | None = None):
        """`dtype` None: as stored."""
        self.checkpoint, self.device, self._dtype = checkpoint, torch.device(device), dtype
        self.encoder = checkpoint.prompt_encoder
        self.language = checkpoint.load_language(dtype).to(device)
        self.transformer = checkpoint.load_transformer(dtype).to(device)
        self.autoencoder = checkpoint.load_autoencoder(dtype).to(device)
        self.source = f"{checkpoint.identity} {self.language.connector[0].weight.dtype}"

    @classmethod
    def load(cls, folder: str | Path, device="cpu", dtype=None, diffusion_folder=None) -> "Pipeline":
        return cls(open_checkpoint(folder, diffusion_folder), device, dtype)

    @classmethod
    def of(cls, checkpoint: Checkpoint, language: LanguageModel, transformer, autoencoder) -> "Pipeline":
        """Of parts in memory, as while they are trained: hidden states are always read anew, for weights may move."""
        self = cls.__new__(cls)
        self.checkpoint, self.encoder, self._dtype, self.source = checkpoint, checkpoint.prompt_encoder, None, None
        self.language, self.transformer, self.autoencoder = language, transformer, autoencoder
        self.device = language.connector[0].weight.device
        return self

    @cached_property
    def image_tokenizer(self):
        """Loaded on first use: drawing from text needs none."""
        return self.checkpoint.load_image_tokenizer(self._dtype).to(self.device)

    def tokens_of(self, images: torch.Tensor, prompts: list[str]) -> ImageTokens:
        """Pictures (B, H, W, 3) in [0, 1] -> their image tokens, as if the prompts had been drawn so."""
        codes = image_tokenizer.encode(self.image_tokenizer, images.to(self.device)).cpu()
        return ImageTokens(
            codes=codes, grid=self.language.grid, prompts=prompts, prompt_ids=list(map(self.encoder.encode, prompts)),
            seeds=[0] * len(codes), lengths=[codes.shape[1]] * len(codes), vocabulary_id=self.language.vocabulary_id,
        )  # fmt: skip

    def draw(self, prompts: list[str], seeds: list[int], sampling: Sampling = Sampling(), **kwargs) -> ImageTokens:  # noqa: B008
        """Prompts -> image tokens; see `draw_tokens`."""
        return draw_tokens(self.language, self.encoder, prompts, seeds, sampling, source=self.source, **kwargs)

    def render(
        self,
        tokens: ImageTokens,
        seeds: list[int],
        size: tuple[int, int] | None = None,
        steps: int = 30,
        guidance: float = 2.0,
        callback=None,
    ) -> torch.Tensor:
        """Tokens -> pictures (B, H, W, 3) float32 in [0, 1]. `size`: (width, height) in pixels.

        `seeds`: of the noise, one per picture; a single row of tokens is rendered once for each of them.
        """
        return self.decode(self.latents(tokens, seeds, size, steps, guidance, callback))

    def latents(self, tokens, seeds, size=None, steps=30, guidance=2.0, callback=None) -> torch.Tensor:
        """The first half of `render`: tokens -> scaled latents (B, C, h, w)."""
        width, height = self.check(size, steps, guidance)
        factor = autoencoder.compression(self.checkpoint.autoencoder_config)
        shape = (self.transformer.config.in_channels, height // factor, width // factor)
        schedule = diffusion.sigmas(steps, self.checkpoint.shift)
        given = condition(self.language, tokens, self.source)
        return diffusion.sample(
            self.transformer, diffusion.initial_noise(shape, seeds), given.positive, given.negative,
            schedule, guidance, given.mask, callback,
        )  # fmt: skip

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The second half of `render`: scaled latents -> pictures."""
        return autoencoder.decode(self.autoencoder, latents / self.autoencoder.config.scaling_factor)

    def check(self, size: tuple[int, int] | None, steps: int, guidance: float) -> tuple[int, int]:
        """The size to draw; raises Blip3oError when size, steps or guidance cannot be drawn with."""
        diffusion.sigmas(steps)
        diffusion.check_guidance(guidance)
        size = size or (self.checkpoint.trained_side,) * 2
        autoencoder.check_size(*size, self.checkpoint.latent_multiple)
        return size
