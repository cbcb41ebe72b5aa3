"""Samples with known faults for the data engine, small and quick."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from blip3o_core.curation.settings import CurationSettings

SIDE = 64
CAPTION = "a photograph of a hill with a tree and a small house"
# Limits for images of this size; everything else is as by default.
SMALL = {"min_side": 48}


def texture(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Coarse colours with fine ones on them: sharp, and unlike that of every other seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(30, 225, (6, 6, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = random.integers(-20, 20, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + fine, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def pair(key: str, image: bytes, caption: str = CAPTION, ending: str = "png") -> list[tuple[str, bytes]]:
    return [(f"{key}.{ending}", image), (f"{key}.txt", caption.encode())]


def settings(sources, out: Path, **others) -> CurationSettings:
    """Settings for small images, in this process unless `workers` says otherwise."""
    keep = {**SMALL, **others.pop("keep", {})}
    values = {"sources": sources, "out": str(out), "keep": keep, "workers": 1}
    return CurationSettings(**{**values, **others})


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Everything that a curation is judged by: shards, what was dropped, and the page."""
    paths = [*sorted((folder / "shards").rglob("*")), folder / "dropped.jsonl", folder / "report.html"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}
