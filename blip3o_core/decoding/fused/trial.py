"""The first token by the kernels and by the modules, compared once per process for each kind of model: a compiler or a
card that computes something else must not change images silently.
"""

import logging

import torch

from ...errors import first_line
from ...models.language import KVCache
from . import FAILED, kind_of

# Relative distance of the states. bfloat16 states of two engines differ by 0.4 % (few layers) to 1.2 % (28).
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_passed: set[tuple] = set()


def passes(loop) -> bool:
    """Whether a `FusedLoop` may serve its run; it is at its beginning again. Logs why not."""
    prefilled = loop.prefilled
    kind = kind_of(prefilled.lm, prefilled.device, prefilled.dtype)
    if kind in _passed:
        return True
    try:
        loop()
        distance = _distance(loop)
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about the kernels: a host frees memory and tries again
    except Exception as error:  # whatever a compiler or a driver says
        return _refuse(kind, f"its first step failed ({type(error).__name__}: {first_line(error)})")
    if not distance < LIMITS[prefilled.dtype]:
        return _refuse(kind, f"its first hidden states differ from the usual ones by {distance:.1e} of their length")
    loop.rewind()
    _passed.add(kind)
    return True


def _distance(loop) -> float:
    """Between the first token's hidden states by the kernels and by the modules, relative to their length."""
    prefilled = loop.prefilled
    lm, keep, filled = prefilled.lm, prefilled.keep, prefilled.cache.filled
    cache = KVCache(lm.config, len(prefilled.state), filled + 1, prefilled.device, prefilled.dtype)
    cache.data[..., :filled, :] = prefilled.cache.data[..., :filled, :]
    cache.filled = filled
    seen = torch.cat([keep, keep.new_ones(len(keep), 1)], 1)[:, None, None]
    embeds = prefilled.embed(loop.ids[:, 0])
    expected = lm(embeds, prefilled.positions[:, :1], seen, cache)[: prefilled.batch, 0].float()
    found = loop.hidden[:, 1].float()
    return float((found - expected).norm() / expected.norm())


def _refuse(kind: tuple, reason: str) -> bool:
    FAILED[kind] = reason
    logging.getLogger(__name__).warning(
        "Engine 'fused' is not used until the program restarts: %s. A slower engine replaces it. Please report this.",
        reason,
    )
    return False
