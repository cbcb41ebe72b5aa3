"""The edits of a run, checked as far as possible before any weight is loaded.

A list of edits is a file with a JSON object on each line. Paths in it are relative to the list's folder.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint import Checkpoint
from ..errors import Blip3oError, bullet_list, shown
from ..files import parse_json, read_lines
from ..images import preprocess, reader
from ..models import autoencoder
from ..seeds import COUNT
from . import masks
from .image_mentions import missing_image_numbers
from .references import MAX_REFERENCES

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = ("image", "images", "instruction", "mask", "out", "seed")
_MOST = 10  # faulty lines of a list that are named at once


@dataclass(frozen=True)
class EditJob:
    """One edit as it was asked for."""

    images: list[Path]
    instruction: str
    out: Path
    mask: Path | None = None
    seed: int | None = None  # None: --seed plus the number of the edit
    line: int | None = None  # in the list, counted from 1
    beside: tuple[Path, ...] = ()  # files that may be written besides `out`


@dataclass(frozen=True)
class EditSettings:
    """What all edits of a run share."""

    fit: str = "stretch"
    size: tuple[int, int] | None = None  # (width, height) in pixels; None: the first image's view
    feather: int = 0  # pixels
    negative: str | None = None  # None: tokens are not guided


@dataclass(frozen=True)
class PreparedEdit:
    """An edit whose files were read and that the checkpoint can make."""

    job: EditJob
    size: tuple[int, int]  # (width, height) in pixels that is rendered; with a mask it is put into the first image
    files: dict  # facts about each input file, to be stored
    prompt_tokens: int
    unknown: list[int]  # numbers of images that the instruction names and that were not given


def read_list(path: Path, folder: Path, beside: Callable[[Path], tuple[Path, ...]] = lambda out: ()) -> list[EditJob]:
    """The edits in a list; images are written into `folder`. One Blip3oError names all faulty lines.

    `beside`: the files that may be written besides an edit's own.
    """
    lines = read_lines(path, "Give --list a UTF-8 text file of JSON objects.")
    entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise Blip3oError(
            f'--list {path} is empty. Write an edit on each line, like {{"image": "a.png", '
            '"instruction": "make it red"}.'
        )
    jobs, faults = [], []
    for index, (number, line) in enumerate(entries):
        try:
            job = _job(line, number, path.parent, folder, f"{index:05d}.png")
            jobs.append(replace(job, beside=beside(job.out)))
        except Blip3oError as error:
            faults.append(f"line {number}: {error}")
    taken: dict[str, int | None] = {}
    for job in jobs:
        for out in (job.out, *job.beside):
            # Names that differ only in case are one file on some systems.
            first = taken.setdefault(out.name.casefold(), job.line)
            if first != job.line:
                faults.append(f'line {job.line}: line {first} writes {out.name}, too. Give it another "out".')
    _raise_faults(path, faults)
    return jobs


def _job(line: str, number: int, base: Path, folder: Path, name: str) -> EditJob:
    entry = parse_json(line, "the line", f"It starts with {line[:40]!r}.")
    if not isinstance(entry, dict):
        raise Blip3oError(f"{line[:40]!r} is not a JSON object. Write {{...}} with {', '.join(KEYS)}.")
    if unknown := [key for key in entry if key not in KEYS]:
        raise Blip3oError(f"unknown key {shown(repr(unknown[0]))}. A line can have {', '.join(KEYS)}.")
    if ("image" in entry) == ("images" in entry):
        raise Blip3oError('give either "image", a path, or "images", a list of paths.')
    images = entry["images"] if "images" in entry else [entry["image"]]
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise Blip3oError(f'the images are {shown(images)}. Give paths as text: "image": "a.png".')
    _check_count(images)
    for key in ("instruction", "mask", "out"):
        if not isinstance(entry.get(key, ""), str):
            raise Blip3oError(f"{key} is {shown(repr(entry[key]))}; it must be text.")
    if entry.get("mask") == "":
        raise Blip3oError("mask is ''; give a path, or leave mask out.")
    seed = entry.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < COUNT):
        raise Blip3oError(f"seed is {shown(repr(seed))}; it must be a whole number from 0 to {COUNT - 1:,}.")
    out = entry.get("out", name)
    if Path(out).name != out or "\\" in out or not out.isprintable() or not out.lower().endswith(".png"):
        raise Blip3oError(f"out is {shown(repr(out))}; it must be the name of a .png file, without a folder.")
    mask = base / entry["mask"] if "mask" in entry else None
    return EditJob([base / image for image in images], entry.get("instruction", ""), folder / out, mask, seed, number)


def prepare_all(
    jobs: list[EditJob], source: Path | None, checkpoint: Checkpoint, settings: EditSettings
) -> list[PreparedEdit]:
    """`prepare` for every job. `source`: the list they come from; one Blip3oError names all its faulty lines."""
    require_image_tokenizer(checkpoint)
    inputs = {canonical_path(path) for job in jobs for path in (*job.images, job.mask) if path is not None}
    prepared, faults = [], []
    for job in jobs:
        try:
            for out in (job.out, *job.beside):
                check_output(out, inputs)
            prepared.append(prepare(job, checkpoint, settings))
        except Blip3oError as error:
            if source is None:
                raise
            faults.append(f"line {job.line}: {error}")
    _raise_faults(source, faults)
    return prepared


def require_image_tokenizer(checkpoint: Checkpoint) -> None:
    if checkpoint.image_tokenizer_config is None:
        raise Blip3oError(
            f"{checkpoint.folder} has no image tokenizer (TA-Tok), so it cannot read images. Use a checkpoint that has "
            "one."
        )


def check_output(out: Path, inputs: set[str]) -> None:
    """Raise Blip3oError if `out` is one of the `inputs`, given as canonical paths."""
    if canonical_path(out) in inputs:
        raise Blip3oError(f'The result {out} is also an input and would be overwritten. Choose another --out or "out".')


def prepare(job: EditJob, checkpoint: Checkpoint, settings: EditSettings) -> PreparedEdit:
    """Read all files and measure the prompt.

    The image gets `settings.size`, else the size of the first image's view; with a mask always the view's.
    """
    if not job.instruction.strip():
        raise Blip3oError(f"The instruction is {job.instruction!r}. Say what should change.")
    _check_count(job.images)
    if job.mask is not None:
        masks.check_fit(settings.fit)
        if settings.size is not None:
            raise Blip3oError(
                "--size cannot be used with a mask: the result is as large as the first image. Leave one out."
            )
    if settings.size is not None:
        autoencoder.check_size(*settings.size, checkpoint.latent_multiple)
    length = _prompt_length(job, checkpoint, settings.negative)
    facts, sizes, views = [], [], []
    for path in job.images:
        found = opened(path)
        with _naming(path):
            # Made and thrown away: this refuses an image that cannot be used.
            view = preprocess.vae_input(found.image, settings.fit, checkpoint.trained_side, checkpoint.latent_multiple)
        facts.append(found.facts)
        sizes.append(found.image.size)
        views.append((view.shape[2], view.shape[1]))
    files: dict[str, Any] = {"images": facts}
    if job.mask is not None:
        mask, files["mask"] = opened_mask(job.mask, sizes[0])
        with _naming(job.mask):
            masks.feather_mask(mask, settings.feather)
    unknown = missing_image_numbers(job.instruction, len(job.images))
    return PreparedEdit(job, settings.size or views[0], files, length, unknown)


def _check_count(images: list) -> None:
    if not 1 <= len(images) <= MAX_REFERENCES:
        raise Blip3oError(
            f"There are {len(images)} images; an edit takes 1 to {MAX_REFERENCES}. Put several into one image if "
            "needed."
        )


def _prompt_length(job: EditJob, checkpoint: Checkpoint, negative: str | None) -> int:
    """Tokens of the prompt. Raises Blip3oError when it, or the negative one, is too long for the model."""
    # The length does not depend on what the codes are.
    codes = torch.zeros(len(job.images), checkpoint.grid[0] * checkpoint.grid[1], dtype=torch.int64)
    encode, features = checkpoint.prompt_encoder.encode_edit, checkpoint.reference_mode.features
    if negative is not None:
        encode(negative, codes, as_features=features)
    return len(encode(job.instruction, codes, as_features=features))


@dataclass(frozen=True)
class OpenedImage:
    """An image file of an edit: RGB on white, what is stored about the file, and what the user should hear."""

    image: "Image"
    facts: dict
    remarks: tuple[str, ...]


def opened(path: Path) -> OpenedImage:
    """Read an image file once, so that the stored facts are about these very pixels."""
    data = reader.image_bytes(path)
    read = reader.read_image(data, str(path))
    image = read.on_white()
    return OpenedImage(image, _facts(image.size, data), read.remarks)


def opened_mask(path: Path, size: tuple[int, int]) -> tuple[torch.Tensor, dict]:
    """(a mask (H, W) in [0, 1] for an image of `size` (width, height), what is stored about its file)."""
    data = reader.image_bytes(path)
    mask = reader.read_mask(data, str(path))
    with _naming(path):
        return masks.check_mask(mask, size), _facts(size, data)


def _facts(size: tuple[int, int], data: bytes) -> dict:
    return {"size": f"{size[0]}x{size[1]}", "sha256": hashlib.sha256(data).hexdigest(), "reader": reader.VERSION}


@contextlib.contextmanager
def _naming(path: Path):
    """A Blip3oError raised inside also names the file."""
    try:
        yield
    except Blip3oError as error:
        raise Blip3oError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def canonical_path(path: Path) -> str:
    """The same text for all spellings of a path, to compare."""
    try:
        return str(path.resolve()).casefold()  # names that differ only in case are one file on some systems
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a link to itself, before Python 3.13
        return str(path).casefold()


def _raise_faults(source: Path | None, faults: list[str]) -> None:
    if faults:
        raise Blip3oError(f"--list {source} has faulty lines. No image was made.\n{bullet_list(faults, _MOST)}")
