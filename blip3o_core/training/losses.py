"""The joint loss: cross-entropy on image tokens plus flow matching through the connector, with equal weights.

- The condition is taken where inference takes it: the states of the scale token and of every image token.
- A row whose condition is dropped sees the null condition of inference: the connector of zeros, and zeros in the place
  of its references' tokens.
- A row without references trains as text to image: the references of its neighbours are masked out of its
  cross-attention, and it gets a forward pass without a reference latent to the right of the noise.
- Several references stand one after the other to the right of the noise, as in inference. The authors train with one.

`TrainingQuirks` (compat.py) repeats what the authors' code does instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..compat import TrainingQuirks
from ..decoding.prefill import causal_mask
from ..diffusion.reference_conditioning import append_reference_tokens, predict_side_by_side, reference_tokens
from ..diffusion.reference_mode import ReferenceMode
from ..models.language import LanguageModel
from .data.collate import IGNORED, Batch

# (embeddings (B, L, D), positions (B, L), mask) -> states (B, L, D)
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Noising:
    """What the diffusion loss does to the rows of a batch."""

    noise: torch.Tensor  # (B, C, h, w)
    timesteps: torch.Tensor  # (B,) in 1..1000
    dropped: torch.Tensor  # (B,) bool: rows that see the null condition

    def to(self, device: torch.device) -> "Noising":
        return Noising(self.noise.to(device), self.timesteps.to(device), self.dropped.to(device))


@dataclass(frozen=True)
class Losses:
    total: torch.Tensor
    tokens: torch.Tensor  # cross-entropy, mean over labels
    diffusion: torch.Tensor  # mean squared error of the velocity, mean over samples


def timesteps_from(uniforms: torch.Tensor, total: int = 1000) -> torch.Tensor:
    """(B,) numbers in [0, 1) -> (B,) float timesteps 1000, 999, .., 1: the uniform weighting, docs/reference.md 10."""
    return (total - (uniforms * total).long()).float()


def add_noise(latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents on the straight line to the noise at sigma = t / 1000, and the velocity noise - x0 to be predicted."""
    sigma = (timesteps / 1000).view(-1, 1, 1, 1).to(latents)
    return (1 - sigma) * latents + sigma * noise, noise - latents


def joint_loss(
    language: LanguageModel,
    transformer,
    batch: Batch,
    noising: Noising,
    mode: ReferenceMode = ReferenceMode(),
    quirks: TrainingQuirks = TrainingQuirks(),
    forward: Forward | None = None,
) -> Losses:
    """Both losses of one batch. `forward` replaces the language model's own forward pass over its layers."""
    hidden = hidden_states(language, batch, forward or language)
    tokens = token_loss(language, hidden, batch.labels)
    if language.reference_connector is not None and batch.references is None:
        # A gradient of zero in place of none: processes wait for each other's, and their rows may differ in kind.
        tokens = tokens + 0 * reference_tokens(language.reference_connector, batch.latents[:1, None]).sum()
    context, mask = conditioning(language, hidden, batch, noising.dropped, mode, quirks)
    diffusion = diffusion_loss(transformer, batch, noising, context, mask, mode.noise)
    return Losses(tokens + diffusion, tokens, diffusion)


def hidden_states(language: LanguageModel, batch: Batch, forward: Forward) -> torch.Tensor:
    """The language model's last states (B, L, D) of a batch."""
    # Padding is embedded as zeros, as the authors do: their `last_positions` may reach into it.
    embeds = language.embed(batch.ids, language.connector[0].weight.dtype) * batch.attention_mask[..., None]
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None].expand_as(batch.ids)
    return forward(embeds, positions, causal_mask(batch.attention_mask))


def token_loss(language: LanguageModel, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each next label over the whole vocabulary. Only labelled positions are projected.

    Zero, not NaN, when nothing is labelled: all images of a batch may lack captions.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    learnt = following != IGNORED
    states = hidden[learnt]
    logits = F.linear(states, language.head_weight(states, image_tokens_only=False)).float()
    if not len(states):
        return logits.sum()
    return F.cross_entropy(logits, following[learnt])


def image_states(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(B, L, D) -> (B, 1 + T, D): the states of the scale token and of the image tokens."""
    places = batch.scale_positions[:, None] + torch.arange(1 + batch.num_tokens, device=hidden.device)
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def conditioning(
    language: LanguageModel,
    hidden: torch.Tensor,
    batch: Batch,
    dropped: torch.Tensor,
    mode: ReferenceMode,
    quirks: TrainingQuirks,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States (B, L, D) -> cross-attention tokens (B, N, width), and the mask (B, N) when rows differ in references."""
    drop = dropped.view(-1, 1, 1)
    states = hidden[:, -(1 + batch.num_tokens) :] if quirks.last_positions else image_states(hidden, batch)
    if not quirks.zero_null:
        states = states.masked_fill(drop, 0)
    context, mask = language.connector(states), None
    if mode.cross and batch.references is not None:
        added = reference_tokens(language.reference_connector, batch.references).masked_fill(drop, 0)
        context, mask = append_reference_tokens(context, added, batch.reference_mask)
    if quirks.zero_null:
        context = context.masked_fill(drop, 0)
    return context, mask


def diffusion_loss(
    transformer,
    batch: Batch,
    noising: Noising,
    context: torch.Tensor,
    mask: torch.Tensor | None,
    side_by_side: bool,
) -> torch.Tensor:
    """Mean squared error of the velocity. `side_by_side`: a row's reference latent is to the right of its noise."""
    x, velocity = add_noise(batch.latents, noising.noise, noising.timesteps)
    inputs = {
        "timestep": noising.timesteps,
        "encoder_hidden_states": context.to(transformer.dtype),
        "encoder_attention_mask": mask,
    }
    x = x.to(transformer.dtype)
    if side_by_side and batch.references is not None:
        predicted = _predict_edits(transformer, x, inputs, batch.references, batch.reference_mask.sum(1))
    else:
        predicted = transformer(x, return_dict=False, **inputs)[0]
    return (predicted.float() - velocity.float()).pow(2).flatten(1).mean(1).mean()


def _predict_edits(
    transformer, x: torch.Tensor, inputs: dict, references: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """The velocity of every row of `x` (B, C, h, w), which has `counts` (B,) of the `references` (B, R, C, h, w).

    Rows with as many references take one pass together.
    """
    places, predicted = [], []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        own = {name: value if value is None else value[rows] for name, value in inputs.items()}
        beside = [references[rows, k] for k in range(count)]
        if beside:
            predicted.append(predict_side_by_side(transformer, x[rows], beside, **own))
        else:
            predicted.append(transformer(x[rows], return_dict=False, **own)[0])
        places.append(rows)
    return torch.cat(predicted)[torch.cat(places).argsort()]
