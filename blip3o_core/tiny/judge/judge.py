"""A judge of pictures by classical vision: no weights, no chance, about two milliseconds a picture.

It reads the ground off the frame, takes what differs from it apart into objects, and of each the colour (median of the
core), the shape (the likest of six templates) and the radius (from the covered area). Edges are taken at half of an
object's own contrast, so that blur moves nothing. Lengths are in units, 128 to the picture's shorter side.
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter, label

from ...errors import Blip3oError
from ..scenes.edits import Edit, may_change, spec_after
from ..scenes.rasterize import rasterize
from ..scenes.shapes import AREAS, SHAPES
from ..scenes.spec import POSITION_TOLERANCE, Detected, Detection, Spec, Verdict, box_centre, compare
from ..scenes.world import PALETTE, UNITS, Scene, SceneObject
from .ocr import read_word

CONTRAST = 34  # RGB distance from the ground where an object begins; the faintest, pink on grey, has 84
FAR = 75  # RGB distance to the nearest colour of the palette where a colour has no name
SPECK = 60  # square units; the smallest shape covers 235
# overlap with the best template that makes a shape: true ones have at least this after an autoencoder of 28 dB, and
# diamonds, turned squares and blobs have less
LIKE = {"circle": 0.85, "square": 0.85, "triangle": 0.82, "star": 0.75, "ring": 0.8, "cross": 0.86}
LEAD = 0.02  # over the next shape
STRONG = 0.85  # of an object's strongest contrast: pixels from here on tell its colour, edges do not
FOREIGN = 45  # RGB distance from every mixture of object and ground; neighbouring colours of the palette are 90 apart
MOST_FOREIGN = 0.25  # share of an object that may be so
UNCHANGED = 8.0  # mean absolute error, of 255, that an edit may leave where nothing should change
FAINTEST = 0.6  # share of a letter's own colour in its strongest pixels, at least
SHARPER = 3.0
_FRAME = 2  # units of the border that tell the ground
_CROP = 24  # px of a template's side
_NAMES = tuple(PALETTE)
_COLOURS = np.array([PALETTE[name] for name in _NAMES], np.float32)


def judge_image(picture, spec: Spec) -> Verdict:
    """(H, W, 3) uint8, or float in [0, 1], against what a caption demands."""
    return compare(detect(picture, reading=spec.word is not None), spec)


def judge_edit(picture, edit: Edit, limit: float = UNCHANGED) -> Verdict:
    """The target's objects must be there, and pixels that the edit may not touch must be as they were.

    `strict` and `credit` count both, `layout` only the objects; `limit` is the mean absolute error, of 255, allowed.
    """
    pixels = to_pixels(picture)
    side = len(pixels)
    if pixels.shape[1] != side:
        raise Blip3oError(f"The edited picture is {pixels.shape[1]} x {side}; edits are judged on square pictures.")
    verdict = compare(detect(pixels), spec_after(edit))
    free = may_change(edit, side)
    if edit.kind == "add":
        _free_new_places(free, verdict.detection, edit.source)
    error = _error(pixels, rasterize(edit.source, side), ~free)
    if error <= limit:
        return replace(verdict, outside=error, credit=0.75 * verdict.credit + 0.25)
    kept = max(0.0, 1 - error / (4 * limit))
    reason = f"what should stay changed by {error:.1f} of 255 on average (limit {limit:g})"
    credit = 0.75 * verdict.credit + 0.25 * kept
    return replace(verdict, strict=False, outside=error, credit=credit, reasons=(*verdict.reasons, reason))


def _error(picture: np.ndarray, wanted: np.ndarray, where: np.ndarray) -> float:
    difference = np.abs(picture.astype(np.float32) - wanted)[where]
    return float(difference.mean()) if difference.size else 0.0


def _free_new_places(free: np.ndarray, detection: Detection, source: Scene) -> None:
    """An added object may be anywhere: where it was put may change."""
    scale = len(free) / UNITS
    for obj in detection.objects:
        places = (box_centre(old) for old in source.objects)
        if all(max(abs(obj.x - x), abs(obj.y - y)) > POSITION_TOLERANCE for x, y in places):
            reach = 1.25 * obj.radius
            rows, columns = (
                slice(max(math.floor((middle - reach) * scale), 0), math.ceil((middle + reach) * scale))
                for middle in (obj.y, obj.x)
            )
            free[rows, columns] = True


def to_pixels(picture) -> np.ndarray:
    """(H, W, 3) uint8."""
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 16:
        raise Blip3oError(
            f"A picture has the shape {pixels.shape}; give (H, W, 3) with at least 16 pixels to the side."
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise Blip3oError(f"A picture holds {pixels.dtype}; give uint8, or floats in [0, 1].")
    if not np.isfinite(pixels).all():
        raise Blip3oError("A picture holds NaN or infinity, so the model that drew it is broken. Look at its loss.")
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def detect(picture, reading: bool = False) -> Detection:
    """What is in a picture: its objects, or with `reading` its word."""
    rgb = _to_units(to_pixels(picture))
    edge = [rgb[:_FRAME], rgb[-_FRAME:], rgb[:, :_FRAME], rgb[:, -_FRAME:]]
    ground = np.median(np.concatenate([part.reshape(-1, 3) for part in edge]), 0)
    difference = rgb - ground
    distance = np.sqrt(np.einsum("hwc,hwc->hw", difference, difference))
    mask = distance > CONTRAST
    if reading:
        return Detection(colour_name(ground), (), read_word(rgb, ground, distance, mask, ink_name))
    labels, _ = label(mask)
    areas = np.bincount(labels.ravel())
    windows = find_objects(labels)
    seen = [
        _look(rgb, ground, labels, distance, number, window)
        for number, window in enumerate(windows, 1)
        if areas[number] >= SPECK
    ]
    return Detection(colour_name(ground), tuple(seen))


def colour_name(rgb: np.ndarray) -> str | None:
    """The nearest of the palette; None where none is near."""
    return _nearest(_COLOURS - rgb)


def ink_name(rgb: np.ndarray, ground: np.ndarray) -> str | None:
    """The same for letters: so thin that a soft picture may hold only mixtures of their colour with the ground."""
    span = _COLOURS - ground
    purity = np.clip(span @ (rgb - ground) / np.maximum((span**2).sum(1), 1), FAINTEST, 1)
    return _nearest(ground + purity[:, None] * span - rgb)


def _nearest(differences: np.ndarray) -> str | None:
    distances = np.linalg.norm(differences, axis=1)
    nearest = int(distances.argmin())
    return _NAMES[nearest] if distances[nearest] <= FAR else None


def _to_units(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> float32, the shorter side UNITS px: one pixel is one unit."""
    height, width = pixels.shape[:2]
    if min(height, width) != UNITS:
        scale = UNITS / min(height, width)
        size = round(width * scale), round(height * scale)
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return pixels.astype(np.float32)


def _look(rgb, ground, labels, distance, number: int, window) -> Detected:
    """One connected piece -> an object."""
    own = labels[window] == number
    difference = rgb[window] - ground
    colour = ground + np.median(difference[own & (distance[window] >= STRONG * _peak(distance[window][own]))], 0)
    contrast = colour - ground
    coverage = (difference @ contrast) / max(contrast @ contrast, 1.0)  # stripes have none between them
    # soft edges lie between the two colours; what does not is a second colour in the piece
    foreign = np.linalg.norm(difference - coverage[..., None] * contrast, axis=-1) > FOREIGN
    mixed = foreign[own].mean() > MOST_FOREIGN
    coverage = np.clip(coverage, 0, 1) * own

    box = _box(coverage)
    likeness = dict(zip(SHAPES, _likeness(coverage, box), strict=True))
    best, second = sorted(SHAPES, key=likeness.get)[:-3:-1]
    aspect = (box[2] - box[0]) / (box[3] - box[1])
    clear = likeness[best] >= LIKE[best] and likeness[best] - likeness[second] >= LEAD and 0.7 <= aspect <= 1.4
    top, left = window[0].start, window[1].start
    height, width = labels.shape
    cut = left + box[0] < 1 or top + box[1] < 1 or left + box[2] > width - 1 or top + box[3] > height - 1
    return Detected(
        best if clear and not mixed else None,
        None if mixed else colour_name(colour),
        left + (box[0] + box[2]) / 2,
        top + (box[1] + box[3]) / 2,
        math.sqrt(coverage.sum() / AREAS[best]),
        bool(cut),
        {shape: float(value) for shape, value in likeness.items()},
    )


def _peak(values: np.ndarray) -> float:
    return np.partition(values, -len(values) // 20 - 1)[-len(values) // 20 - 1]


def _box(coverage: np.ndarray) -> tuple[float, float, float, float]:
    """left, top, right, bottom where the coverage passes one half."""
    ends = []
    for axis in (0, 1):
        solid = np.flatnonzero((coverage >= 0.5).any(axis))
        ends.append((solid[0], solid[-1] + 1) if len(solid) else (0, coverage.shape[1 - axis]))
    (left, right), (top, bottom) = ends
    return float(left), float(top), float(right), float(bottom)


def _likeness(coverage: np.ndarray, box) -> np.ndarray:
    """(6,) overlap with each shape's likest template, all scaled to one box."""
    crop = _crop(coverage, box)
    both = np.minimum(crop, _templates()).sum((2, 3))
    either = np.maximum(crop, _templates()).sum((2, 3))
    return (both / either).max(1)


def _crop(coverage: np.ndarray, box) -> np.ndarray:
    """(24, 24) in [0, 1], edges sharpened around one half: blur and noise go, the outline stays."""
    sharp = np.clip(SHARPER * (coverage - 0.5) + 0.5, 0, 1)
    picture = Image.fromarray(np.rint(sharp * 255).astype(np.uint8))
    return np.asarray(picture.resize((_CROP, _CROP), Image.Resampling.BILINEAR, box), np.float32) / 255


@lru_cache(1)
def _templates() -> np.ndarray:
    """(6, radii and softnesses, 24, 24): small or soft shapes look rounder, so each is there in several ways."""
    templates = []
    for shape in SHAPES:
        for radius in (13, 18, 26):
            drawn = rasterize(Scene("", (SceneObject(shape, "white", 64, 64, radius),), "black"))
            for blur in (0.0, 1.0):
                soft = gaussian_filter(drawn.astype(np.float32), (blur, blur, 0))
                light = _to_units(np.rint(soft).astype(np.uint8))[..., 0]
                coverage = np.clip((light - light.min()) / (np.quantile(light[light > 128], 0.9) - light.min()), 0, 1)
                templates.append(_crop(coverage, _box(coverage)))
    return np.array(templates).reshape(len(SHAPES), -1, _CROP, _CROP)
