"""Judges images by classical vision: no weights, nothing random, about two milliseconds an image.

The border of an image gives the background colour. Connected pixels that differ from it are objects. An object's colour
is the median of its core, its shape the most similar of six templates, its radius follows from the covered area. Edges
are taken at half of the object's own contrast, so that blur does not move them. Components too small for an object are
letters, where a word is asked for. Lengths are in units, 128 to the shorter side of the image unless a caption says
that it is not square.
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, find_objects, gaussian_filter, label

from ...errors import Blip3oError
from ..scenes.edits import Edit, may_change, spec_after
from ..scenes.rasterize import footprint, rasterize, size_of
from ..scenes.shapes import AREAS, SHAPES
from ..scenes.spec import POSITION_TOLERANCE, Detected, Detection, Spec, Verdict, box_centre, compare, has_ratio
from ..scenes.textures import SOLID
from ..scenes.world import PALETTE, SQUARE, UNITS, Scene, SceneObject
from .ocr import letters_of, read_word
from .surfaces import Ground, find_ground, is_textured, kind_of_ground, kind_of_object, line_of, without_line

MIN_CONTRAST = 34  # RGB distance from the background where an object begins; the faintest, pink on grey, has 84
MAX_COLOUR_DISTANCE = 75  # RGB distance to the nearest colour of the palette; beyond it a colour has no name
MIN_AREA = 60  # square units; the smallest shape covers 235
# Least similarity to the best template. True shapes have it even after an autoencoder of 28 dB; diamonds, turned
# squares and blobs do not.
MIN_SIMILARITY = {"circle": 0.85, "square": 0.85, "triangle": 0.82, "star": 0.75, "ring": 0.8, "cross": 0.86}
MIN_LEAD = 0.02  # of the similarity over that of the second shape
CORE = 0.85  # share of an object's strongest contrast from which pixels are its core, not its edge
FOREIGN = 45  # RGB distance from every mixture of object and background; colours of the palette differ by 90 or more
MIN_SOLID = 0.4  # coverage of the inside of an object whose darkest part counts as 1
MAX_FOREIGN = 0.25  # share of an object's pixels that may have a foreign colour
MAX_OUTSIDE = 8.0  # mean absolute error, of 255, of pixels that an edit must not change
MAX_BLURRED = 4.0  # more of it where all of these pixels have a texture; a texture that is lost costs 12 or more
MIN_PURITY = 0.6  # least share of a letter's own colour in its strongest pixels
SHARPENING = 3.0  # of coverage around one half, before it is compared with the templates
_CROP = 24  # px, side of a template
_NAMES = tuple(PALETTE)
_COLOURS = np.array([PALETTE[name] for name in _NAMES], np.float32)


def judge_image(image, spec: Spec) -> Verdict:
    """Compare an image, (H, W, 3) uint8 or float in [0, 1], with what its caption asks for."""
    word = spec.word is not None
    return compare(detect(image, word, spec.canvas, spec.textured, beside=word and bool(spec.objects)), spec)


def judge_edit(image, edit: Edit, limit: float = MAX_OUTSIDE) -> Verdict:
    """The objects of the target must be there, and pixels that the edit must not change must be unchanged.

    `strict` and `credit` count both, `layout` only the objects. `limit` is the allowed mean absolute error, of 255;
    where textures are, a little more, because blur takes from them what it does not take from flat colours.
    """
    pixels, canvas = to_pixels(image), edit.target.canvas
    height, width = pixels.shape[:2]
    side = round(height * UNITS / canvas[1])
    if size_of(canvas, side) != (height, width):
        shape = "square images" if canvas == SQUARE else f"images of {canvas[0]}:{canvas[1]}"
        raise Blip3oError(f"The edited image is {width}x{height}. Only {shape} can be judged: resize or crop it.")
    spec = spec_after(edit)
    verdict = compare(detect(pixels, canvas=spec.canvas), spec)
    free = may_change(edit, side)
    if edit.kind == "add":
        _free_new_positions(free, verdict.detection, edit.source)
    true = rasterize(edit.target, side)
    error = _error(pixels, true, ~free)
    textured = ~free & textured_pixels(edit.target, side)
    limit += MAX_BLURRED * float(textured.sum() / max((~free).sum(), 1))
    verdict = replace(verdict, outside=error, surfaces=_error(pixels, true, textured) if textured.any() else None)
    if error <= limit:
        return replace(verdict, credit=0.75 * verdict.credit + 0.25)
    kept = max(0.0, 1 - error / (4 * limit))
    reason = f"the rest of the image changed by {error:.1f} of 255 on average (limit {limit:g})"
    credit = 0.75 * verdict.credit + 0.25 * kept
    return replace(verdict, strict=False, credit=credit, reasons=(*verdict.reasons, reason))


def textured_pixels(scene: Scene, side: int) -> np.ndarray:
    """(height, width) bool, True where a texture is seen and nothing else, not even a soft edge."""
    covered = [footprint(obj, side, scene.canvas) for obj in scene.objects]
    free = (
        np.logical_and.reduce([one == 0 for one in covered]) if covered else np.ones(size_of(scene.canvas, side), bool)
    )
    found = free & (scene.texture != SOLID)
    for obj, one in zip(scene.objects, covered, strict=True):
        found |= (one == 1) & (obj.texture != SOLID)
    return found


def _error(image: np.ndarray, expected: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference over the pixels of a mask."""
    difference = np.abs(image.astype(np.float32) - expected)[where]
    return float(difference.mean()) if difference.size else 0.0


def _free_new_positions(free: np.ndarray, detection: Detection, source: Scene) -> None:
    """Mark as free, in place, the pixels of objects that the source does not have: an added object may be anywhere."""
    scale = len(free) / source.canvas[1]
    for obj in detection.objects:
        old = (box_centre(old) for old in source.objects)
        if all(max(abs(obj.x - x), abs(obj.y - y)) > POSITION_TOLERANCE for x, y in old):
            reach = 1.25 * obj.radius
            rows, columns = (
                slice(max(math.floor((middle - reach) * scale), 0), math.ceil((middle + reach) * scale))
                for middle in (obj.y, obj.x)
            )
            free[rows, columns] = True


def to_pixels(image) -> np.ndarray:
    """(H, W, 3) uint8, or float in [0, 1] -> (H, W, 3) uint8."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 16:
        raise Blip3oError(
            f"The image has the shape {pixels.shape}. Give (H, W, 3) with at least 16 pixels on each side."
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise Blip3oError(f"The image has the dtype {pixels.dtype}. Give uint8, or floats in [0, 1].")
    if not np.isfinite(pixels).all():
        raise Blip3oError(
            "The image contains NaN or infinite pixels. The model that made it failed; look at its training loss."
        )
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def detect(
    image, word: bool = False, canvas: tuple[int, int] | None = None, textures: bool = False, beside: bool = False
) -> Detection:
    """Everything found in an image: its objects, and with `word` its word.

    `canvas` says how many units width and height have, if the image has that ratio. `textures` are read where asked.
    Letters too large for a patch are read only where no object may stand `beside` the word.
    """
    pixels = to_pixels(image)
    size = pixels.shape[1], pixels.shape[0]
    rgb = _to_units(pixels, canvas if canvas and has_ratio(size, canvas) else None)
    ground = find_ground(rgb, MIN_CONTRAST)
    name, mask = colour_name(ground.colour), ground.distance > MIN_CONTRAST
    letters = letters_of(mask) if word else np.zeros_like(mask)
    objects: tuple[Detected, ...] = ()
    if word and not letters.any() and not beside:
        found_word = read_word(rgb, ground, mask, ink_name)
    else:
        found_word = read_word(rgb, ground, letters, ink_name) if word else None
        objects = _detect_objects(rgb, ground, mask & ~letters, textures)
    texture = kind_of_ground(rgb, ground.colour, ground.distance < MIN_CONTRAST / 2, name) if textures else None
    return Detection(name, objects, found_word, texture, size)


def _detect_objects(rgb: np.ndarray, ground: Ground, mask: np.ndarray, textures: bool) -> tuple[Detected, ...]:
    labels, _ = label(mask)
    areas = np.bincount(labels.ravel())
    windows = find_objects(labels)
    return tuple(
        _detect_object(rgb, ground, labels == number, window, textures)
        for number, window in enumerate(windows, 1)
        if areas[number] >= MIN_AREA
    )


def colour_name(rgb: np.ndarray) -> str | None:
    """Name of the nearest colour of the palette, None if none is near."""
    return _nearest(_COLOURS - rgb)


def ink_name(rgb: np.ndarray, background: np.ndarray) -> str | None:
    """Colour name of letters, which are so thin that blur mixes all of their pixels with the background."""
    span = _COLOURS - background
    purity = np.clip(span @ (rgb - background) / np.maximum((span**2).sum(1), 1), MIN_PURITY, 1)
    return _nearest(background + purity[:, None] * span - rgb)


def _nearest(differences: np.ndarray) -> str | None:
    distances = np.linalg.norm(differences, axis=1)
    nearest = int(distances.argmin())
    return _NAMES[nearest] if distances[nearest] <= MAX_COLOUR_DISTANCE else None


def _to_units(pixels: np.ndarray, canvas: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 -> float32 with one pixel to the unit: the canvas, or a shorter side of UNITS pixels."""
    height, width = pixels.shape[:2]
    scale = UNITS / min(height, width)
    size = canvas or (round(width * scale), round(height * scale))
    if size != (width, height):
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return pixels.astype(np.float32)


def _detect_object(rgb, ground: Ground, labelled, window, textures: bool) -> Detected:
    """The object of the connected pixels `labelled`, all of them inside `window`."""
    own, difference, distance = labelled[window], ground.difference[window], ground.distance[window]
    core = own & (distance >= CORE * _peak(distance[own]))
    contrast, colour = np.median(difference[core], 0), np.median(rgb[window][core], 0)
    coverage = (difference @ contrast) / max(contrast @ contrast, 1.0)
    # Soft edges are mixtures of the two colours. Anything else is a second colour in the object.
    rest = difference - coverage[..., None] * contrast
    inner = _inner(own, 2) & (coverage >= MIN_SOLID)
    line = line_of(colour_name(colour))
    if is_textured(rgb[window][inner] - colour, line):
        contrast = difference[inner].mean(0)  # between the lightest and the darkest part
        coverage = (difference @ contrast) / max(contrast @ contrast, 1.0)
        rest = without_line(difference - coverage[..., None] * contrast, 2 * line)
    foreign = np.linalg.norm(rest, axis=-1) > FOREIGN
    mixed = foreign[own].mean() > MAX_FOREIGN
    coverage = np.clip(coverage, 0, 1) * own

    box = _box(coverage)
    similarity = dict(zip(SHAPES, _similarity(coverage, box), strict=True))
    best, second = sorted(SHAPES, key=similarity.get)[:-3:-1]
    lead = similarity[best] - similarity[second]
    aspect = (box[2] - box[0]) / (box[3] - box[1])
    clear = similarity[best] >= MIN_SIMILARITY[best] and lead >= MIN_LEAD and 0.7 <= aspect <= 1.4
    top, left = window[0].start, window[1].start
    height, width = labelled.shape
    cut = left + box[0] < 1 or top + box[1] < 1 or left + box[2] > width - 1 or top + box[3] > height - 1
    name, texture = colour_name(colour), None
    if textures:
        shifted = left + box[0], top + box[1], left + box[2], top + box[3]
        texture = kind_of_object(rgb[window] - colour, _inner(own), (top, left), shifted, name)
    return Detected(
        best if clear and not mixed else None,
        None if mixed else name,
        left + (box[0] + box[2]) / 2,
        top + (box[1] + box[3]) / 2,
        math.sqrt(coverage.sum() / AREAS[best]),
        bool(cut),
        {shape: float(value) for shape, value in similarity.items()},
        texture,
    )


def _inner(own: np.ndarray, edge: int = 1) -> np.ndarray:
    """An object's pixels without its soft edge, so many units wide."""
    return binary_erosion(own, np.ones((3, 3), bool), edge)


def _peak(values: np.ndarray) -> float:
    """The value that one in twenty exceeds."""
    return np.partition(values, -len(values) // 20 - 1)[-len(values) // 20 - 1]


def _box(coverage: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the pixels that are covered by half or more."""
    ends = []
    for axis in (0, 1):
        solid = np.flatnonzero((coverage >= 0.5).any(axis))
        ends.append((solid[0], solid[-1] + 1) if len(solid) else (0, coverage.shape[1 - axis]))
    (left, right), (top, bottom) = ends
    return float(left), float(top), float(right), float(bottom)


def _similarity(coverage: np.ndarray, box) -> np.ndarray:
    """(6,) intersection over union with the best template of each shape, all scaled to one box."""
    crop = _crop(coverage, box)
    both = np.minimum(crop, _templates()).sum((2, 3))
    either = np.maximum(crop, _templates()).sum((2, 3))
    return (both / either).max(1)


def _crop(coverage: np.ndarray, box) -> np.ndarray:
    """(24, 24) in [0, 1], sharpened around one half: this removes blur and noise and keeps the outline."""
    sharp = np.clip(SHARPENING * (coverage - 0.5) + 0.5, 0, 1)
    image = Image.fromarray(np.rint(sharp * 255).astype(np.uint8))
    return np.asarray(image.resize((_CROP, _CROP), Image.Resampling.BILINEAR, box), np.float32) / 255


@lru_cache(1)
def _templates() -> np.ndarray:
    """(6, variants, 24, 24): each shape at three radii, crisp and soft, because small or soft shapes look rounder."""
    templates = []
    for shape in SHAPES:
        for radius in (13, 18, 26):
            image = rasterize(Scene("", (SceneObject(shape, "white", 64, 64, radius),), "black"))
            for blur in (0.0, 1.0):
                soft = gaussian_filter(image.astype(np.float32), (blur, blur, 0))
                light = _to_units(np.rint(soft).astype(np.uint8))[..., 0]
                coverage = np.clip((light - light.min()) / (np.quantile(light[light > 128], 0.9) - light.min()), 0, 1)
                templates.append(_crop(coverage, _box(coverage)))
    return np.array(templates).reshape(len(SHAPES), -1, _CROP, _CROP)
