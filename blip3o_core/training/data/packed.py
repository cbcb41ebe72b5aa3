"""Pictures that were encoded before, one file for all of them: rows cost microseconds instead of a file each.

    codes (N, T) integer    latents (N, C, h, w) float, scaled    captions (bytes,) uint8, a JSON list of N entries

- An entry is a caption, a list of captions that say the same, or null for a reconstruction.
- Edits have `references` (N, R, T), rows of -1 behind the last one, and `reference_latents` (N, R, C, h, w); their
  captions are instructions.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from ...checkpoint.checkpoint import Checkpoint
from ...errors import Blip3oError
from ...files import atomic_write
from ...weights.tensors import open_file

Captions = tuple[str, ...]


class EncodedItem(NamedTuple):
    """One picture as the model sees it, and the R pictures it was made from."""

    codes: torch.Tensor  # (T,) int64
    latents: torch.Tensor  # (C, h, w) float32, scaled
    references: torch.Tensor  # (R, T) int64
    reference_latents: torch.Tensor  # (R, C, h, w) float32, scaled


def read_captions(entry, where: str) -> Captions:
    """A caption, a list of them or None, as read from a file; nothing is left of captions that are empty."""
    captions = [] if entry is None else entry if isinstance(entry, list) else [entry]
    wrong = next((caption for caption in captions if not isinstance(caption, str)), None)
    if wrong is not None:
        raise Blip3oError(f"{where}: the caption is {wrong!r}; it must be text, or absent for a reconstruction.")
    return tuple(caption.strip() for caption in captions if caption.strip())


def pack(
    path: str | Path,
    codes: torch.Tensor,
    latents: torch.Tensor,
    captions: list[str | list[str] | None],
    references: torch.Tensor | None = None,
    reference_latents: torch.Tensor | None = None,
) -> None:
    """Write a file that `data` may name; it appears whole or not at all, dtypes are kept.

    References may lack the dimension R when every row has one.
    """
    path = Path(path)
    text = bytearray(json.dumps(captions, ensure_ascii=False).encode())
    tensors = {"codes": codes, "latents": latents, "captions": torch.frombuffer(text, dtype=torch.uint8)}
    if references is not None:
        tensors["references"] = references[:, None] if references.ndim == 2 else references
    if reference_latents is not None:
        tensors["reference_latents"] = reference_latents[:, None] if reference_latents.ndim == 4 else reference_latents
    Pack(path, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch)


def open_pack(path: Path) -> "Pack":
    """The file, memory-mapped. Raises Blip3oError for what no checkpoint could take."""
    handle = open_file(path)
    return Pack(path, {name: handle.get_tensor(name) for name in handle.keys() if name in _DIMENSIONS})


class Pack:
    """The rows of one file. Its tensors belong together; `check` compares them with a checkpoint."""

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]):
        self.path = path
        self._check_tensors(tensors)
        self.codes, self.latents = tensors["codes"], tensors["latents"]
        self.references, self.reference_latents = tensors.get("references"), tensors.get("reference_latents")
        self.captions = self._captions(tensors["captions"])
        self.counts = [0] * len(self.codes) if self.references is None else self._counts()
        for row, count in enumerate(self.counts):
            if count and not self.captions[row]:
                raise Blip3oError(f"{path}, row {row} has references and no instruction. Give it one as its caption.")

    def items(self) -> list["PackedItem"]:
        return [PackedItem(self, row) for row in range(len(self.codes))]

    def check(self, checkpoint: Checkpoint, shape: tuple[int, int, int]) -> None:
        """Raise Blip3oError unless these are codes of this checkpoint, and latents of `shape`."""
        again = "Pack the pictures again with this checkpoint's encoders"
        rows, columns = checkpoint.grid
        if self.codes.shape[1] != rows * columns:
            raise Blip3oError(
                f"{self.path} has {self.codes.shape[1]} codes a picture, {checkpoint.folder} has {rows} x {columns}. "
                f"{again}."
            )
        if tuple(self.latents.shape[1:]) != shape:
            raise Blip3oError(
                f"{self.path} has latents of {_by(self.latents.shape[1:])}, this run's are {_by(shape)} (channels, "
                f"rows, columns). {again}, or set image_size to theirs."
            )
        count = checkpoint.vocabulary.num_codes
        for name, codes, lowest in (("codes", self.codes, 0), ("references", self.references, -1)):
            low, high = (0, 0) if codes is None or not codes.numel() else map(int, torch.aminmax(codes))
            if low < lowest or high >= count:
                raise Blip3oError(f"{self.path}: {name} are {low} to {high}, {checkpoint.folder} has {count}. {again}.")

    def _check_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        missing = [name for name in ("codes", "latents", "captions") if name not in tensors]
        if missing:
            raise Blip3oError(
                f"{self.path} lacks {', '.join(missing)}: it is no file of packed pictures. Write one with "
                "blip3o_core.training.data.packed.pack, or give a folder of pictures."
            )
        for name, tensor in tensors.items():
            if tensor.ndim != _DIMENSIONS[name] or tensor.is_floating_point() != ("latents" in name):
                kind = "floating-point" if "latents" in name else "integer"
                raise Blip3oError(
                    f"{self.path}: {name} is {_by(tensor.shape)} of {tensor.dtype}; it must be {kind} with "
                    f"{_DIMENSIONS[name]} dimensions. Pack it again."
                )
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "captions"}
        (rows, width), (_, *picture) = shapes["codes"], shapes["latents"]
        count = shapes.get("references", (0, 0))[1]
        wanted = {"codes": (rows, width), "latents": (rows, *picture)}
        if len(shapes) > 2:
            wanted |= {"references": (rows, count, width), "reference_latents": (rows, count, *picture)}
        if shapes != wanted:
            raise Blip3oError(
                f"{self.path} holds {shapes}, which do not belong together: {wanted} would. Pack it again."
            )

    def _counts(self) -> list[int]:
        """References of each row."""
        there = self.references >= 0
        counts = there.any(2).sum(1)
        wanted = torch.arange(there.shape[1])[None] < counts[:, None]
        broken = (there != wanted[..., None]).flatten(1).any(1).nonzero().flatten()
        if len(broken):
            raise Blip3oError(
                f"{self.path}, row {int(broken[0])}: codes of -1 among those of its references. Only whole references "
                "behind the last one may be -1; pack it again."
            )
        return counts.tolist()

    def _captions(self, text: torch.Tensor) -> list[Captions]:
        rows = len(self.codes)
        try:
            entries = json.loads(text.numpy().tobytes().decode("utf-8"))
        except ValueError as error:
            raise Blip3oError(f"{self.path}: captions are no JSON in UTF-8: {error}. Pack it again.") from error
        if not isinstance(entries, list) or len(entries) != rows:
            count = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise Blip3oError(f"{self.path}: {count} captions for {rows} pictures. Give a list with an entry for each.")
        return [read_captions(entry, f"{self.path}, row {row}") for row, entry in enumerate(entries)]


@dataclass(frozen=True)
class PackedItem:
    """One row of a file; takes the part of an `Item`."""

    pack: Pack
    row: int

    @property
    def name(self) -> str:
        return f"{self.pack.path}, row {self.row}"

    @property
    def captions(self) -> Captions:
        return self.pack.captions[self.row]

    @property
    def num_references(self) -> int:
        """References."""
        return self.pack.counts[self.row]

    def encode(self, pictures) -> EncodedItem:
        pack, row, count = self.pack, self.row, self.num_references
        codes, latents = pack.codes[row].long(), pack.latents[row].float()
        if not count:
            return EncodedItem(codes, latents, codes[None, :][:0], latents[None][:0])
        return EncodedItem(
            codes, latents, pack.references[row, :count].long(), pack.reference_latents[row, :count].float()
        )


_DIMENSIONS = {"codes": 2, "latents": 4, "captions": 1, "references": 3, "reference_latents": 5}


def _by(shape) -> str:
    return " x ".join(map(str, shape))
