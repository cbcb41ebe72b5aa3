"""Runs of `train` whose settings or data are damaged."""

import io
from collections.abc import Callable
from pathlib import Path

import yaml
from PIL import Image

from tests.support.attacks import BUNDLED, Attack

ONE = '{"image": "0.png", "caption": "a red square"}'


def image(colour: str = "red", size: tuple[int, int] = (64, 64)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "png")
    return data.getvalue()


def settings(place: Path, **changes) -> dict:
    return {
        "checkpoint": str(BUNDLED),
        "out": str(place / "run"),
        "data": [str(place / "data")],
        "train": {"connector": 1e-4},
        "steps": 1,
        "batch": 1,
        "device": "cpu",
        **changes,
    }


def write_data(place: Path) -> None:
    (place / "data").mkdir()
    (place / "data/0.png").write_bytes(image())
    (place / "data/items.jsonl").write_text(ONE + "\n")


def training(
    name: str, says: str | None, prepare: Callable = lambda place: None, text=None, words=(), **changes
) -> Attack:
    """`prepare(place)` damages the data; `changes` are of the settings, which `text` replaces."""

    def make(place: Path) -> list[str]:
        write_data(place)
        prepare(place)
        known = {key: value(place) if callable(value) else value for key, value in changes.items()}
        content = yaml.safe_dump(settings(place, **known)) if text is None else text
        (place / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["train", str(place / "c.yaml"), *words]

    return Attack(name, make, says)


def lines(*given: str | bytes) -> Callable:
    content = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in given)
    return lambda place: (place / "data/items.jsonl").write_bytes(content)


def first_image(content: bytes) -> Callable:
    return lambda place: (place / "data/0.png").write_bytes(content)
