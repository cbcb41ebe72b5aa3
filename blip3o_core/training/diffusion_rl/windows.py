"""Which steps of a rollout are learnt from. All others are cheaper: without noise, without gradient.

- all: every step. first: the first `size` ones, where the layout is decided (Flow-GRPO-Fast).
- random: `size` steps, other ones in every update.
- sliding: `size` neighbours, which move on by one every `every` updates and start again (MixGRPO, arXiv 2507.21802).
"""

import torch

WINDOWS = ALL, FIRST, RANDOM, SLIDING = "all", "first", "random", "sliding"


def steps_in_window(kind: str, size: int, every: int, count: int, update: int, generator: torch.Generator) -> list[int]:
    """The steps of `update` out of `count`, in their order."""
    size = count if kind == ALL else min(size, count)
    if kind == RANDOM:
        return sorted(torch.randperm(count, generator=generator)[:size].tolist())
    first = (update // every) % (count - size + 1) if kind == SLIDING else 0
    return list(range(first, first + size))
