"""What a code of the tiny world means: one patch's share of the picture, in the words a caption would use.

A patch is ground (its colour and its place), or a piece of an object (shape, colour, radius, and where the object's
centre is from here). TA-Tok's codebook is a projection of word embeddings, so that codes mean words; here every code is
the sum of what its words mean. Once an object's first piece is written, the rest of it is decided: what the language
model has to learn is layout, and a ground code tells it where it is.
"""

from functools import lru_cache

import numpy as np
import torch

from ..scenes.rasterize import footprint
from ..scenes.shapes import SHAPES
from ..scenes.world import COLOURS, PALETTE, Scene, SceneObject
from .model_config import CODE_WIDTH, CODES, GRID, SIDE

PATCH = SIDE // GRID
UNIT = 8  # scene units to half a patch: centres lie on this grid
RADII = (16, 20, 24, 28)
LEAST = 0.02  # covered share of a patch from which on it belongs to an object
REACH = 4  # half patches from a patch's middle to its object's centre, at most
_GROUNDS, _COLOURS = tuple(PALETTE), tuple(COLOURS)
_PLACES = GRID * GRID
FIRST_OBJECT = len(_GROUNDS) * _PLACES  # codes below are ground


@lru_cache(maxsize=1)
def piece_ids() -> dict[tuple[str, int, int, int], int]:
    """(shape, radius, dx, dy) of every piece that can occur -> its number. dx, dy: centre less patch, half patches."""
    found = set()
    for shape in SHAPES:
        for radius in RADII:
            for x, y in ((64, 64), (72, 64), (64, 72), (72, 72)):
                found.update(piece[:4] for piece, _ in _pieces(SceneObject(shape, "red", x, y, radius)).values())
    return {form: number for number, form in enumerate(sorted(found))}


def _pieces(obj: SceneObject) -> dict[int, tuple[tuple, float]]:
    """Place (row-major) -> (shape, radius, dx, dy, colour) and covered share, of all patches that the object is in."""
    share = footprint(obj, SIDE).reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
    pieces = {}
    for row, column in zip(*np.nonzero(share > LEAST), strict=True):
        dx = round((obj.x - 2 * UNIT * column) / UNIT) - 1
        dy = round((obj.y - 2 * UNIT * row) / UNIT) - 1
        radius = min(RADII, key=lambda known: abs(known - obj.radius))
        piece = (obj.shape, radius, int(dx), int(dy), obj.colour)
        pieces[int(row * GRID + column)] = piece, float(share[row, column])
    return pieces


def scene_codes(scene: Scene) -> np.ndarray:
    """(H * W,) int64 codes that a scene's picture should have. Of two objects in a patch the larger share wins."""
    ground = _GROUNDS.index(scene.background) * _PLACES
    codes = ground + np.arange(_PLACES)
    taken = np.zeros(_PLACES)
    known = piece_ids()
    for obj in scene.objects:
        for place, ((*form, colour), share) in _pieces(obj).items():
            number = known.get(tuple(form))
            if number is not None and share > taken[place]:
                taken[place] = share
                codes[place] = FIRST_OBJECT + number * len(_COLOURS) + _COLOURS.index(colour)
    return codes


def codebook() -> torch.Tensor:
    """(K, width): shape, colour, radius, place or offset, ground or object, each in dimensions of its own.

    Codes that no piece needs are zero; nothing is ever nearest to them.
    """
    book = torch.zeros(CODES, CODE_WIDTH)
    grounds = torch.arange(FIRST_OBJECT)
    colour, place = grounds // _PLACES, grounds % _PLACES
    book[grounds, 6 + colour] = 1
    book[grounds, 21:25] = _turn(place % GRID, GRID)
    book[grounds, 25:29] = _turn(place // GRID, GRID)
    book[grounds, 29] = 1.5
    names = tuple(_GROUNDS.index(name) for name in _COLOURS)
    for (shape, radius, dx, dy), number in piece_ids().items():
        rows = FIRST_OBJECT + number * len(_COLOURS) + torch.arange(len(_COLOURS))
        book[rows, SHAPES.index(shape)] = 1
        book[rows, 6 + torch.tensor(names)] = 1
        book[rows, 17 + RADII.index(radius)] = 1
        book[rows, 21:25] = _turn(torch.tensor(dx + REACH), 2 * REACH + 1)
        book[rows, 25:29] = _turn(torch.tensor(dy + REACH), 2 * REACH + 1)
        book[rows, 30] = 1
    return torch.nn.functional.normalize(book, dim=-1)


def _turn(index: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers below `count` on two circles, once and twice round: all apart, neighbours nearest."""
    angle = 2 * torch.pi * index / count
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], -1) / 2**0.5


@lru_cache(maxsize=1)
def _coverages() -> np.ndarray:
    """(piece_ids, patch, patch) covered share of every form's pixels."""
    coverages = np.zeros((len(piece_ids()), PATCH, PATCH), np.float32)
    for shape in SHAPES:
        for radius in RADII:
            for x, y in ((64, 64), (72, 64), (64, 72), (72, 72)):
                obj = SceneObject(shape, "red", x, y, radius)
                cells = footprint(obj, SIDE).reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2)
                for place, (piece, _) in _pieces(obj).items():
                    coverages[piece_ids()[piece[:4]]] = cells[divmod(place, GRID)]
    return coverages


def codes_to_image(codes: np.ndarray) -> np.ndarray:
    """(H * W,) codes -> (side, side, 3) uint8: what the codes say, without any network. Shows who errs."""
    codes = np.asarray(codes)
    grounds = codes[codes < FIRST_OBJECT] // _PLACES
    ground = np.bincount(grounds, minlength=len(_GROUNDS)).argmax() if len(grounds) else len(_GROUNDS) - 1
    colours = np.array(list(PALETTE.values()), np.float32)
    cells = np.empty((len(codes), PATCH, PATCH, 3), np.float32)
    for place, code in enumerate(codes):
        if code < FIRST_OBJECT:
            cells[place] = colours[code // _PLACES]
            continue
        number, colour = divmod(int(code) - FIRST_OBJECT, len(_COLOURS))
        share = _coverages()[number][..., None] if number < len(piece_ids()) else 0
        cells[place] = colours[ground] + share * (np.array(COLOURS[_COLOURS[colour]], np.float32) - colours[ground])
    picture = cells.reshape(GRID, GRID, PATCH, PATCH, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)
    return np.rint(picture).astype(np.uint8)
