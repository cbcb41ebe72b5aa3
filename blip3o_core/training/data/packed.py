"""Images that were encoded before, in one file: a row costs microseconds, and not a file of its own.

    codes (N, T) integer    latents (N, C, h, w) float, scaled    captions (bytes,) uint8, a JSON list of N entries

- An entry of captions is a text, a list of texts that mean the same, or null for a reconstruction.
- Edits have `references` (N, R, T), with rows of -1 after an edit's last one, and `reference_latents` (N, R, C, h, w).
  Their captions are instructions.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...checkpoint import Checkpoint
from ...checks import require_finite
from ...errors import Blip3oError
from ...files import atomic_write, parse_json
from ...weights.tensors import open_file
from .captions import Captions, Groups, read_captions
from .encoded import EncodedItem


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


class Pack(Sequence["PackedItem"]):
    """The rows of one file. Its tensors fit each other; `check` compares them with a checkpoint."""

    units: list[int] | None = None  # rows may be read in any order

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]):
        self.path = path
        self._check_tensors(tensors)
        self.codes, self.latents = tensors["codes"], tensors["latents"]
        self.references, self.reference_latents = tensors.get("references"), tensors.get("reference_latents")
        self.captions = self._captions(tensors["captions"])
        self.counts = torch.zeros(len(self.codes), dtype=torch.int64) if self.references is None else self._counts()
        edits = self.counts.nonzero().flatten().tolist()
        for row in edits:
            if not self.captions[row]:
                raise Blip3oError(
                    f"{path}, row {row} has references and no instruction. Give it an instruction as caption."
                )
        self.edits = len(edits)
        self.most_references = int(self.counts.max()) if len(self.counts) else 0

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row):
        if not 0 <= row < len(self):
            raise IndexError(row)
        return PackedItem(self, row)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the latents."""
        channels, rows, columns = self.latents.shape[1:]
        return channels, rows, columns

    @property
    def filled(self) -> int:
        """Rows with texts."""
        return self.captions.filled

    def num_references(self, row: int) -> int:
        return int(self.counts[row])

    @property
    def first_with_several(self) -> int | None:
        """The first row with more than one reference."""
        return next(iter((self.counts > 1).nonzero().flatten().tolist()), None)

    def identity(self) -> str:
        """What the rows are, without the latents: they are the largest part, and belong to the codes."""
        digest = hashlib.sha256(repr((tuple(self.latents.shape), self.latents.dtype)).encode())
        for tensor in (self.codes, self.references):
            digest.update(b"" if tensor is None else tensor.contiguous().view(torch.uint8).numpy())
        digest.update(self.captions.identity().encode())
        return digest.hexdigest()

    def check(self, checkpoint: Checkpoint, shape: tuple[int, int, int]) -> None:
        """Raise Blip3oError unless these are codes of this checkpoint, and latents of `shape`.

        Images that are not square have other numbers of rows and columns, and about as many cells.
        """
        again = "Pack the images again with the encoders of this checkpoint"
        rows, columns = checkpoint.grid
        if self.codes.shape[1] != rows * columns:
            raise Blip3oError(
                f"{self.path} has {self.codes.shape[1]} codes per image, but {checkpoint.folder} needs {rows} x "
                f"{columns}. {again}."
            )
        channels, height, width = self.shape
        cells = height * width / (shape[1] * shape[2])
        if channels != shape[0] or (height == width and self.shape != shape) or not 0.75 <= cells <= 1.25:
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
            known = _FLOATS if "latents" in name else (torch.uint8,) if name == "captions" else _INTEGERS
            if tensor.ndim != _DIMENSIONS[name] or tensor.dtype not in known:
                kind = "floating-point" if "latents" in name else "bytes" if name == "captions" else "integer"
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

    def _counts(self) -> torch.Tensor:
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
        return counts

    def _captions(self, text: torch.Tensor) -> Groups:
        rows, source = len(self.codes), f"{self.path}, captions,"
        try:
            entries = parse_json(text.numpy().tobytes().decode("utf-8"), source, "Pack it again.")
        except UnicodeDecodeError:
            raise Blip3oError(f"{source} is not UTF-8 text. Pack it again.") from None
        if not isinstance(entries, list) or len(entries) != rows:
            count = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise Blip3oError(
                f"{self.path} has {count} captions for {rows} images. Give a list with one entry per image."
            )
        groups = Groups()
        for row, entry in enumerate(entries):
            groups.append(read_captions(entry, f"{self.path}, row {row}"))
        return groups


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
        return int(self.pack.counts[self.row])

    def look(self, images=None) -> EncodedItem:
        """As `encode`."""
        return self.encode()

    def encode(self, images=None) -> EncodedItem:
        """The row's codes and latents. They are encoded already: `images`, an ImageEncoder, is not used."""
        pack, row, count = self.pack, self.row, self.num_references
        codes, latents = pack.codes[row].long(), pack.latents[row].float()
        require_finite(latents, f"{self.name}: its latents", _AGAIN)
        if not count:
            return EncodedItem(codes, latents)
        references = pack.reference_latents[row, :count].float()
        require_finite(references, f"{self.name}: its references' latents", _AGAIN)
        return EncodedItem(codes, latents, pack.references[row, :count].long(), references)


_AGAIN = "Pack it again, without this image."
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_DIMENSIONS = {"codes": 2, "latents": 4, "captions": 1, "references": 3, "reference_latents": 5}


def _by(shape) -> str:
    return " x ".join(map(str, shape))
