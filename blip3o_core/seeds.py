"""What a user's seed becomes: generators on the CPU, one for each row and purpose, the same on every machine.

The noise of the diffusion is ComfyUI's own for its seed, torch.randn after manual_seed. torch makes normal numbers out
of the uniform ones of the same generator, so everything else that a seed decides needs a stream of its own: with equal
seeds, the usual case, the noise would otherwise be a function of the numbers that chose the tokens.
"""

import hashlib

import torch

COUNT = 2**64


def row_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """The seeds of `count` rows from row `first` on: row k has `seed + k`, which wraps at 2**64."""
    return [(seed + first + k) % COUNT for k in range(count)]


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU, the one of the diffusion's noise. Seeds from 2**64 on wrap, as in `row_seeds`."""
    return torch.Generator("cpu").manual_seed(seed % COUNT)


def seed_of(*key) -> int:
    """A 64-bit seed for a key of numbers and words: a stream that is independent of those of other keys."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def token_uniforms(seeds: list[int], count: int) -> torch.Tensor:
    """(B, count) numbers in [0, 1), row k from `seeds[k]`: each chooses one image token."""
    generators = [seeded(seed_of("image tokens", int(seed) % COUNT)) for seed in seeds]
    return torch.stack([torch.rand(count, generator=generator) for generator in generators])
