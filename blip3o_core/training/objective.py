"""The joint loss: cross-entropy on image tokens, plus flow matching through the connector, equal weights.

- The condition is taken where inference takes it: the states of the scale token and of every image token. The authors'
  code means to, but compares the wrong axis and takes the last positions of the padded row: three to the right, padding
  included (reference.md 10). `last_positions` repeats that.
- Image tokens are the labels. The authors train on all text as well; `all_text` repeats that.
- Condition dropout zeroes the states in front of the connector, which is the null condition of inference.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..decoding import causal_mask
from ..errors import Blip3oError
from ..language import LanguageModel
from ..vocabulary import PromptEncoder

IGNORED = -100


@dataclass(frozen=True)
class Objective:
    """What differs between this project's objective and the authors'."""

    all_text: bool = False
    last_positions: bool = False


AUTHORS = Objective(all_text=True, last_positions=True)


@dataclass(frozen=True)
class Batch:
    """Prompts with their pictures, padded on the right."""

    ids: torch.Tensor  # (B, L)
    labels: torch.Tensor  # (B, L), IGNORED where nothing is to be learnt
    keep: torch.Tensor  # (B, L) bool, False on padding
    starts: torch.Tensor  # (B,) index of the scale token
    latents: torch.Tensor  # (B, C, h, w), scaled
    num_tokens: int  # T, image tokens of one picture


@dataclass(frozen=True)
class Losses:
    total: torch.Tensor
    tokens: torch.Tensor  # cross-entropy, mean over labels
    diffusion: torch.Tensor  # mean squared error of the velocity, mean over samples


def collate(
    encoder: PromptEncoder,
    prompts: list[str],
    codes: torch.Tensor,
    latents: torch.Tensor,
    objective: Objective = Objective(),  # noqa: B008 - frozen
    parse_special: bool = False,
) -> Batch:
    """Prompts, their pictures' codes (B, T) and scaled latents (B, C, h, w) -> one batch."""
    if len(prompts) != len(codes) or len(prompts) != len(latents):
        raise Blip3oError(f"{len(prompts)} prompts, {len(codes)} codes, {len(latents)} latents: give as many of each.")
    before = [encoder.encode(prompt, parse_special) for prompt in prompts]
    pictures = (codes + encoder.vocabulary.image_start).tolist()
    rows = [prompt + picture + encoder.closing for prompt, picture in zip(before, pictures, strict=True)]
    longest, pad = max(map(len, rows)), encoder.vocabulary.pad
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    keep = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    starts = torch.tensor([len(prompt) - 1 for prompt in before])
    learnt = keep
    if not objective.all_text:
        place = torch.arange(longest)[None]
        learnt = (place > starts[:, None]) & (place <= starts[:, None] + codes.shape[1])
    return Batch(ids, ids.masked_fill(~learnt, IGNORED), keep, starts, latents, codes.shape[1])


def timesteps_of(uniforms: torch.Tensor, total: int = 1000) -> torch.Tensor:
    """(B,) numbers in [0, 1) -> (B,) float timesteps 1000, 999, .., 1: the reference's uniform weighting."""
    return (total - (uniforms * total).long()).float()


def noised(latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents on the straight line to the noise at sigma = t / 1000, and the velocity noise - x0 to be predicted."""
    sigma = (timesteps / 1000).view(-1, 1, 1, 1).to(latents)
    return (1 - sigma) * latents + sigma * noise, noise - latents


def token_loss(language: LanguageModel, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each next label over the whole vocabulary; only labelled positions are projected.

    Zero, not NaN, when nothing is labelled: batches may hold pictures without captions alone.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    learnt = following != IGNORED
    states = hidden[learnt]
    logits = F.linear(states, language.head_weight(states, image_tokens_only=False)).float()
    if not len(states):
        return logits.sum()
    return F.cross_entropy(logits, following[learnt])


def joint_loss(
    language: LanguageModel,
    transformer,
    batch: Batch,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    dropped: torch.Tensor,
    objective: Objective = Objective(),  # noqa: B008 - frozen
    read=None,
) -> Losses:
    """`noise` like the latents, `timesteps` (B,) in 1..1000, `dropped` (B,) bool: rows that see the null condition.

    `read(embeds, positions, mask)` stands in for the language model's own walk over its layers.
    """
    # Padding is embedded as zeros, as the authors have it: their slice may reach into it.
    embeds = language.embed(batch.ids, language.connector[0].weight.dtype) * batch.keep[..., None]
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None].expand_as(batch.ids)
    hidden = (read or language)(embeds, positions, causal_mask(batch.keep))
    tokens = token_loss(language, hidden, batch.labels)
    width = 1 + batch.num_tokens
    if objective.last_positions:
        states = hidden[:, -width:]
    else:
        place = batch.starts[:, None] + torch.arange(width, device=batch.starts.device)
        states = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
    context = language.connector(states.masked_fill(dropped.view(-1, 1, 1), 0))
    x, velocity = noised(batch.latents, noise, timesteps)
    predicted = transformer(
        x.to(transformer.dtype),
        encoder_hidden_states=context.to(transformer.dtype),
        timestep=timesteps,
        return_dict=False,
    )[0]
    diffusion = (predicted.float() - velocity.float()).pow(2).flatten(1).mean(1).mean()
    return Losses(tokens + diffusion, tokens, diffusion)
