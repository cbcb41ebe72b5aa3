"""Options that several commands share: which model, where and in what numbers; and a progress bar."""

import argparse
import sys
from pathlib import Path

from .bundled import chosen
from .errors import Blip3oError

DTYPES = ("auto", "bf16", "fp16", "fp32")


def add_model_options(parser: argparse.ArgumentParser, dtype: str = "auto") -> None:
    """`dtype`: the default."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="checkpoint folder (default: the bundled tiny model)")
    parser.add_argument("--diffusion-folder", type=Path, help="folder with transformer/ and vae/ configs, if not found")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, ... (default: the GPU when there is one)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=dtype, help=f"number format; auto: as stored (default {dtype})"
    )


def load_pipeline(arguments: argparse.Namespace):
    """The pipeline that the options of `add_model_options` name."""
    from .pipeline import Pipeline

    folder = chosen(arguments.model)
    return Pipeline.load(folder, _device(arguments.device), _dtype(arguments.dtype), arguments.diffusion_folder)


def _device(name: str):
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise Blip3oError(f"--device {name!r} cannot be used: {reason}. Try cpu or cuda.") from error
    return device


def _dtype(name: str):
    import torch

    return {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


class Bar:
    """A progress bar that is a callback (done, total, anything)."""

    def __init__(self, label: str):
        from tqdm import tqdm

        self._bar = tqdm(desc=label, leave=False, file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def __call__(self, done: int, total: int, _) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
