"""Training data of the joint stages: scenes and edits in shard folders, the data engine's layout.

The trainer reads the shards and encodes the images, each at its own aspect.
"""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

from ...files import read_optional_json, remove_abandoned, write_json
from ...shards.layout import read_facts
from ...shards.manifest import write_manifest
from ...shards.write import Record, write_shard
from ..scenes.captions import caption
from ..scenes.edits import instruction, make_edit
from ..scenes.rasterize import rasterize
from ..scenes.world import Scene, World
from .ahead import made_ahead
from .model_config import sizes_of
from .quick_world import make_scene

# Settings of the general trainer for these folders. Most images are used once, so that a cache would cost more than it
# saves.
SETTINGS = {"fit": "keep", "cache_images": False}
_ITEMS = 2000  # of a shard
_NOTE = "made_from.json"


def write_scenes(workers: int, folder: Path, seed: int, count: int, world: World, plain: tuple[bool, ...]) -> None:
    """Write training scenes, each with one caption per entry of `plain`: in plain grammar, or in any phrasing.

    Shards that an interrupted call with the same arguments left are not written again. `workers`: processes that make
    the images; 0: this one alone.
    """
    side = sizes_of(world).side

    def record(number: int) -> Record:
        scene = make_scene(seed, "train", number, world)
        texts = [caption(scene, number * len(plain) + k, plain=is_plain) for k, is_plain in enumerate(plain)]
        return Record(f"{number:06d}", _png(scene, side), texts=tuple(texts), facts={"category": scene.category})

    _write(folder, count, {"kind": "scenes", "seed": seed, "world": repr(world), "plain": list(plain)}, record, workers)


def write_edits(workers: int, folder: Path, seed: int, count: int, world: World, wordings: int = 4) -> None:
    """Write training edits as `write_scenes` does: the images before are references, the image after is the target."""
    side = sizes_of(world).side

    def record(number: int) -> Record:
        edit = make_edit(seed, "train", number, world)
        references = tuple(_png(scene, side) for scene in edit.sources)
        texts = tuple(instruction(edit, number * wordings + k) for k in range(wordings))
        return Record(f"{number:06d}", _png(edit.target, side), references, texts, {"kind": edit.kind})

    _write(folder, count, {"kind": "edits", "seed": seed, "world": repr(world), "wordings": wordings}, record, workers)


def _write(folder: Path, count: int, arguments: dict, record: Callable[[int], Record], workers: int) -> None:
    """Write items 0 to `count` - 1 and the manifest. What was made from other arguments is removed first."""
    made_from, note = {"count": count, **arguments}, folder / _NOTE
    if read_optional_json(note, f"Remove {folder} and run the same command again.") != made_from:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(note, made_from)
    remove_abandoned(folder)
    shards = []
    for first in range(0, count, _ITEMS):
        path, numbers = folder / f"{first // _ITEMS:04d}.tar", range(first, min(first + _ITEMS, count))
        shards.append(read_facts(path) if path.is_file() else write_shard(path, made_ahead(record, numbers, workers)))
    write_manifest(folder, shards)


def _png(scene: Scene, side: int) -> bytes:
    """The scene as a PNG with little compression: flat colours need no more, and it takes 0.25 ms."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(rasterize(scene, side)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
