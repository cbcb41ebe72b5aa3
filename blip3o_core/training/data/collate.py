"""Prompts and encoded images -> one batch, padded on the right, with the labels of the token loss."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ...compat import TrainingQuirks
from ...errors import Blip3oError
from ...prompts.encoder import PromptEncoder
from .encoded import EncodedItem

IGNORED = -100  # the label of positions that the token loss leaves out


@dataclass(frozen=True)
class Batch:
    ids: torch.Tensor  # (B, L)
    labels: torch.Tensor  # (B, L), IGNORED where nothing is learnt
    attention_mask: torch.Tensor  # (B, L) bool, False on padding
    scale_positions: torch.Tensor  # (B,) index of the scale token, which the image tokens follow
    latents: torch.Tensor  # (B, C, h, w), scaled
    num_tokens: int  # T, image tokens of one image
    references: torch.Tensor | None = None  # (B, R, C, h, w) scaled latents; None when no row has a reference
    reference_mask: torch.Tensor | None = None  # (B, R) bool, False where a row has fewer references

    def to(self, device: torch.device) -> "Batch":
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Batch(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in tensors.items()})


def collate(
    encoder: PromptEncoder,
    prompts: Sequence[str],
    items: Sequence[EncodedItem],
    quirks: TrainingQuirks = TrainingQuirks(),
) -> Batch:
    """One row for each prompt and item: the prompt's ids, the image tokens, and the tokens that close the answer.

    An item with references is an edit, and its prompt the instruction.
    """
    if len(prompts) != len(items):
        raise Blip3oError(f"There are {len(prompts)} prompts for {len(items)} images. Give one prompt for each image.")
    before = [_prompt_ids(encoder, *row, quirks.parse_special) for row in zip(prompts, items, strict=True)]
    closing, image_start = torch.tensor(encoder.closing), encoder.vocabulary.image_start
    rows = [
        torch.cat([torch.tensor(ids), item.codes + image_start, closing])
        for ids, item in zip(before, items, strict=True)
    ]
    ids = pad_sequence(rows, batch_first=True, padding_value=encoder.vocabulary.pad)  # (B, L)
    positions = torch.arange(ids.shape[1])[None]
    mask = positions < torch.tensor([[len(row)] for row in rows])
    scale = torch.tensor([len(prompt) - 1 for prompt in before])
    num_tokens = len(items[0].codes)
    if quirks.all_text:
        learnt = mask.clone()
        for row, (prompt, item) in enumerate(zip(before, items, strict=True)):
            learnt[row, encoder.reference_span(prompt, item.num_references * num_tokens)] = False
    else:
        learnt = (positions > scale[:, None]) & (positions <= scale[:, None] + num_tokens)
    labels = ids.masked_fill(~learnt, IGNORED)
    latents = torch.stack([item.latents for item in items])
    return Batch(ids, labels, mask, scale, latents, num_tokens, *_pad_references(items))


def _prompt_ids(encoder: PromptEncoder, prompt: str, item: EncodedItem, parse_special: bool) -> list[int]:
    if item.num_references:
        return encoder.encode_edit(prompt, item.references, parse_special)
    return encoder.encode(prompt, parse_special)


def _pad_references(items: Sequence[EncodedItem]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Latents (B, R, C, h, w) and mask (B, R) of the references, or None for both when no item has any."""
    counts = torch.tensor([[item.num_references] for item in items])
    if not counts.any():
        return None, None
    latents = [item.reference_latents if item.num_references else item.latents[None][:0] for item in items]
    return pad_sequence(latents, batch_first=True), torch.arange(int(counts.max()))[None] < counts
