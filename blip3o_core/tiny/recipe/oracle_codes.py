"""The true codes of a scene: what each code of the tiny world means, and the codebook that says so.

A patch of the image is background (its colour and its position) or a piece of an object (shape, colour, radius, and the
offset from here to the object's centre). The published TA-Tok's codebook is a projection of word embeddings, so that
codes mean words. Here every code is the sum of what its words mean. Once an object's first piece is written, the rest
of the object is decided, so what the language model learns is layout; background codes tell it where it is.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch

from ..scenes.rasterize import footprint
from ..scenes.shapes import SHAPES
from ..scenes.world import COLOURS, PALETTE, Scene, SceneObject
from .model_config import CODE_WIDTH, CODES, GRID, SIDE

PATCH = SIDE // GRID
HALF_PATCH = 8  # in units of the scene; centres of objects lie on this grid
RADII = (16, 20, 24, 28)
MIN_COVERAGE = 0.02  # share of a patch from which on it belongs to an object
MAX_OFFSET = 4  # half patches from the middle of a patch to the centre of its object
_BACKGROUNDS, _COLOURS = tuple(PALETTE), tuple(COLOURS)
_PATCHES = GRID * GRID
FIRST_OBJECT = len(_BACKGROUNDS) * _PATCHES  # codes below it are background

Piece = tuple[str, int, int, int]  # shape, radius, dx, dy: offset of the centre from the patch, in half patches


@lru_cache(maxsize=1)
def piece_ids() -> dict[Piece, int]:
    """Every piece that can occur -> its number."""
    found = {piece for obj in _all_objects() for piece, _ in _pieces(obj).values()}
    return {piece: number for number, piece in enumerate(sorted(found))}


def _all_objects() -> Iterator[SceneObject]:
    """One object of every shape and radius at each of the four positions in a patch."""
    for shape in SHAPES:
        for radius in RADII:
            for x, y in ((64, 64), (72, 64), (64, 72), (72, 72)):
                yield SceneObject(shape, "red", x, y, radius)


def _pieces(obj: SceneObject) -> dict[int, tuple[Piece, float]]:
    """Patch (row-major) -> piece and covered share, for all patches that the object is in."""
    coverage = footprint(obj, SIDE).reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
    pieces = {}
    for row, column in zip(*np.nonzero(coverage > MIN_COVERAGE), strict=True):
        dx = round((obj.x - 2 * HALF_PATCH * column) / HALF_PATCH) - 1
        dy = round((obj.y - 2 * HALF_PATCH * row) / HALF_PATCH) - 1
        radius = min(RADII, key=lambda known: abs(known - obj.radius))
        pieces[int(row * GRID + column)] = (obj.shape, radius, int(dx), int(dy)), float(coverage[row, column])
    return pieces


def scene_codes(scene: Scene) -> np.ndarray:
    """(H * W,) int64 codes of the scene's image. A patch of two objects belongs to the one that covers more of it."""
    codes = _BACKGROUNDS.index(scene.background) * _PATCHES + np.arange(_PATCHES)
    covered = np.zeros(_PATCHES)
    for obj in scene.objects:
        for patch, (piece, coverage) in _pieces(obj).items():
            number = piece_ids().get(piece)
            if number is not None and coverage > covered[patch]:
                covered[patch] = coverage
                codes[patch] = FIRST_OBJECT + number * len(_COLOURS) + _COLOURS.index(obj.colour)
    return codes


def batch_codes(scenes: Iterable[Scene]) -> torch.Tensor:
    """(B, H * W) int64 codes of the scenes' images."""
    return torch.stack([torch.from_numpy(scene_codes(scene)) for scene in scenes])


@lru_cache(maxsize=1)
def codebook() -> torch.Tensor:
    """(K, width): shape, colour, radius, position or offset, background or object, each in dimensions of its own.

    Codes that no piece needs are zero, so nothing is ever nearest to them. All callers share the tensor.
    """
    book = torch.zeros(CODES, CODE_WIDTH)
    backgrounds = torch.arange(FIRST_OBJECT)
    colour, patch = backgrounds // _PATCHES, backgrounds % _PATCHES
    book[backgrounds, 6 + colour] = 1
    book[backgrounds, 21:25] = _on_circles(patch % GRID, GRID)
    book[backgrounds, 25:29] = _on_circles(patch // GRID, GRID)
    book[backgrounds, 29] = 1.5
    colours = tuple(_BACKGROUNDS.index(name) for name in _COLOURS)
    for (shape, radius, dx, dy), number in piece_ids().items():
        rows = FIRST_OBJECT + number * len(_COLOURS) + torch.arange(len(_COLOURS))
        book[rows, SHAPES.index(shape)] = 1
        book[rows, 6 + torch.tensor(colours)] = 1
        book[rows, 17 + RADII.index(radius)] = 1
        book[rows, 21:25] = _on_circles(torch.tensor(dx + MAX_OFFSET), 2 * MAX_OFFSET + 1)
        book[rows, 25:29] = _on_circles(torch.tensor(dy + MAX_OFFSET), 2 * MAX_OFFSET + 1)
        book[rows, 30] = 1
    return torch.nn.functional.normalize(book, dim=-1)


def _on_circles(index: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers below `count` as points on two circles, once and twice round: all distinct, neighbours nearest."""
    angle = 2 * torch.pi * index / count
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], -1) / 2**0.5


@lru_cache(maxsize=1)
def _piece_coverages() -> np.ndarray:
    """(pieces, patch, patch) coverage of every piece's pixels."""
    coverages = np.zeros((len(piece_ids()), PATCH, PATCH), np.float32)
    for obj in _all_objects():
        patches = footprint(obj, SIDE).reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2)
        for patch, (piece, _) in _pieces(obj).items():
            coverages[piece_ids()[piece]] = patches[divmod(patch, GRID)]
    return coverages


def codes_to_image(codes: np.ndarray) -> np.ndarray:
    """(H * W,) codes -> (side, side, 3) uint8: what the codes say, drawn without any network."""
    codes = np.asarray(codes)
    backgrounds = codes[codes < FIRST_OBJECT] // _PATCHES
    most_common = np.bincount(backgrounds, minlength=len(_BACKGROUNDS)).argmax() if len(backgrounds) else -1
    colours = np.array(list(PALETTE.values()), np.float32)
    background = colours[most_common]
    patches = np.empty((len(codes), PATCH, PATCH, 3), np.float32)
    for patch, code in enumerate(codes):
        if code < FIRST_OBJECT:
            patches[patch] = colours[code // _PATCHES]
            continue
        number, colour = divmod(int(code) - FIRST_OBJECT, len(_COLOURS))
        coverage = _piece_coverages()[number][..., None] if number < len(piece_ids()) else 0
        patches[patch] = background + coverage * (np.array(COLOURS[_COLOURS[colour]], np.float32) - background)
    image = patches.reshape(GRID, GRID, PATCH, PATCH, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)
    return np.rint(image).astype(np.uint8)
