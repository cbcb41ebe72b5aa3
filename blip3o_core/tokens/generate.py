"""Prompts -> image tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..decoding.engine import decode
from ..decoding.interface import Compute
from ..decoding.prefill import Prompts
from ..decoding.sampling import Sampling
from ..editing.references import References
from ..errors import Blip3oError, shown
from ..models.language import LanguageModel, PromptFeatures
from ..prompts.encoder import PromptEncoder
from .image_tokens import ImageTokens, require_same_codes


@dataclass(frozen=True)
class Request:
    """Images to generate: one per prompt, row k with `seeds[k]`.

    With `references` the prompts are instructions for all of them. `features_in_prompt`: the references enter the
    prompt as the image tokenizer's features, see `ReferenceMode`. `parse_special`: special tokens spelled in a prompt
    act as tokens, as in the authors' code; otherwise they are text.
    """

    prompts: list[str]
    seeds: list[int]
    negative_prompt: str | None = None
    references: References | None = None
    features_in_prompt: bool = False
    parse_special: bool = False

    def __post_init__(self):
        for name, values, kind, what in (
            ("prompts", self.prompts, str, "texts"),
            ("seeds", self.seeds, int, "integers"),
        ):
            if not isinstance(values, list | tuple) or not all(isinstance(each, kind) for each in values):
                raise Blip3oError(f"{name} is {shown(values)}. It must be a list of {what}, one for each image.")

    def prompt_ids(self, encoder: PromptEncoder, prompt: str) -> list[int]:
        """Token ids of one of the prompts or of the negative one, through the scale token."""
        if self.references is None:
            return encoder.encode(prompt, self.parse_special)
        return encoder.encode_edit(
            prompt, self.references.codes, self.parse_special, as_features=self.features_in_prompt
        )

    def fed(self, encoder: PromptEncoder, sampling: Sampling) -> tuple[int, int]:
        """(rows, tokens of the longest prompt) that the language model is fed: twice the images with guidance."""
        guided = sampling.guidance > 1
        texts = [*self.prompts, *([self.negative_prompt or ""] if guided else [])]
        longest = max((len(self.prompt_ids(encoder, text)) for text in dict.fromkeys(texts)), default=0)
        return len(self.prompts) * (2 if guided else 1), longest


MAX_ROWS = 1024  # images at once; a batch is no faster beyond some dozens


def generate_tokens(
    language: LanguageModel,
    encoder: PromptEncoder,
    request: Request,
    sampling: Sampling = Sampling(),
    callback: Callable[[int, int, Callable[[], torch.Tensor]], None] | None = None,
    source: str | None = None,
    compute: Compute = Compute(),
) -> ImageTokens:
    """Write one image per prompt as image tokens, hidden states kept.

    `callback(done, total, codes)` runs once per token and may raise to cancel; `codes()` gives those so far, (B, done).
    `source` names the weights, see `condition`. The negative prompt is used when `sampling.guidance` is above 1.
    """
    if len(request.prompts) > MAX_ROWS:
        raise Blip3oError(
            f"{len(request.prompts):,} images are asked for at once; at most {MAX_ROWS:,} can be. Use fewer prompts "
            "or a smaller batch."
        )
    for prompt in request.prompts:
        if not prompt.strip():
            raise Blip3oError(f"The prompt is {prompt!r}. Describe the image in words.")
    if request.references is not None:
        require_same_codes(language, request.references, "references")
    features = prompt_features(encoder, request)
    rows = [request.prompt_ids(encoder, prompt) for prompt in request.prompts]
    negative = request.prompt_ids(encoder, request.negative_prompt or "") if sampling.guidance > 1 else None
    start = language.vocabulary.image_start

    def on_ids(done: int, total: int, ids: torch.Tensor) -> None:
        callback(done, total, lambda: ids - start)

    prompts = Prompts(rows, negative, features)
    decoded = decode(language, prompts, request.seeds, sampling, on_ids if callback else None, compute)
    return ImageTokens(
        codes=(decoded.ids - start).cpu(),
        grid=language.grid,
        prompts=request.prompts,
        prompt_ids=rows,
        seeds=request.seeds,
        lengths=decoded.lengths,
        codes_id=language.codes_id,
        hidden=decoded.hidden.cpu(),
        hidden_source=source,
        features=features,
    )


def prompt_features(encoder: PromptEncoder, request: Request) -> PromptFeatures | None:
    """The references' features, where they enter the prompt."""
    if request.references is None or not request.features_in_prompt:
        return None
    return PromptFeatures(request.references.features.flatten(0, 1), encoder.tokens_after_references)
