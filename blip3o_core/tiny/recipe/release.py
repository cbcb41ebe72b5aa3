"""Turns a trained checkpoint into the bundled one: bf16, one weights file, nothing else of the run."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...checkpoint import open_checkpoint
from ...checks import is_finite
from ...errors import Blip3oError

LIMIT = 30_000_000  # bytes of the whole folder
_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def release(source: Path, target: Path) -> int:
    """Write `target` from the checkpoint `source` and return its size in bytes. The old one stays until then."""
    open_checkpoint(source).validate()
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(source / name, fresh / name)
    shutil.copytree(source / "diffusion", fresh / "diffusion")
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in load_file(source / "model.safetensors").items()}
    damaged = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if damaged:
        raise Blip3oError(
            f"Cannot release {source}: {damaged[0]} contains NaN or infinite values. Use an earlier checkpoint."
        )
    save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((fresh / "config.json").read_text(encoding="utf-8"))
    (fresh / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
    if size > LIMIT:
        raise Blip3oError(
            f"Cannot release {source}: {size / 1e6:.1f} MB exceed the limit of {LIMIT / 1e6:.0f}. Make a part smaller."
        )
    open_checkpoint(fresh).validate()
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
    return size
