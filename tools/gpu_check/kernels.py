"""Compiles the fused step's kernels for a card that is not here: `python -m tools.gpu_check.kernels DIR`.

Run by `prepare` with the Triton version of the machine with the card. The loops are made as the stages make them, on
the CPU; in the place of a launch there is only its compilation. What a stage needs and this leaves out is compiled on
the card, and listed there as `compiled_kernels`.
"""

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from benchmarks import models
from blip3o_core.checkpoint import Checkpoint, open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.interface import Prefilled
from blip3o_core.decoding.prefill import Prompts
from blip3o_core.decoding.sampling import Chooser, Sampling
from blip3o_core.models.language import LanguageModel
from tests.support.tiny_checkpoint import make_checkpoint

from . import carried_kernels
from .bench import SMALL_LANGUAGE
from .loops import make_loop
from .quantised import DTYPES, quantise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check.kernels", description=__doc__)
    parser.add_argument("folder", type=Path, help="becomes Triton's cache")
    parser.add_argument("--capability", type=int, default=90, help="of the card, 90 for 9.0 (default)")
    parser.add_argument("--multiprocessors", type=int, default=132, help="of the card (default: 132, H100 and H200)")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    asked = parser.parse_args(arguments)
    os.environ["TRITON_CACHE_DIR"] = str(asked.folder.resolve())
    torch.set_num_threads(1)
    carried_kernels.install()
    found = {True: 0, False: 0}
    _pretend(asked.capability, found)
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder, "checkpoint")):
            if asked.only in case.name:
                print(case.name, flush=True)
                case.compile(asked.multiprocessors)
    print(f"{found[False]} kernels compiled, {found[True]} found")
    return 0


def _pretend(capability: int, found: dict[bool, int]) -> None:
    """Triton believes in a card, and a launch only compiles. `found` counts: was a kernel in the cache?"""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Card:
        """What Triton asks a driver."""

        def get_current_target(self):
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device=0):
            return 0

        def get_active_torch_device(self):
            return torch.device("cpu")

    driver.set_active(Card())
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        return run(self, *args, grid=grid, warmup=True, **options)

    def count(*, cache_hit: bool, **_) -> None:
        found[cache_hit] += 1

    JITFunction.run = compile_only
    knobs.compilation.listener = count


@dataclass(frozen=True)
class Case:
    """A loop whose kernels are compiled. `make`: the language model, and what encodes a prompt for it."""

    name: str
    make: Callable[[], tuple[LanguageModel, Callable[[str], list[int]]]]
    rows: int = 1  # 1, or several: how many does not matter
    sampling: Sampling = Sampling()

    def compile(self, multiprocessors: int) -> None:
        from blip3o_core.decoding.fused.engine import FusedLoop

        def loop(prefilled: Prefilled, choose: Chooser) -> FusedLoop:
            made = FusedLoop(prefilled, choose, multiprocessors)
            made._interpreted = False
            return made

        lm, encode = self.make()
        negative = encode("") if self.sampling.guidance > 1 else None
        prompts = Prompts([encode(f"{k} stars") for k in range(self.rows)], negative)
        with torch.inference_mode():
            make_loop(lm, prompts, self.sampling, loop)()


SAMPLINGS = {"": Sampling(), ", greedy": Sampling(top_k=1), ", guided": Sampling(guidance=2.0)}


def cases(folder: Path) -> Iterator[Case]:
    """`folder`: for a checkpoint of the tests. A model is made when its case is compiled."""
    yield Case("published shape", _published)
    yield Case("published shape, rows", _published, 4)
    yield Case("published shape, greedy", _published, 1, SAMPLINGS[", greedy"])
    yield Case("0.6B", partial(_published, small=True))
    for name, dtype in DTYPES.items():
        yield Case(name, partial(_published, stored=dtype))
    checkpoints = {"bundled": open_checkpoint(BUNDLED), "tests": open_checkpoint(make_checkpoint(folder))}
    dtypes = (torch.float32, torch.bfloat16)
    for name, dtype, rows, sampling in itertools.product(checkpoints, dtypes, (1, 4), SAMPLINGS):
        make = partial(_of_checkpoint, checkpoints[name], dtype)
        yield Case(f"{name}, {dtype}, {rows}{sampling}", make, rows, SAMPLINGS[sampling])


def _published(small: bool = False, stored: torch.dtype | None = None):
    """One layer is enough: their number is no constant of the kernel."""
    with mock.patch.dict(models.LANGUAGE, SMALL_LANGUAGE if small else {}):
        lm = models.full(torch.device("cpu"), torch.bfloat16, layers=1).language
    if stored is not None:
        quantise(lm.model.layers, stored)
    return lm, lambda text: [*range(59), 100 + len(text)]


def _of_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype):
    return checkpoint.load_language(dtype), checkpoint.prompt_encoder.encode


if __name__ == "__main__":
    sys.exit(main())
