"""Coloured squares to train on, and runs of the trainer on the tiny random checkpoint."""

import atexit
import gc
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.shards.manifest import write_manifest
from blip3o_core.shards.write import Record, write_shard
from blip3o_core.training.config import TrainingConfig
from blip3o_core.training.data.batches import Batches
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.latent_cache import ImageEncoder
from blip3o_core.training.train_state import read_state
from blip3o_core.training.trainer import train
from tests.support.paths import TOP

# Every run ends with a garbage collection, which need not look at all the modules that are loaded by now.
gc.freeze()
atexit.register(gc.unfreeze)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOP)}
COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]


def make_data(folder: Path, captions: bool = True) -> Path:
    """Six images, wider than high, whose captions differ in length."""
    folder.mkdir(parents=True)
    lines = []
    for k, colour in enumerate(COLOURS):
        image = Image.new("RGB", (80, 64), "white")
        ImageDraw.Draw(image).rectangle((4 + 6 * k, 12, 44 + 6 * k, 52), fill=colour)
        image.save(folder / f"{k}.png")
        entry = {"image": f"{k}.png"}
        lines.append(json.dumps({**entry, "caption": f"a {colour} square" + " on white" * k} if captions else entry))
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_edits(folder: Path, several: bool = False) -> Path:
    """Each square of `make_data` in the next one's colour, the square itself as reference; with `several`, every other
    edit has the next square as a second one."""
    make_data(folder)
    lines = []
    for k, colour in enumerate(COLOURS):
        after = (k + 1) % len(COLOURS)
        with Image.open(folder / f"{k}.png") as image:
            ImageDraw.Draw(image).rectangle((4 + 6 * k, 12, 44 + 6 * k, 52), fill=COLOURS[after])
            image.save(folder / f"after{k}.png")
        references = [f"{k}.png", f"{after}.png"][: 2 if several and k % 2 else 1]
        lines.append({"image": f"after{k}.png", "images": references, "instruction": f"paint the {colour} one"})
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def make_shard(folder: Path, shard: Path) -> Path:
    """The items of a folder as a webdataset-style .tar, their texts as .txt and .json in turn."""
    entries = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    with tarfile.open(shard, "w") as tar:
        for k, entry in enumerate(entries):
            name = "instruction" if "images" in entry else "caption"
            text = ("txt", entry[name]) if k % 2 else ("json", json.dumps({name: entry[name]}))
            members = {"png": (folder / entry["image"]).read_bytes(), text[0]: text[1].encode()}
            members |= {
                f"reference{n}.png": (folder / image).read_bytes() for n, image in enumerate(entry.get("images", []))
            }
            for kind, data in members.items():
                member = tarfile.TarInfo(f"{k:03d}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return shard


def make_shards(folder: Path, out: Path, size: int = 4) -> Path:
    """The items of a folder as a shard folder."""
    entries = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    records = [
        Record(
            f"{k:03d}",
            (folder / entry["image"]).read_bytes(),
            tuple((folder / image).read_bytes() for image in entry.get("images", [])),
            tuple(entry[name] for name in ("caption", "instruction") if name in entry),
        )
        for k, entry in enumerate(entries)
    ]
    parts = [records[first : first + size] for first in range(0, len(records), size)]
    write_manifest(out, [write_shard(out / f"{k:03d}.tar", part) for k, part in enumerate(parts)])
    return out


class World:
    """Settings that every test shares, in a folder of its own; images are encoded once for all tests."""

    def __init__(self, checkpoint: Path, data: Path, cache: Path, folder: Path):
        self.checkpoint, self.data, self.cache, self.folder = checkpoint, data, cache, folder

    def settings(self, out: str = "run", **changes) -> dict:
        return {
            "checkpoint": str(self.checkpoint), "out": str(self.folder / out), "data": str(self.data), "steps": 4,
            "train": {"language": 1e-3, "connector": 1e-3, "sana": 1e-3}, "batch": 4, "cache": str(self.cache),
            "device": "cpu", "save_every": 1000, **changes,
        }  # fmt: skip

    def config(self, out: str = "run", **changes) -> TrainingConfig:
        return TrainingConfig(**self.settings(out, **changes))

    def train(self, out: str = "run", resume: bool = False, **changes) -> Path:
        return train(self.config(out, **changes), resume)

    def log(self, out: str = "run") -> list[dict]:
        return read_log(self.folder / out)


def write_config(world: World, out: str, **changes) -> Path:
    path = world.folder / f"{out}.yaml"
    path.write_text(yaml.safe_dump(world.settings(out, **changes)))
    return path


def read_log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_weights(one: Path, other: Path) -> None:
    """Two checkpoints have the same tensors, to the last bit."""
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def assert_resumes(world: World, **settings) -> Path:
    """A run of four steps, resumed from its second one, gives the same log and weights again -> the resumed run."""
    settings = {"steps": 4, "save_every": 2, **settings}
    straight = world.train("straight", **settings)
    shutil.copytree(world.folder / "straight", world.folder / "resumed")
    shutil.rmtree(world.folder / "resumed" / straight.name)
    resumed = world.train("resumed", resume=True, **settings)
    assert world.log("resumed") == world.log("straight")
    assert_same_weights(resumed, straight)
    return resumed


def assert_same_run(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Two runs by their last checkpoints: same losses, same gradients over the run, same weights, but for rounding.

    Where a gradient is nothing but rounding, AdamW makes a full step of it: one weight in ten thousand may differ.
    """
    for mine, theirs in zip(read_log(one.parent), read_log(other.parent), strict=True):
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=tolerance), (name, mine["step"])
    states = [read_state(folder / "training" / "state.pt", "")["optimizer"]["state"] for folder in (one, other)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        off = (state["exp_avg"] - states[1][number]["exp_avg"]).norm()
        assert off <= 10 * tolerance * state["exp_avg"].norm() + 1e-9, number
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    far = sum(int(((tensor - theirs[name]).abs() > tolerance).sum()) for name, tensor in mine.items())
    assert far <= 1e-4 * sum(tensor.numel() for tensor in mine.values()), far


def encoder(world, cache=None, side=64, fit="crop") -> ImageEncoder:
    return ImageEncoder(open_checkpoint(world.checkpoint), cache or world.cache, side, fit, torch.device("cpu"))


def batches(world, cache=None, **changes) -> Batches:
    config = world.config(**changes)
    images = encoder(world, cache, fit=config.fit)
    return Batches(config, find_items(config.paths), images.checkpoint.prompt_encoder, images)


def assert_same_microbatches(one, other) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for name in ("ids", "labels", "attention_mask", "scale_positions", "latents", "references", "reference_mask"):
            one, other = getattr(mine.batch, name), getattr(theirs.batch, name)
            assert torch.equal(one, other) if one is not None else other is None, name
        for name in ("noise", "timesteps", "dropped"):
            assert torch.equal(getattr(mine.noising, name), getattr(theirs.noising, name)), name
