"""Images that were encoded before, in one file: a row costs microseconds, and not a file of its own.

    codes (N, T) integer    latents (N, C, h, w) float, scaled    captions (bytes,) uint8, a JSON list of N entries

- An entry of captions is a text, a list of texts that mean the same, or null for a reconstruction.
- Edits have `references` (N, R, T), with rows of -1 after an edit's last one, and `reference_latents` (N, R, C, h, w).
  Their captions are instructions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...checkpoint import Checkpoint
from ...errors import Blip3oError
from ...files import atomic_write
from ...weights.tensors import open_file
from .encoded import EncodedItem

Captions = tuple[str, ...]


def read_captions(entry, where: str) -> Captions:
    """A caption, a list of captions or None, as read from a file. Empty captions are left out."""
    captions = [] if entry is None else entry if isinstance(entry, list) else [entry]
    wrong = next((caption for caption in captions if not isinstance(caption, str)), None)
    if wrong is not None:
        raise Blip3oError(f"{where}: the caption is {wrong!r}. It must be text, or absent for a reconstruction.")
    return tuple(caption.strip() for caption in captions if caption.strip())


def pack(
    path: str | Path,
    codes: torch.Tensor,
    latents: torch.Tensor,
    captions: Sequence[str | Sequence[str] | None],
    references: torch.Tensor | None = None,
    reference_latents: torch.Tensor | None = None,
) -> None:
    """Write a file that `data` may name. It appears whole or not at all, and keeps the tensors' dtypes.

    References need no dimension R when every row has one.
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
    """The file, memory-mapped. Raises Blip3oError for content that no checkpoint could take."""
    handle = open_file(path)
    return Pack(path, {name: handle.get_tensor(name) for name in handle.keys() if name in _DIMENSIONS})


class Pack:
    """The rows of one file. Its tensors fit each other; `check` compares them with a checkpoint."""

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]):
        self.path = path
        self._check_tensors(tensors)
        self.codes, self.latents = tensors["codes"], tensors["latents"]
        self.references, self.reference_latents = tensors.get("references"), tensors.get("reference_latents")
        self.captions = self._captions(tensors["captions"])
        self.counts = [0] * len(self.codes) if self.references is None else self._counts()
        for row, count in enumerate(self.counts):
            if count and not self.captions[row]:
                raise Blip3oError(
                    f"{path}, row {row} has references and no instruction. Give it an instruction as caption."
                )

    def items(self) -> list["PackedItem"]:
        return [PackedItem(self, row) for row in range(len(self.codes))]

    def check(self, checkpoint: Checkpoint, shape: tuple[int, int, int]) -> None:
        """Raise Blip3oError unless these are codes of this checkpoint, and latents of `shape`."""
        again = "Pack the images again with the encoders of this checkpoint"
        rows, columns = checkpoint.grid
        if self.codes.shape[1] != rows * columns:
            raise Blip3oError(
                f"{self.path} has {self.codes.shape[1]} codes per image, but {checkpoint.folder} needs {rows} x "
                f"{columns}. {again}."
            )
        if tuple(self.latents.shape[1:]) != shape:
            raise Blip3oError(
                f"{self.path} has latents of {_by(self.latents.shape[1:])} (channels, rows, columns), but this run "
                f"needs {_by(shape)}. {again}, or set image_size to the size of the file's images."
            )
        count = checkpoint.vocabulary.num_codes
        for name, codes, lowest in (("codes", self.codes, 0), ("references", self.references, -1)):
            low, high = (0, 0) if codes is None or not codes.numel() else map(int, torch.aminmax(codes))
            if low < lowest or high >= count:
                raise Blip3oError(
                    f"{self.path}: {name} are {low} to {high}, but {checkpoint.folder} has {count} codes. {again}."
                )

    def _check_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        missing = [name for name in ("codes", "latents", "captions") if name not in tensors]
        if missing:
            raise Blip3oError(
                f"{self.path} lacks {', '.join(missing)}, so it is not a file of packed images. Write one with "
                "blip3o_core.training.data.packed.pack, or give a folder of images."
            )
        for name, tensor in tensors.items():
            if tensor.ndim != _DIMENSIONS[name] or tensor.is_floating_point() != ("latents" in name):
                kind = "floating-point" if "latents" in name else "integer"
                raise Blip3oError(
                    f"{self.path}: {name} is {_by(tensor.shape)} of {tensor.dtype}; it must be {kind} with "
                    f"{_DIMENSIONS[name]} dimensions. Pack it again."
                )
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "captions"}
        (rows, width), (_, *latent) = shapes["codes"], shapes["latents"]
        count = shapes.get("references", (0, 0))[1]
        wanted = {"codes": (rows, width), "latents": (rows, *latent)}
        if len(shapes) > 2:
            wanted |= {"references": (rows, count, width), "reference_latents": (rows, count, *latent)}
        if shapes != wanted:
            raise Blip3oError(
                f"Tensor shapes in {self.path} do not match: found {shapes}, expected {wanted}. Pack it again."
            )

    def _counts(self) -> list[int]:
        """References of each row."""
        there = self.references >= 0
        counts = there.any(2).sum(1)
        wanted = torch.arange(there.shape[1])[None] < counts[:, None]
        broken = (there != wanted[..., None]).flatten(1).any(1).nonzero().flatten()
        if len(broken):
            raise Blip3oError(
                f"{self.path}, row {int(broken[0])}: a reference has codes of -1. Only the rows after an edit's last "
                "reference may be -1, and then completely. Pack it again."
            )
        return counts.tolist()

    def _captions(self, text: torch.Tensor) -> list[Captions]:
        rows = len(self.codes)
        try:
            entries = json.loads(text.numpy().tobytes().decode("utf-8"))
        except ValueError as error:
            raise Blip3oError(f"Cannot read the captions in {self.path} as JSON: {error}. Pack it again.") from error
        if not isinstance(entries, list) or len(entries) != rows:
            count = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise Blip3oError(
                f"{self.path} has {count} captions for {rows} images. Give a list with one entry per image."
            )
        return [read_captions(entry, f"{self.path}, row {row}") for row, entry in enumerate(entries)]


@dataclass(frozen=True)
class PackedItem:
    """One row of a file, in the place of an `Item`."""

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
        return self.pack.counts[self.row]

    def encode(self, images=None) -> EncodedItem:
        """The row's codes and latents. They are encoded already: `images`, an ImageEncoder, is not used."""
        pack, row, count = self.pack, self.row, self.num_references
        codes, latents = pack.codes[row].long(), pack.latents[row].float()
        if not count:
            return EncodedItem(codes, latents)
        return EncodedItem(
            codes, latents, pack.references[row, :count].long(), pack.reference_latents[row, :count].float()
        )


_DIMENSIONS = {"codes": 2, "latents": 4, "captions": 1, "references": 3, "reference_latents": 5}


def _by(shape) -> str:
    return " x ".join(map(str, shape))
