"""The six shapes: which points they contain, their boxes and their areas. All in radii; u points right, v down."""

import math
from functools import lru_cache

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")

_TRIANGLE = ((0.0, -1.0), (0.95, 0.75), (-0.95, 0.75))
_STAR = tuple(
    ((1.05, 0.45)[k % 2] * math.sin(math.pi * k / 5), -(1.05, 0.45)[k % 2] * math.cos(math.pi * k / 5))
    for k in range(10)
)
_SUPERSAMPLING = 4  # per axis: coverage in sixteenths


def _box(points) -> tuple[float, float, float, float]:
    return tuple(f(p[axis] for p in points) for f in (min, max) for axis in (0, 1))


def _square_box(half: float) -> tuple[float, float, float, float]:
    return (-half, -half, half, half)


# left, top, right, bottom around the centre
BOXES = {
    "circle": _square_box(0.93),
    "square": _square_box(0.82),
    "triangle": _box(_TRIANGLE),
    "star": _box(_STAR),
    "ring": _square_box(0.98),
    "cross": _square_box(0.95),
}

# covered area, in squared radii
AREAS = {
    "circle": math.pi * 0.93**2,
    "square": 1.64**2,
    "triangle": 0.95 * 1.75,
    "star": 5 * 1.05 * 0.45 * math.sin(math.pi / 5),
    "ring": math.pi * (0.98**2 - 0.52**2),
    "cross": 2 * 1.9 * 0.66 - 0.66**2,
}


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Broadcastable u and v -> bool of the common shape."""
    if shape == "circle":
        return u * u + v * v <= 0.93**2
    if shape == "ring":
        distance = u * u + v * v
        return (distance <= 0.98**2) & (distance >= 0.52**2)
    u, v = (u, np.abs(v)) if shape in ("square", "cross") else (u, v)
    if shape == "square":
        return (np.abs(u) <= 0.82) & (v <= 0.82)
    if shape == "cross":
        u = np.abs(u)
        return ((u <= 0.95) & (v <= 0.33)) | ((u <= 0.33) & (v <= 0.95))
    return _inside_polygon(_TRIANGLE if shape == "triangle" else _STAR, u, v)


def _inside_polygon(points, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Even-odd rule: a ray to the right crosses the outline an odd number of times."""
    result = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    for (u0, v0), (u1, v1) in zip(points, points[1:] + points[:1], strict=True):
        if v0 != v1:
            crosses = (v > min(v0, v1)) & (v <= max(v0, v1))
            result ^= crosses & (u < u0 + (v - v0) * ((u1 - u0) / (v1 - v0)))
    return result


@lru_cache(2048)  # a snapped world has a few dozen stamps, so drawing an image is little more than pasting them
def stamp(shape: str, radius: float, x: float, y: float) -> np.ndarray:
    """Coverage (n, n) in [0, 1], n odd, of a shape of `radius` pixels centred at (x, y) in the middle pixel."""
    reach = math.ceil(1.05 * radius) + 1
    axis = (np.arange(-reach * _SUPERSAMPLING, (reach + 1) * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    covered = inside(shape, (axis[None] - x) / radius, (axis[:, None] - y) / radius)
    n = 2 * reach + 1
    coverage = covered.reshape(n, _SUPERSAMPLING, n, _SUPERSAMPLING).mean((1, 3), dtype=np.float32)
    coverage.flags.writeable = False  # shared by all callers
    return coverage
