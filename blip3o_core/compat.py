"""The authors' behaviours that would surprise a user, for comparing with their code and for few documented switches.

Nothing here is used by default. docs/differences.md lists every difference, and how to get the authors' side of it.
"""

from dataclasses import dataclass

import torch

from .checks import require_finite
from .decoding.interface import Compute
from .decoding.prefill import LM_REMEDY, Prompts, pad_left, require_room
from .diffusion.sampler import Conditioning
from .errors import Blip3oError
from .models.connector import connect
from .models.language import LanguageModel, any_length
from .prompts.encoder import ONE_REFERENCE, PromptEncoder
from .tokens.image_tokens import ImageTokens, require_same_codes


@dataclass(frozen=True)
class TrainingQuirks:
    """How the authors' training code differs from this project's (docs/reference.md 10). All are off by default."""

    all_text: bool = False  # prompts are labels, too; here image tokens alone are
    # The condition is the states at the last positions of the padded row: three to the right of those that inference
    # uses, padding included. Their code means the same positions as here and compares the wrong axis.
    last_positions: bool = False
    # A dropped edit has zeros behind the connectors; here it has the connector of zeros, and zeros for its references.
    zero_null: bool = False
    parse_special: bool = False  # special tokens that the user's text spells act as tokens


AUTHORS_TRAINING = TrainingQuirks(all_text=True, last_positions=True, parse_special=True)
AUTHORS_EDIT_TRAINING = TrainingQuirks(all_text=True, last_positions=True, zero_null=True, parse_special=True)


def call_references_one_image(encoder: PromptEncoder) -> None:
    """Say "this image" of several references too: the authors' inference does, their training says "these images"."""
    encoder.several_references = ONE_REFERENCE


@torch.no_grad()
def encode_tokens_unmasked(
    lm: LanguageModel, prompts: Prompts, ids: torch.Tensor, compute: Compute = Compute()
) -> torch.Tensor:
    """The authors' second pass over prompts and tokens (docs/reference.md 3): (B, T) ids -> (B, 1 + T, D) states.

    Padding is attended to and shifts the positions, so a row depends on its neighbours' lengths. The states begin at
    the first <im_start> of a row, even one in the user's text. Raises Blip3oError when the rows begin apart.
    """
    device, dtype = compute.resolve(lm.model.embed_tokens.weight)
    require_room(lm, max(map(len, prompts.rows)) + ids.shape[1])
    before, _ = pad_left(prompts.rows, lm.vocabulary.pad, device)
    ids = ids.to(device)
    embeds = torch.cat([lm.embed_prompts(before, dtype, prompts.features), lm.embed(ids, dtype)], 1)
    ids = torch.cat([before, ids], 1)
    with any_length(device):
        hidden = lm(embeds, torch.arange(ids.shape[1], device=device)[None].expand_as(ids))
    starts = [row.index(lm.vocabulary.image_start_tag) + 1 for row in ids.tolist()]
    if len(set(starts)) > 1:
        raise Blip3oError(
            f"The images of the rows begin at tokens {starts}. The authors' code needs rows that begin at the same "
            "token: use prompts of equal length, or one prompt at a time."
        )
    require_finite(hidden, f"The output of the language model in {dtype}", LM_REMEDY)
    return hidden[:, starts[0] :]


@torch.no_grad()
def condition_unmasked(language: LanguageModel, tokens: ImageTokens, compute: Compute = Compute()) -> Conditioning:
    """As `pipeline.condition`, from `encode_tokens_unmasked`, and without a mask behind an early end."""
    require_same_codes(language, tokens, "image tokens")
    device, dtype = compute.resolve(language.connector[0].weight)
    ids = tokens.codes + language.vocabulary.image_start
    prompts = Prompts(tokens.prompt_ids, features=tokens.features)
    hidden = encode_tokens_unmasked(language, prompts, ids, Compute(device, dtype))
    positive, negative = connect(language.connector, hidden.to(device, dtype))
    return Conditioning(positive, negative)
