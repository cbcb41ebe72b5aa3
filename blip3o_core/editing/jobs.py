"""What a run of edits will draw, checked as far as can be before any weight is loaded.

A list of edits is a file of JSON objects, one a line; paths in it are relative to its folder.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.checkpoint import Checkpoint
from ..errors import Blip3oError
from ..images import preprocess
from ..models import autoencoder
from . import masks as masking
from .image_mentions import missing_image_numbers
from .references import MAX_REFERENCES

KEYS = ("image", "images", "instruction", "mask", "out", "seed")
_SHOWN = 10  # faults of a list that are named at once


@dataclass(frozen=True)
class EditJob:
    """One edit as it was asked for."""

    images: list[Path]
    instruction: str
    out: Path
    mask: Path | None = None
    seed: int | None = None  # None: the run's
    line: int | None = None  # of the list, counted from 1


@dataclass(frozen=True)
class PreparedEdit:
    """An edit that can be drawn with the checkpoint it was checked for."""

    job: EditJob
    size: tuple[int, int]  # (width, height) in pixels that is drawn; with a mask it is put into the first image
    files: dict  # what is known of the files, to be stored
    prompt_tokens: int
    unknown: list[int]  # numbers of images that the instruction names and that are not there


def read_list(path: Path, folder: Path) -> list[EditJob]:
    """The edits in a list, pictures to be written into `folder`. All faulty lines are in one Blip3oError."""
    try:
        # Not splitlines(): it also cuts at characters that an instruction may hold, like U+2028.
        lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Blip3oError(f"--list {path} cannot be read: {error}. Give a UTF-8 text file of JSON objects.") from error
    entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise Blip3oError(
            f'--list {path} holds no edit: every line is empty. Write one a line, like {{"image": "a.png", '
            '"instruction": "make it red"}.'
        )
    edits, faults = [], []
    for index, (number, line) in enumerate(entries):
        try:
            edits.append(_edit(line, number, path.parent, folder, f"{index:05d}.png"))
        except Blip3oError as error:
            faults.append(f"line {number}: {error}")
    taken: dict[str, int] = {}
    for edit in edits:
        # Names that differ only in case are one file on some systems.
        first = taken.setdefault(edit.out.name.casefold(), edit.line)
        if first != edit.line:
            faults.append(f'line {edit.line}: {edit.out.name} is written by line {first}. Give it another "out".')
    _raise(path, faults)
    return edits


def _edit(line: str, number: int, base: Path, folder: Path, name: str) -> EditJob:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Blip3oError(f"this is no JSON: {error}. It starts {line[:40]!r}.") from error
    if not isinstance(entry, dict):
        raise Blip3oError(f"{line[:40]!r} is no JSON object. Write {{...}} with {', '.join(KEYS)}.")
    if unknown := [key for key in entry if key not in KEYS]:
        raise Blip3oError(f"{unknown[0]!r} is not known here. A line has {', '.join(KEYS)}.")
    if ("image" in entry) == ("images" in entry):
        raise Blip3oError('it must have either "image", a path, or "images", a list of paths.')
    images = entry["images"] if "images" in entry else [entry["image"]]
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise Blip3oError(f'the images are {images!r}. Give paths as text: "image": "a.png".')
    for key in ("instruction", "mask", "out"):
        if not isinstance(entry.get(key, ""), str):
            raise Blip3oError(f"{key} is {entry[key]!r}; it must be text.")
    seed = entry.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise Blip3oError(f"seed is {seed!r}; it must be a whole number.")
    out = entry.get("out", name)
    if Path(out).name != out or "\\" in out or not out.isprintable() or not out.lower().endswith(".png"):
        raise Blip3oError(f"out is {out!r}; it must be the name of a .png file, without a folder.")
    mask = base / entry["mask"] if "mask" in entry else None
    return EditJob([base / image for image in images], entry.get("instruction", ""), folder / out, mask, seed, number)


def prepare_all(edits: list[EditJob], source: Path | None, checkpoint: Checkpoint, **settings) -> list[PreparedEdit]:
    """Every edit, see `prepare`. `source`: the list they come from, whose faulty lines are in one Blip3oError."""
    check_sees(checkpoint)
    inputs = {canonical_path(path) for edit in edits for path in (*edit.images, edit.mask) if path is not None}
    prepared, faults = [], []
    for edit in edits:
        try:
            check_apart(edit.out, inputs)
            prepared.append(prepare(edit, checkpoint, **settings))
        except Blip3oError as error:
            if source is None:
                raise
            faults.append(f"line {edit.line}: {error}")
    _raise(source, faults)
    return prepared


def check_sees(checkpoint: Checkpoint) -> None:
    if checkpoint.tower is None:
        raise Blip3oError(
            f"{checkpoint.folder} holds no image tokenizer (TA-Tok), so it sees no pictures. Use one with it."
        )


def check_apart(out: Path, places: set[str]) -> None:
    """Raise Blip3oError if `out` is among `places`, see `canonical_path`, that are read."""
    if canonical_path(out) in places:
        raise Blip3oError(f"--out {out} is read, too, and would be overwritten. Choose another name to write.")


def prepare(
    edit: EditJob,
    checkpoint: Checkpoint,
    fit: str,
    size: tuple[int, int] | None,
    feather: int = 0,
    negative: str | None = None,
) -> PreparedEdit:
    """Read all files and measure the prompt. `negative`: None when tokens are not guided.

    The size is `size`, else the first image's view; with a mask it is the view's in any case.
    """
    if not edit.instruction.strip():
        raise Blip3oError(f"The instruction is {edit.instruction!r}: nothing is asked for. Say what should change.")
    if not 1 <= len(edit.images) <= MAX_REFERENCES:
        raise Blip3oError(
            f"{len(edit.images)} images: an edit takes 1 to {MAX_REFERENCES}. Put several into one picture if needed."
        )
    if edit.mask is not None:
        masking.check_fit(fit)
        if size is not None:
            raise Blip3oError("--size does not go with a mask: the result has the first image's size. Leave one out.")
    if size is not None:
        autoencoder.check_size(*size, checkpoint.latent_multiple)
    # A prompt's length does not depend on what the codes are.
    codes = torch.zeros(len(edit.images), checkpoint.grid[0] * checkpoint.grid[1], dtype=torch.int64)
    encode, features = checkpoint.prompt_encoder.encode_edit, checkpoint.reference_mode.features
    if negative is not None:
        encode(negative, codes, as_features=features)
    length = len(encode(edit.instruction, codes, as_features=features))
    images, sizes, views = [], [], []
    for path in edit.images:
        facts, picture = opened(path)
        with _naming(path):
            # Made and thrown away: it refuses what cannot be made.
            view = preprocess.vae_input(picture, fit, checkpoint.trained_side, checkpoint.latent_multiple)
        images.append(facts)
        sizes.append(picture.size)
        views.append((view.shape[2], view.shape[1]))
    files = {"images": images}
    if edit.mask is not None:
        files["mask"] = {"size": _text(sizes[0]), "sha256": _digest(edit.mask)}
        with _naming(edit.mask):
            masking.feather_mask(open_mask(edit.mask, sizes[0]), feather)
    return PreparedEdit(
        edit, size or views[0], files, length, missing_image_numbers(edit.instruction, len(edit.images))
    )


def opened(path: Path) -> tuple[dict, object]:
    """What is stored of a picture that was read, its size and sha256, and the picture."""
    digest = _digest(path)
    picture = preprocess.open_image(path)
    return {"size": _text(picture.size), "sha256": digest}, picture


def open_mask(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) in [0, 1] of a mask for a picture of `size` (width, height)."""
    return masking.check_mask(preprocess.open_mask(path), size)


@contextlib.contextmanager
def _naming(path: Path):
    """A Blip3oError from within names the file, too."""
    try:
        yield
    except Blip3oError as error:
        raise Blip3oError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise Blip3oError(f"{path} cannot be read: {reason}. Give the name of a picture that is there.") from error


def canonical_path(path: Path) -> str:
    """One text for every way to write a path."""
    try:
        return str(path.resolve())
    except (OSError, ValueError):
        return str(path)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _raise(source: Path, faults: list[str]) -> None:
    if faults:
        more = [f"and {len(faults) - _SHOWN} lines more"] if len(faults) > _SHOWN else []
        raise Blip3oError(f"--list {source}: nothing was drawn.\n  " + "\n  ".join(faults[:_SHOWN] + more))
