"""One pass of the language model over whole sequences: over prompts, before decoding; over prompts and given tokens.

Rows of different lengths are padded on the left, masked, and keep their own positions, so that a row does not depend on
its neighbours.
"""

from dataclasses import dataclass, replace

import torch

from ..checks import require_finite
from ..errors import Blip3oError
from ..memory import lm_prefill_bytes, require_memory
from ..models.language import KVCache, LanguageModel, PromptFeatures, any_length
from .interface import Compute, Prefilled

LM_REMEDY = (
    "Load it in bf16 or fp32. If that does not help, a LoRA or another patch on its weights is damaged: remove it."
)


@dataclass(frozen=True)
class Prompts:
    """Token ids of each prompt, through the scale token.

    `negative`: ids of the prompt that token guidance leads away from. `features`: of reference images, for checkpoints
    that take them in the prompt; the same in every prompt, also in the negative one. `written`: (B, n) ids of image
    tokens that follow each prompt, where the beginning of the image is given. `count`: how many tokens to write; None:
    the rest of the image.
    """

    rows: list[list[int]]
    negative: list[int] | None = None
    features: PromptFeatures | None = None
    written: torch.Tensor | None = None
    count: int | None = None

    @property
    def begun(self) -> int:
        """Image tokens that are given."""
        return 0 if self.written is None else self.written.shape[1]

    def fed(self) -> list[list[int]]:
        """The ids of all rows that the language model reads: with a negative prompt twice as many, its own last."""
        rows = self.rows + ([] if self.negative is None else [self.negative] * len(self.rows))
        if self.written is None:
            return rows
        given = self.written.tolist()
        return [row + given[k % len(given)] for k, row in enumerate(rows)]


def prefill(lm: LanguageModel, prompts: Prompts, compute: Compute, one_by_one: bool = False) -> Prefilled:
    """Feed the prompts; equal ones once. A negative prompt doubles the rows.

    `one_by_one`: each prompt in a pass of its own, so that it is rounded as if it were alone.
    Raises Blip3oError when a prompt and an image are longer than the model's context.
    """
    device, dtype = compute.resolve(lm.model.embed_tokens.weight)
    batch, rest = len(prompts.rows), lm.num_tokens - prompts.begun
    total = rest if prompts.count is None else prompts.count
    rows = prompts.fed()
    require_room(lm, max(map(len, rows)) + rest)
    unique = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    require_known_ids(lm, torch.tensor([id for row in unique for id in row]))
    length = max(map(len, unique))
    room = -(-(length + total) // 8) * 8  # GPU attention wants masks of such lengths
    cache = KVCache(lm.config, len(rows), room, device, dtype)
    cache.filled = length
    features = prompts.features
    if features is not None:
        features = replace(features, behind=features.behind + prompts.begun)
    state = torch.empty(len(rows), 1, lm.config.hidden_size, device=device, dtype=dtype)
    for group in [[row] for row in unique] if one_by_one else [unique]:
        ids, keep = pad_left(group, lm.vocabulary.pad, device)
        part = KVCache(lm.config, len(group), ids.shape[1], device, dtype)
        embeds = lm.embed_prompts(ids, dtype, features)
        with any_length(device):
            states = lm(embeds, own_positions(keep), causal_mask(keep), part)[:, -1:]
        for k, row in enumerate(group):
            same = [index for index, each in enumerate(rows) if each == row]
            cache.data[:, :, same, :, length - ids.shape[1] : length] = part.data[:, :, k : k + 1]
            state[same] = states[k]
    _, keep = pad_left(rows, lm.vocabulary.pad, device)
    positions = own_positions(keep)[:, -1:] + 1 + torch.arange(total, device=device)
    return Prefilled(lm, state, cache, keep, positions, batch)


@torch.no_grad()
def encode_tokens(lm: LanguageModel, prompts: Prompts, ids: torch.Tensor, compute: Compute = Compute()) -> torch.Tensor:
    """One pass over prompts and the image tokens that follow: (B, T) ids -> (B, 1 + T, D) hidden states.

    The first state is the scale token's. Equal to the states that decoding collects for the same tokens.
    """
    device, dtype = compute.resolve(lm.model.embed_tokens.weight)
    length = max(map(len, prompts.rows)) + ids.shape[1]
    require_room(lm, length)
    require_known_ids(lm, torch.tensor([id for row in prompts.rows for id in row]))
    require_known_ids(lm, ids)
    needed = lm_prefill_bytes(lm.config, len(ids), length, dtype)
    if compute.device is None or device.type == "cpu":  # a host that names a GPU has made room on it
        require_memory(needed, device, f"Encoding {len(ids)} x {length} tokens", "Encode fewer images at once.")
    before, keep = pad_left(prompts.rows, lm.vocabulary.pad, device)
    embeds = torch.cat([lm.embed_prompts(before, dtype, prompts.features), lm.embed(ids.to(device), dtype)], 1)
    keep = torch.cat([keep, keep.new_ones(len(keep), ids.shape[1])], 1)
    with any_length(device):
        hidden = lm(embeds, own_positions(keep), causal_mask(keep))[:, before.shape[1] - 1 :]
    require_finite(hidden, f"The output of the language model in {dtype}", LM_REMEDY)
    return hidden


def pad_left(rows: list[list[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (B, S) ids and (B, S) bool, True where a row has a token."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    keep = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=device)
    return ids, keep


def causal_mask(keep: torch.Tensor) -> torch.Tensor | None:
    """(B, S) bool -> (B, 1, S, S) causal mask without the padding; None when nothing is padded.

    A query with nothing to see sees itself: it would be NaN and spoil the next layer's values.
    """
    if bool(keep.all()):
        return None
    steps = keep.shape[1]
    causal = torch.ones(steps, steps, dtype=torch.bool, device=keep.device).tril()
    itself = torch.eye(steps, dtype=torch.bool, device=keep.device)
    seen = causal & keep[:, None, :]
    return (seen | (itself & ~seen.any(-1, keepdim=True)))[:, None]


def own_positions(keep: torch.Tensor) -> torch.Tensor:
    """(B, S) bool -> (B, S) positions that start at 0 with each row's first token."""
    return (keep.long().cumsum(-1) - 1).clamp(min=0)


def require_known_ids(lm: LanguageModel, ids: torch.Tensor) -> None:
    """Raise Blip3oError unless all token ids are in the model's vocabulary."""
    wrong = ids[(ids < 0) | (ids >= lm.vocabulary.size)]
    if len(wrong):
        raise Blip3oError(
            f"Token {int(wrong[0])} is not in this model's vocabulary of {lm.vocabulary.size:,}. The image tokens or "
            "the tokenizer files belong to a different checkpoint. Make the tokens again with this model, or copy its "
            "tokenizer files again."
        )


def require_room(lm: LanguageModel, length: int) -> None:
    """Raise Blip3oError unless `length` tokens fit the model's context."""
    if length > lm.config.max_position_embeddings:
        raise Blip3oError(
            f"Prompt and image need {length} tokens, but the model has room for {lm.config.max_position_embeddings}. "
            "Shorten the prompt, or use fewer reference images."
        )
