"""One token by the kernels and by the modules, once a process for each kind of model: a compiler or a card that makes
something else of the kernels must not draw other pictures without a word.
"""

import logging

import torch

from ...models.language import KVCache
from . import FAILED, kind_of

# Relative distance of the states. bfloat16 states of two engines differ by 0.4 % (few layers) to 1.2 % (28).
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_passed: set[tuple] = set()


def passes(loop, run) -> bool:
    """Whether `loop` may serve `run`; it is at its beginning again. Logs why not."""
    kind = kind_of(run.lm, run.device, run.dtype)
    if kind in _passed:
        return True
    try:
        loop()
        distance = _distance(run)
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing of the kernels: a host frees memory and tries again
    except Exception as error:  # whatever a compiler or a driver says
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        return _refuse(kind, f"its first step failed ({reason})")
    if not distance < LIMITS[run.dtype]:
        return _refuse(kind, f"its first states differ from the modules' by {distance:.1e} of their length")
    loop.rewind()
    _passed.add(kind)
    return True


def _distance(run) -> float:
    """Of the first token's state, between what the kernels left in `run` and what the modules make of it."""
    lm, filled = run.lm, run.cache.filled
    cache = KVCache(lm.config, len(run.state), filled + 1, run.device, run.dtype)
    cache.data[..., :filled, :] = run.cache.data[..., :filled, :]
    cache.filled = filled
    seen = torch.cat([run.keep, run.keep.new_ones(len(run.keep), 1)], 1)[:, None, None]
    expected = lm(run.embed(run.out[:, 0]), run.positions[:, :1], seen, cache)[: run.batch, 0].float()
    found = run.hidden[:, 1].float()
    return float((found - expected).norm() / expected.norm())


def _refuse(kind: tuple, reason: str) -> bool:
    FAILED[kind] = reason
    logging.getLogger(__name__).warning(
        "the fused decode step is not used in this process: %s. A CUDA graph takes its place; please report this.",
        reason,
    )
    return False
