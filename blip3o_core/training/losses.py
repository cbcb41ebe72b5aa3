"""The joint loss: cross-entropy on image tokens, plus flow matching through the connector, equal weights.

- The condition is taken where inference takes it: the states of the scale token and of every image token. The authors'
  code means to, but compares the wrong axis and takes the last positions of the padded row: three to the right, padding
  included (reference.md 10). `last_positions` repeats that.
- Image tokens are the labels. The authors train on all text as well; `all_text` repeats that.
- Condition dropout zeroes the states in front of the connector, which is the null condition of inference; references'
  tokens become zeros behind theirs, as in inference. The authors' edits zero both behind; `zero_null` repeats that.
- A row without references trains as text to image: its neighbours' references are masked out, and beside no noise.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from ..decoding.prefill import causal_mask
from ..diffusion.reference_mode import ReferenceMode, append_reference_tokens, predict_side_by_side, reference_tokens
from ..errors import Blip3oError
from ..models.language import LanguageModel
from ..prompts.encoder import PromptEncoder

IGNORED = -100


@dataclass(frozen=True)
class Objective:
    """What differs between this project's objective and the authors'."""

    all_text: bool = False
    last_positions: bool = False
    zero_null: bool = False


AUTHORS = Objective(all_text=True, last_positions=True)
AUTHORS_EDIT = Objective(all_text=True, last_positions=True, zero_null=True)


@dataclass(frozen=True)
class Batch:
    """Prompts with their pictures, padded on the right."""

    ids: torch.Tensor  # (B, L)
    labels: torch.Tensor  # (B, L), IGNORED where nothing is to be learnt
    attention_mask: torch.Tensor  # (B, L) bool, False on padding
    scale_positions: torch.Tensor  # (B,) index of the scale token
    latents: torch.Tensor  # (B, C, h, w), scaled
    num_tokens: int  # T, image tokens of one picture
    references: torch.Tensor | None = None  # (B, R, C, h, w) scaled latents; None when no row has any
    reference_mask: torch.Tensor | None = None  # (B, R) bool, False where a row has fewer references


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
    objective: Objective = Objective(),
    parse_special: bool = False,
    references: list[torch.Tensor] | None = None,
    reference_latents: list[torch.Tensor] | None = None,
) -> Batch:
    """Prompts, their pictures' codes (B, T) and scaled latents (B, C, h, w) -> one batch.

    Rows with references, codes (R, T) and latents (R, C, h, w), are edits; R may be 0.
    """
    if len(prompts) != len(codes) or len(prompts) != len(latents):
        raise Blip3oError(f"{len(prompts)} prompts, {len(codes)} codes, {len(latents)} latents: give as many of each.")
    references = references or [codes[:0]] * len(prompts)
    before = [
        encoder.encode_edit(prompt, theirs, parse_special) if len(theirs) else encoder.encode(prompt, parse_special)
        for prompt, theirs in zip(prompts, references, strict=True)
    ]
    closing = torch.tensor(encoder.closing)
    pictures = codes + encoder.vocabulary.image_start
    rows = [torch.cat([torch.tensor(ids), image, closing]) for ids, image in zip(before, pictures, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=encoder.vocabulary.pad)
    place = torch.arange(ids.shape[1])[None]
    keep = place < torch.tensor([[len(row)] for row in rows])
    starts = torch.tensor([len(prompt) - 1 for prompt in before])
    if objective.all_text:
        learnt = keep.clone()
        for row, (prompt, theirs) in enumerate(zip(before, references, strict=True)):
            learnt[row, encoder.reference_span(prompt, theirs.numel())] = False
    else:
        learnt = (place > starts[:, None]) & (place <= starts[:, None] + codes.shape[1])
    labels = ids.masked_fill(~learnt, IGNORED)
    batch = Batch(ids, labels, keep, starts, latents, codes.shape[1])
    if not any(len(theirs) for theirs in references):
        return batch
    counts = torch.tensor([[len(theirs)] for theirs in references])
    return replace(
        batch,
        references=pad_sequence(reference_latents, batch_first=True),
        reference_mask=torch.arange(int(counts.max()))[None] < counts,
    )


def timesteps_from(uniforms: torch.Tensor, total: int = 1000) -> torch.Tensor:
    """(B,) numbers in [0, 1) -> (B,) float timesteps 1000, 999, .., 1: the reference's uniform weighting."""
    return (total - (uniforms * total).long()).float()


def add_noise(latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
    objective: Objective = Objective(),
    read=None,
    mode: ReferenceMode = ReferenceMode(),
) -> Losses:
    """`noise` like the latents, `timesteps` (B,) in 1..1000, `dropped` (B,) bool: rows that see the null condition.

    `read(embeds, positions, mask)` stands in for the language model's own walk over its layers.
    """
    # Padding is embedded as zeros, as the authors have it: their slice may reach into it.
    embeds = language.embed(batch.ids, language.connector[0].weight.dtype) * batch.attention_mask[..., None]
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None].expand_as(batch.ids)
    hidden = (read or language)(embeds, positions, causal_mask(batch.attention_mask))
    tokens = token_loss(language, hidden, batch.labels)
    width = 1 + batch.num_tokens
    if objective.last_positions:
        states = hidden[:, -width:]
    else:
        place = batch.scale_positions[:, None] + torch.arange(width, device=batch.scale_positions.device)
        states = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
    drop, connector = dropped.view(-1, 1, 1), language.reference_connector
    context, mask = language.connector(states if objective.zero_null else states.masked_fill(drop, 0)), None
    if batch.references is None:
        if connector is not None:
            # Its gradient is zero, not absent: processes whose rows differ in kind wait for each other's.
            tokens = tokens + 0 * reference_tokens(connector, batch.latents[:1, None]).sum()
    elif mode.cross:
        theirs = reference_tokens(connector, batch.references).masked_fill(drop, 0)
        context, mask = append_reference_tokens(context, theirs, batch.reference_mask)
    if objective.zero_null:
        context = context.masked_fill(drop, 0)
    x, velocity = add_noise(batch.latents, noise, timesteps)
    inputs = {"timestep": timesteps, "encoder_hidden_states": context.to(transformer.dtype),
              "encoder_attention_mask": mask}  # fmt: skip
    predicted = _predict(transformer, x.to(transformer.dtype), inputs, batch if mode.noise else None)
    diffusion = (predicted.float() - velocity.float()).pow(2).flatten(1).mean(1).mean()
    return Losses(tokens + diffusion, tokens, diffusion)


def _predict(transformer, x: torch.Tensor, inputs: dict, edits: Batch | None) -> torch.Tensor:
    """The velocity of every row of `x`; rows of `edits` with a reference have it beside them, in their own pass."""
    if edits is None or edits.references is None:
        return transformer(x, return_dict=False, **inputs)[0]
    given, reference = edits.reference_mask[:, 0], edits.references[:, 0]
    if bool(given.all()):
        return predict_side_by_side(transformer, x, [reference], **inputs)

    def rows(which: torch.Tensor) -> dict:
        return {name: value if value is None else value[which] for name, value in inputs.items()}

    with_reference = predict_side_by_side(transformer, x[given], [reference[given]], **rows(given))
    without = transformer(x[~given], return_dict=False, **rows(~given))[0]
    back = torch.cat([given.nonzero(), (~given).nonzero()]).flatten().argsort()
    return torch.cat([with_reference, without])[back]
