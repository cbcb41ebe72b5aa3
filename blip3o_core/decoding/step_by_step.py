"""The plain decode loop: choose a token, feed it, repeat. All other engines give the same tokens, quicker."""

from collections.abc import Callable

import torch

from ..models.language import any_length
from .interface import Callback, Decoded, Prefilled, report
from .sampling import Chooser

# (R, 1, D) embeddings of the token that is fed as the k-th, and k -> (R, 1, D) its hidden state.
Step = Callable[[torch.Tensor, int], torch.Tensor]


def decode_through_modules(prefilled: Prefilled, choose: Chooser, callback: Callback | None) -> Decoded:
    """Engine "modules": each step is a forward pass of the language model; serves every model, device and patch."""
    seen = mask_of(prefilled)

    def step(embeds: torch.Tensor, k: int) -> torch.Tensor:
        mask = None if seen is None else seen[..., : prefilled.cache.filled + 1]
        return prefilled.lm(embeds, prefilled.positions[:, k : k + 1], mask, prefilled.cache)

    return decode_step_by_step(prefilled, choose, callback, step)


def mask_of(prefilled: Prefilled) -> torch.Tensor | None:
    """(R, 1, 1, S + T) bool, True where a token may look, for the whole run; None when no prompt is padded."""
    keep = prefilled.keep
    if bool(keep.all()):
        return None
    return torch.cat([keep, keep.new_ones(len(keep), prefilled.total)], 1)[:, None, None]


def decode_step_by_step(prefilled: Prefilled, choose: Chooser, callback: Callback | None, step: Step) -> Decoded:
    """The loop of the engines "modules" and "direct", which differ in `step`.

    The hidden state of a token appears when it is fed; so the last token is fed, too, and no second pass over the
    sequence is needed (the authors run one, docs/reference.md 3). When the whole vocabulary may be chosen, a row ends
    with the first end token, and the run with the last row.
    """
    vocabulary, total, batch = prefilled.lm.vocabulary, prefilled.total, prefilled.batch
    ids, hidden = prefilled.new_outputs()
    ends = [] if choose.sampling.image_tokens_only else vocabulary.stop
    stop = torch.tensor(ends, device=ids.device, dtype=ids.dtype)
    lengths = torch.full((batch,), total, device=ids.device)
    running = torch.ones(batch, dtype=torch.bool, device=ids.device)
    state = prefilled.state
    for k in range(total):
        hidden[:, k] = state[:batch, 0]
        token = choose(state, choose.uniforms[:, k])
        if stop.numel():
            token = torch.where(running, token, vocabulary.pad)
            ended = running & torch.isin(token, stop)
            lengths = torch.where(ended, k + 1, lengths)
            running = running & ~ended
        ids[:, k] = token
        report(callback, k + 1, ids)
        with any_length(ids.device):
            state = step(prefilled.embed(token), k)
        if stop.numel() and not bool(running.any()):
            total = k + 1
            break
    hidden[:, total] = state[:batch, 0]
    return Decoded(ids[:, :total], lengths.clamp(max=total).tolist(), hidden[:, : 1 + total])
