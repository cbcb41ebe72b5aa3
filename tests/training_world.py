"""Coloured squares to train on, and runs of the trainer on the tiny random checkpoint."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from blip3o_core.training.config import TrainingConfig, config_from
from blip3o_core.training.loop import train
from blip3o_core.training.run_folder import load_state

COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]


def make_data(folder: Path, captions: bool = True) -> Path:
    """Six pictures, wider than high, whose captions differ in length."""
    folder.mkdir(parents=True)
    lines = []
    for k, colour in enumerate(COLOURS):
        picture = Image.new("RGB", (80, 64), "white")
        ImageDraw.Draw(picture).rectangle((4 + 6 * k, 12, 44 + 6 * k, 52), fill=colour)
        picture.save(folder / f"{k}.png")
        entry = {"image": f"{k}.png"}
        lines.append(json.dumps({**entry, "caption": f"a {colour} square" + " on white" * k} if captions else entry))
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_shard(folder: Path, shard: Path) -> Path:
    """The pictures and captions of `make_data` as a webdataset-style .tar, captions as .txt and .json in turn."""
    entries = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    with tarfile.open(shard, "w") as tar:
        for k, entry in enumerate(entries):
            text = entry["caption"].encode()
            kind, text = ("txt", text) if k % 2 else ("json", json.dumps({"caption": entry["caption"]}).encode())
            for name, data in ((f"{k:03d}.png", (folder / entry["image"]).read_bytes()), (f"{k:03d}.{kind}", text)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return shard


class World:
    """Settings that every test shares, in a folder of its own; pictures are encoded once for all tests."""

    def __init__(self, checkpoint: Path, data: Path, cache: Path, folder: Path):
        self.checkpoint, self.data, self.cache, self.folder = checkpoint, data, cache, folder

    def settings(self, out: str = "run", **changes) -> dict:
        return {
            "checkpoint": str(self.checkpoint), "out": str(self.folder / out), "data": str(self.data), "steps": 4,
            "train": {"language": 1e-3, "connector": 1e-3, "sana": 1e-3}, "batch": 4, "cache": str(self.cache),
            "device": "cpu", "save_every": 1000, **changes,
        }  # fmt: skip

    def config(self, out: str = "run", **changes) -> TrainingConfig:
        return config_from(self.settings(out, **changes))

    def train(self, out: str = "run", resume: bool = False, **changes) -> Path:
        return train(self.config(out, **changes), resume)

    def log(self, out: str = "run") -> list[dict]:
        return read_log(self.folder / out)


def read_log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Two runs by their last checkpoints: same losses, same gradients over the run, same weights, but for rounding.

    Where a gradient is nothing but rounding, AdamW makes a full step of it: one weight in ten thousand may differ.
    """
    for mine, theirs in zip(read_log(one.parent), read_log(other.parent), strict=True):
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=tolerance), (name, mine["step"])
    states = [load_state(folder)["optimizer"]["state"] for folder in (one, other)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        off = (state["exp_avg"] - states[1][number]["exp_avg"]).norm()
        assert off <= 10 * tolerance * state["exp_avg"].norm() + 1e-9, number
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    far = sum(int(((tensor - theirs[name]).abs() > tolerance).sum()) for name, tensor in mine.items())
    assert far <= 1e-4 * sum(tensor.numel() for tensor in mine.values()), far
