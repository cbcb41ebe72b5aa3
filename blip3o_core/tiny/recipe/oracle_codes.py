"""The true codes of a scene: what each code of the tiny world means, and the codebook that says so.

A patch of the image is background (its colour and its position), a piece of an object (shape, colour, radius, and the
offset from here to the object's centre), or in the second edition a letter (and its colour). The published TA-Tok's
codebook is a projection of word embeddings, so that codes mean words. Here every code is the sum of what its words
mean. Once an object's first piece is written, the rest of the object is decided, so what the language model learns is
layout; background codes tell it where it is.

The image tokenizer sees an oblong image stretched to the square. Its patches are as oblong as the image, offsets are in
half patches of that shape, and a piece keeps its code. No code says anything of textures; those that a caption names
are told apart from the codes.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch

from ..scenes.rasterize import footprint, size_of
from ..scenes.shapes import SHAPES
from ..scenes.textures import KINDS, SOLID
from ..scenes.words import LETTERS
from ..scenes.world import CANVASES, COLOURS, PALETTE, SQUARE, Scene, SceneObject, Word, lettered_word, spacing
from ..scenes.world import PATCH as PATCH_UNITS
from .model_config import FIRST_EDITION, GRID, Sizes

RADII, OBLONG_RADII = (16, 20, 24, 28), (16, 20)
MIN_COVERAGE = 0.02  # share of a patch from which on it belongs to an object
MAX_OFFSET = 4  # half patches from the middle of a patch to the centre of its object
_BACKGROUNDS, _COLOURS = tuple(PALETTE), tuple(COLOURS)
_PATCHES = GRID * GRID
FIRST_OBJECT = len(_BACKGROUNDS) * _PATCHES  # codes below it are background

Piece = tuple[str, int, int, int]  # shape, radius, dx, dy: offset of the centre from the patch, in half patches


@lru_cache(maxsize=2)
def piece_ids(sizes: Sizes = FIRST_EDITION) -> dict[Piece, int]:
    """Every piece that can occur -> its number."""
    found = {
        piece
        for canvas in _canvases(sizes)
        for obj in _all_objects(canvas)
        for piece, _ in _pieces(obj, canvas, sizes).values()
    }
    return {piece: number for number, piece in enumerate(sorted(found))}


def first_letter(sizes: Sizes) -> int:
    """The first code of a letter; there are 26 x 8 from here on in the second edition, and none in the first."""
    return FIRST_OBJECT + len(piece_ids(sizes)) * len(_COLOURS)


def used_codes(sizes: Sizes) -> int:
    """Codes that mean something."""
    letters = 0 if sizes == FIRST_EDITION else len(LETTERS)
    return first_letter(sizes) + letters * len(_COLOURS)


def _canvases(sizes: Sizes) -> tuple[tuple[int, int], ...]:
    return (SQUARE,) if sizes == FIRST_EDITION else (SQUARE, *CANVASES.values())


def _all_objects(canvas: tuple[int, int]) -> Iterator[SceneObject]:
    """One object of every shape and radius at each of the four positions in a patch."""
    (right, down), (x, y) = map(spacing, canvas), (side / 2 for side in canvas)
    for shape in SHAPES:
        for radius in RADII if canvas == SQUARE else OBLONG_RADII:
            for dx, dy in ((0, 0), (right, 0), (0, down), (right, down)):
                yield SceneObject(shape, "red", x + dx, y + dy, radius)


def _patches(image: np.ndarray) -> np.ndarray:
    """(height, width) -> (GRID, h, GRID, w)."""
    height, width = image.shape
    return image.reshape(GRID, height // GRID, GRID, width // GRID)


def _pieces(obj: SceneObject, canvas: tuple[int, int], sizes: Sizes) -> dict[int, tuple[Piece, float]]:
    """Patch (row-major) -> piece and covered share, for all patches that the object is in."""
    coverage = _patches(footprint(obj, sizes.side, canvas)).mean((1, 3))
    right, down = map(spacing, canvas)
    pieces = {}
    for row, column in zip(*np.nonzero(coverage > MIN_COVERAGE), strict=True):
        dx = round((obj.x - 2 * right * column) / right) - 1
        dy = round((obj.y - 2 * down * row) / down) - 1
        radius = min(RADII, key=lambda known: abs(known - obj.radius))
        pieces[int(row * GRID + column)] = (obj.shape, radius, int(dx), int(dy)), float(coverage[row, column])
    return pieces


def scene_codes(scene: Scene, sizes: Sizes = FIRST_EDITION) -> np.ndarray:
    """(H * W,) int64 codes of the scene's image."""
    return _codes_and_owners(scene, sizes)[0]


def _codes_and_owners(scene: Scene, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """(H * W,) codes, and the number of each patch's object, or -1.

    A patch of two objects belongs to the one that covers more of it.
    """
    codes = _BACKGROUNDS.index(scene.background) * _PATCHES + np.arange(_PATCHES)
    covered, owners = np.zeros(_PATCHES), np.full(_PATCHES, -1)
    for owner, obj in enumerate(scene.objects):
        for patch, (piece, coverage) in _pieces(obj, scene.canvas, sizes).items():
            number = piece_ids(sizes).get(piece)
            if number is not None and coverage > covered[patch]:
                covered[patch], owners[patch] = coverage, owner
                codes[patch] = FIRST_OBJECT + number * len(_COLOURS) + _COLOURS.index(obj.colour)
    if scene.word is not None:
        start, colour = _first_patch(scene.word), _COLOURS.index(scene.word.colour)
        for place, letter in enumerate(scene.word.text):
            codes[start + place] = first_letter(sizes) + LETTERS.index(letter) * len(_COLOURS) + colour
    return codes, owners


def _first_patch(word: Word) -> int:
    return int(word.top // PATCH_UNITS) * GRID + int(word.left // PATCH_UNITS)


def batch_codes(scenes: Iterable[Scene], sizes: Sizes = FIRST_EDITION) -> torch.Tensor:
    """(B, H * W) int64 codes of the scenes' images."""
    return torch.stack([torch.from_numpy(scene_codes(scene, sizes)) for scene in scenes])


def named_textures(scenes: Iterable[Scene], sizes: Sizes = FIRST_EDITION) -> torch.Tensor:
    """(B, H * W) int64: the number of the texture that a scene's caption names at each patch, from 1; 0: none."""
    return torch.stack([torch.from_numpy(_named_textures(scene, sizes)) for scene in scenes])


def _named_textures(scene: Scene, sizes: Sizes) -> np.ndarray:
    surfaces = (scene.texture, *(obj.texture for obj in scene.objects))
    named = [
        0 if texture == SOLID or not scene.textures_named else 1 + KINDS.index(texture.kind) for texture in surfaces
    ]
    return np.array(named)[1 + _codes_and_owners(scene, sizes)[1]]


@lru_cache(maxsize=2)
def codebook(sizes: Sizes = FIRST_EDITION) -> torch.Tensor:
    """(K, width): shape, colour, radius, position or offset, background, object or letter, in dimensions of their own.

    Codes that no piece needs are zero, so nothing is ever nearest to them. All callers share the tensor.
    """
    book = torch.zeros(sizes.codes, sizes.code_width)
    backgrounds = torch.arange(FIRST_OBJECT)
    colour, patch = backgrounds // _PATCHES, backgrounds % _PATCHES
    book[backgrounds, 6 + colour] = 1
    book[backgrounds, 21:25] = _on_circles(patch % GRID, GRID)
    book[backgrounds, 25:29] = _on_circles(patch // GRID, GRID)
    book[backgrounds, 29] = 1.5
    colours = torch.tensor([_BACKGROUNDS.index(name) for name in _COLOURS])
    for (shape, radius, dx, dy), number in piece_ids(sizes).items():
        rows = FIRST_OBJECT + number * len(_COLOURS) + torch.arange(len(_COLOURS))
        book[rows, SHAPES.index(shape)] = 1
        book[rows, 6 + colours] = 1
        book[rows, 17 + RADII.index(radius)] = 1
        book[rows, 21:25] = _on_circles(torch.tensor(dx + MAX_OFFSET), 2 * MAX_OFFSET + 1)
        book[rows, 25:29] = _on_circles(torch.tensor(dy + MAX_OFFSET), 2 * MAX_OFFSET + 1)
        book[rows, 30] = 1
    for code in range(first_letter(sizes), used_codes(sizes)):
        letter, colour = divmod(code - first_letter(sizes), len(_COLOURS))
        book[code, 32 + letter] = 1.5
        book[code, 6 + colours[colour]] = 1
        book[code, 31] = 1
    return torch.nn.functional.normalize(book, dim=-1)


def _on_circles(index: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers below `count` as points on two circles, once and twice round: all distinct, neighbours nearest."""
    angle = 2 * torch.pi * index / count
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], -1) / 2**0.5


@lru_cache(maxsize=5)
def _coverages(canvas: tuple[int, int], sizes: Sizes) -> np.ndarray:
    """(pieces and letters, h, w) coverage of the pixels of a patch. Zero for pieces that no image of the canvas has."""
    height, width = (side // GRID for side in size_of(canvas, sizes.side))
    count = (used_codes(sizes) - FIRST_OBJECT) // len(_COLOURS)
    coverages = np.zeros((count, height, width), np.float32)
    for obj in _all_objects(canvas):
        patches = _patches(footprint(obj, sizes.side, canvas)).swapaxes(1, 2)
        for patch, (piece, _) in _pieces(obj, canvas, sizes).items():
            coverages[piece_ids(sizes)[piece]] = patches[divmod(patch, GRID)]
    for number in range(len(piece_ids(sizes)), count if canvas == SQUARE else 0):
        word = lettered_word(LETTERS[number - len(piece_ids(sizes))], "red", 1, 1)
        coverages[number] = _patches(footprint(word, sizes.side))[1, :, 1]
    return coverages


def codes_to_image(codes: np.ndarray, canvas: tuple[int, int] = SQUARE, sizes: Sizes = FIRST_EDITION) -> np.ndarray:
    """(H * W,) codes -> (height, width, 3) uint8: what the codes say, drawn without any network."""
    codes = np.asarray(codes)
    backgrounds = codes[codes < FIRST_OBJECT] // _PATCHES
    most_common = np.bincount(backgrounds, minlength=len(_BACKGROUNDS)).argmax() if len(backgrounds) else -1
    colours = np.array(list(PALETTE.values()), np.float32)
    background, coverages = colours[most_common], _coverages(canvas, sizes)
    _, height, width = coverages.shape
    patches = np.empty((len(codes), height, width, 3), np.float32)
    for patch, code in enumerate(codes):
        if code < FIRST_OBJECT:
            patches[patch] = colours[code // _PATCHES]
            continue
        number, colour = divmod(int(code) - FIRST_OBJECT, len(_COLOURS))
        coverage = coverages[number][..., None] if number < len(coverages) else 0
        patches[patch] = background + coverage * (np.array(COLOURS[_COLOURS[colour]], np.float32) - background)
    image = patches.reshape(GRID, GRID, height, width, 3).swapaxes(1, 2).reshape(GRID * height, GRID * width, 3)
    return np.rint(image).astype(np.uint8)
