"""Few-step ("mean flow") checkpoints: SANA with two time embeddings, for where a step starts and how long it is.

- The transformer has `time_embed_t` and `time_embed_r`, of the same class as `time_embed`. In a step from t to r, both
  sigmas in [0, 1] and not times 1000, the sum time_embed_t(t) + time_embed_r(t - r) replaces time_embed(1000 * t).
  `time_embed` is still in the file, but nothing uses it.
- The output is the average velocity over the step, so that x <- x + (r - t) * output holds for a step of any length.
- No config field marks such a checkpoint: it is recognised by its tensors.

Source: arXiv 2604.18168, and sana_transformer.py and meanflow_sampler.py of its authors' repository AMAP-ML/EMF.
"""

from collections.abc import Iterable

import torch
from torch import nn

from ..errors import Blip3oError

TIME_PREFIX, DURATION_PREFIX = "time_embed_t.", "time_embed_r."
UNUSED_PREFIX = "time_embed."


def has_meanflow_tensors(names: Iterable[str]) -> bool:
    """Whether a transformer with tensors of these names is a mean-flow one."""
    return any(name.startswith((TIME_PREFIX, DURATION_PREFIX)) for name in names)


def missing_half(names: Iterable[str]) -> list[str]:
    """A line that explains the missing tensors when only one of the two embeddings is there; else none."""
    names = tuple(names)
    has = [prefix for prefix in (TIME_PREFIX, DURATION_PREFIX) if any(name.startswith(prefix) for name in names)]
    if len(has) != 1:
        return []
    other = DURATION_PREFIX if has == [TIME_PREFIX] else TIME_PREFIX
    return [f"{has[0]}* without {other}*: a few-step checkpoint has both, an ordinary one has neither"]


def add_time_embeddings(transformer):
    """Make a newly built SANA a mean-flow one: the sum of the two embeddings takes the place of its `time_embed`."""
    config, kind = transformer.config, type(transformer.time_embed)
    width = config.num_attention_heads * config.attention_head_dim
    transformer.time_embed_t, transformer.time_embed_r = kind(width), kind(width)
    transformer.time_embed = MeanFlowTimeEmbedding(transformer.time_embed_t, transformer.time_embed_r)
    return transformer


def is_meanflow(transformer) -> bool:
    return isinstance(getattr(transformer, "time_embed", None), MeanFlowTimeEmbedding)


class MeanFlowTimeEmbedding(nn.Module):
    """The sum of the two embeddings, which SANA's forward calls as `time_embed`.

    It owns no weights: those keep their names in the file, time_embed_t and time_embed_r.
    """

    def __init__(self, embed_time: nn.Module, embed_duration: nn.Module):
        super().__init__()
        # In a tuple, so that they are not registered, moved and saved a second time.
        self._pair = (embed_time, embed_duration)

    def forward(self, timestep: torch.Tensor, batch_size=None, hidden_dtype=None) -> tuple[torch.Tensor, torch.Tensor]:
        """`timestep` (B, 2): sigmas at the start and the end of the step -> modulation (B, 6 * D), embedding (B, D)."""
        if timestep.ndim != 2 or timestep.shape[1] != 2:
            raise Blip3oError(
                f"This few-step (mean flow) checkpoint needs two times per row, but got {tuple(timestep.shape)}. Such "
                "checkpoints can generate images, but cannot be trained here. Train the ordinary checkpoint instead."
            )
        embed_time, embed_duration = self._pair
        start, end = timestep.unbind(1)
        first = embed_time(start, batch_size=batch_size, hidden_dtype=hidden_dtype)
        second = embed_duration(start - end, batch_size=batch_size, hidden_dtype=hidden_dtype)
        return first[0] + second[0], first[1] + second[1]


def timestep_input(transformer, sigma: torch.Tensor, next_sigma: torch.Tensor, rows: int) -> torch.Tensor:
    """The network's timestep input for a step from `sigma` to `next_sigma`.

    (rows, 2) with both sigmas for a mean-flow network, (rows,) with 1000 * sigma for an ordinary one.
    """
    if is_meanflow(transformer):
        return torch.stack([sigma, next_sigma]).expand(rows, 2)
    return (sigma * 1000).expand(rows)


def next_sigma(schedule: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The largest of `schedule` (N,) below each of `sigma` (B,), or 0 -> (B,): where a step from there ends.

    A sampler that asks between the steps of its schedule gets the end of the step that it is in. A host may have
    rounded the sigma, which it hands on as 1000 * sigma, so values within a millionth count as the same.
    """
    lower = schedule[None] < sigma[:, None] * (1 - 1e-6)
    return torch.where(lower, schedule[None], 0.0).amax(1)
