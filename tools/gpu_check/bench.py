"""What the stages share: the device, clocks, models of published shapes and tiny ones for a dry run."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from unittest import mock

import torch

from benchmarks import models
from benchmarks.machine import copy_bandwidth, synchronize, timed
from benchmarks.models import Model

from .worker import Notes

# What Qwen3-0.6B changes in the published language model's shape.
SMALL_LANGUAGE = {"hidden_size": 1024, "intermediate_size": 3072}
# "Full" in a dry run. The widths are multiples of 16, as the fused kernels want them.
DRY_LANGUAGE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 128, "vocab_size": 3000,
}  # fmt: skip
DRY_TRANSFORMER = {
    "num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 32, "cross_attention_dim": 64, "caption_channels": 48, "sample_size": 4,
}  # fmt: skip
DRY_AUTOENCODER = {
    **{f"{side}_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"] for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": [8, 16, 32] for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": [[], [], [5]] for side in ("encoder", "decoder")},
    **{f"{side}_layers_per_block": [1, 1, 1] for side in ("encoder", "decoder")}, "attention_head_dim": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much of everything is done."""

    tokens: int | None = None  # of an image; None: all
    slow_tokens: int = 32  # of an image where an engine is slow
    rows: tuple[int, ...] = (1, 4, 8)
    prompt: int = 60  # tokens
    steps: int = 30  # of the diffusion
    cells: int = 32  # of a latent, on a side: 1024 pixels
    images: tuple[int, ...] = (1, 4)
    late: int = 620  # tokens in the cache when a late step is timed
    replays: int = 50  # of a step that is timed
    prompts: int = 24  # whose ids are compared
    cases: int | None = None  # recorded, of each kind; None: all
    soak: int = 20  # prompts in a row
    copied: int = 2**31  # bytes


DRY = Sizes(
    tokens=2, slow_tokens=2, rows=(1, 2), prompt=8, steps=2, cells=4, images=(1,), late=0, replays=1, prompts=2,
    cases=1, soak=2, copied=2**22,
)  # fmt: skip


class Bench:
    """`notes` is set anew for each stage."""

    notes: Notes

    def __init__(self, dry: bool):
        self.dry, self.sizes = dry, DRY if dry else Sizes()
        # Triton's interpreter takes seconds for a step: a dry run puts another engine in the place of the fused one.
        self.fused = "graph" if dry else "fused"
        self.device = torch.device("cpu") if dry else torch.device("cuda", 0)
        if dry:
            torch.set_num_threads(1)
            models.LANGUAGE.update(DRY_LANGUAGE)
            models.TRANSFORMER.update(DRY_TRANSFORMER)
            models.DC_AE.update(DRY_AUTOENCODER)
            models.CODES, models.GRID, models.CROSS_WIDTH = 2000, (3, 4), 48
        else:
            # Numbers are compared with float32 ones of a CPU; nothing large is timed in float32.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    # Clocks

    def seconds(self, work: Callable[[], Any], runs: int = 1) -> float:
        """Least of `runs`, by the wall clock, the device waited for."""
        return min(timed(work, self.device) for _ in range(runs))

    def microseconds(self, work: Callable[[], Any], count: int) -> float:
        """One of `count` calls in a row, by the card's clock."""
        if self.device.type != "cuda":
            return 1e6 * self.seconds(lambda: [work() for _ in range(count)]) / count
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            work()
        end.record()
        synchronize(self.device)
        return 1000 * begin.elapsed_time(end) / count

    def peak(self, work: Callable[[], Any]) -> float | None:
        """GB that `work` has in use at once, without what was there before; None on a CPU."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        synchronize(self.device)
        return (torch.cuda.max_memory_allocated() - before) / 1e9

    @cached_property
    def copy(self) -> float:
        """Bytes a second, read and written, of a large copy."""
        return copy_bandwidth(self.device, self.sizes.copied)

    # Models

    @cached_property
    def full(self) -> Model:
        """The published shapes with random weights in bfloat16, with the diffusion transformer."""
        return replace(models.full(self.device, torch.bfloat16, render=True), name="1.7B", cells=self.sizes.cells)

    @cached_property
    def autoencoder(self) -> torch.nn.Module:
        return models.autoencoder(self.full, self.device)

    def language(self, small: bool = False) -> torch.nn.Module:
        """A language model of its own, which a stage may change. `small`: of the 0.6B shape."""
        with mock.patch.dict(models.LANGUAGE, SMALL_LANGUAGE if small and not self.dry else {}):
            return models.full(self.device, torch.bfloat16).language

    def rows(self, count: int, length: int | None = None) -> list[list[int]]:
        """Prompts of the language model of `full`, which differ in the last token."""
        return [[*range((length or self.sizes.prompt) - 1), 100 + k] for k in range(count)]

    def free(self, *names: str) -> None:
        """Drop cached models, by the names of their properties, and what torch keeps for itself."""
        for name in names:
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # Kernels

    @contextlib.contextmanager
    def kernels_noted(self) -> Iterator[None]:
        """Note which Triton kernels had to be compiled: those that were not carried, or not found."""
        if self.dry:
            yield
            return
        from triton import knobs

        compiled: list[dict] = []

        def listen(*, src, times, cache_hit: bool, **_) -> None:
            if not cache_hit:
                compiled.append({"kernel": src.name, "seconds": times.total / 1e6})

        knobs.compilation.listener = listen
        try:
            yield
        finally:
            knobs.compilation.listener = None
            if compiled:
                self.notes.put(compiled_kernels=compiled)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Distance, relative to the length of `theirs`."""
    ours, theirs = ours.float(), theirs.float()
    return float((ours - theirs).norm() / theirs.norm())
