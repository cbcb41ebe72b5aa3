"""What is measured of a sample: pure functions of its bytes and texts, the same in every process and backend.

Images are measured at a working scale, 512 pixels on the shorter side at most, so that one limit serves all sizes and a
large JPEG is never decoded in full.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..images.reader import read_image
from .sample import Sample
from .texts import measure_text

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 2  # raise it when the same sample gets other numbers, or a row other columns: all is then measured again
WORKING_SIDE, SMALL_SIDE = 512, 128  # pixels of the shorter side
DARK, BRIGHT = 5, 250  # of 255: greys at or beyond these are clipped
CHANGED = 24  # of 255: a pixel has changed whose colour moved further in one channel
_COMPARED = 256  # pixels: the sides of target and reference when they are compared


@dataclass(frozen=True)
class Feature:
    """One number of a sample, and how a report shows it."""

    about: str
    unit: str = ""
    low: float = 0.0  # the axis of its histogram
    high: float = 1.0
    log: bool = False


FEATURES: dict[str, Feature] = {
    "side": Feature("the shorter side", "pixels", 16, 8192, True),
    "aspect": Feature("the longer side divided by the shorter", "", 1, 8),
    "sharpness": Feature("variance of the Laplacian of the greys; low: blurred or empty", "", 0.1, 1e5, True),
    "dark": Feature(f"share of pixels whose grey is {DARK} or less of 255"),
    "bright": Feature(f"share of pixels whose grey is {BRIGHT} or more of 255"),
    "contrast": Feature("standard deviation of the greys", "of 255", 0, 128),
    "colourfulness": Feature("by Hasler and Suesstrunk; a grey image has 0", "", 0, 160),
    "words": Feature("words of a text", "", 1, 1000, True),
    "characters": Feature("characters of a text", "", 1, 1e4, True),
    "ascii": Feature("share of a text's characters that are ASCII"),
    "letters": Feature("share of letters among a text's characters that are not spaces"),
    "repetition": Feature("share of neighbouring word pairs that were there before in the text"),
    "reference_side": Feature("the shorter side of the smallest reference", "pixels", 16, 8192, True),
    "distance": Feature("difference of the perceptual hashes of target and nearest reference", "of 64 bits", 0, 64),
    "changed": Feature("share of pixels that differ between target and nearest reference"),
    "aspect_difference": Feature("how much target and nearest reference differ in aspect, as a share"),
    "references": Feature("number of references", "", 0, 8),
}
TEXT_FEATURES = ("words", "characters", "ascii", "letters", "repetition", "language")  # one for each text


@dataclass(frozen=True)
class Looked:
    """A decoded image and what is measured of it alone."""

    image: "Image"  # RGB at the working scale
    numbers: Mapping[str, Any] = field(default_factory=dict)


def measure_sample(sample: Sample) -> dict[str, Any]:
    """A row of features. Raises Blip3oError, see `look`."""
    target = look(sample.image, sample.place)
    references = [look(one, f"{sample.place}, reference {k}") for k, one in enumerate(sample.references, 1)]
    row = {
        **target.numbers,
        **text_features(sample.texts),
        "references": len(references),
        "reference_hashes": [one.numbers["hash"] for one in references],
    }
    return row | (compare(target, references) if references else {})


def text_features(texts: Sequence[str]) -> dict[str, list]:
    """What is measured of texts: a list with one entry for each."""
    measured = [measure_text(text) for text in texts]
    return {name: [one[name] for one in measured] for name in TEXT_FEATURES}


def look(data: bytes, place: str) -> Looked:
    """Decode an image and measure it. Raises Blip3oError for one that is damaged, too large or in no known format."""
    read = read_image(data, place, "Leave it out, or replace it.", least_side=WORKING_SIDE)
    image, (width, height) = _shrunk(read.on_white(), WORKING_SIDE), read.size
    grey, small = image.convert("L"), _shrunk(image, SMALL_SIDE)
    numbers = {
        "bytes": len(data),
        "format": read.stored.format,
        "mode": read.stored.mode,
        "width": width,
        "height": height,
        "side": min(width, height),
        "aspect": max(width, height) / min(width, height),
        "sharpness": sharpness(grey),
        "colourfulness": colourfulness(small),
        "hash": perceptual_hash(small),
        **_greys(grey),
    }
    return Looked(image, numbers)


def compare(target: Looked, references: Sequence[Looked]) -> dict[str, Any]:
    """What is measured between a target and the reference that is nearest to it."""
    apart = [(target.numbers["hash"] ^ one.numbers["hash"]).bit_count() for one in references]
    nearest = references[apart.index(min(apart))]
    aspects = [one.numbers["width"] / one.numbers["height"] for one in (target, nearest)]
    return {
        "reference_side": min(one.numbers["side"] for one in references),
        "distance": min(apart),
        "changed": changed_share(target.image, nearest.image),
        "aspect_difference": max(aspects) / min(aspects) - 1,
    }


def sharpness(grey: "Image") -> float:
    """The variance of the Laplacian (4 neighbours); 0 for an image without a pixel inside."""
    import numpy as np

    a = np.asarray(grey).astype(np.int16)
    if min(a.shape) < 3:
        return 0.0
    edges = 4 * a[1:-1, 1:-1] - a[:-2, 1:-1] - a[2:, 1:-1] - a[1:-1, :-2] - a[1:-1, 2:]
    # Whole numbers: the same to the last bit whatever adds them up.
    squares, total = np.square(edges, dtype=np.int32).sum(dtype=np.int64), edges.sum(dtype=np.int64)
    return float(squares / edges.size - (total / edges.size) ** 2)


def colourfulness(image: "Image") -> float:
    """Hasler and Suesstrunk, Measuring colourfulness in natural images, 2003: their metric M3."""
    import numpy as np

    red, green, blue = np.moveaxis(np.asarray(image).astype(np.float64), -1, 0)
    first, second = red - green, 0.5 * (red + green) - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


def perceptual_hash(image: "Image") -> int:
    """imagehash's `phash` as 64 bits."""
    import imagehash
    import numpy as np

    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes())


def changed_share(target: "Image", reference: "Image") -> float:
    """The share of pixels that changed, with both images stretched to the same square."""
    import numpy as np
    from PIL.Image import Resampling

    sides = _COMPARED, _COMPARED
    first, second = (
        np.asarray(one.resize(sides, Resampling.BOX, reducing_gap=1.0), np.int16) for one in (target, reference)
    )
    return float((np.abs(first - second).max(axis=-1) > CHANGED).mean())


def _greys(grey: "Image") -> dict[str, float]:
    import numpy as np

    counts = np.asarray(grey.histogram(), np.float64)
    shares, values = counts / counts.sum(), np.arange(256)
    mean = float(shares @ values)
    return {
        "dark": float(shares[: DARK + 1].sum()),
        "bright": float(shares[BRIGHT:].sum()),
        "contrast": max(0.0, float(shares @ (values - mean) ** 2)) ** 0.5,
    }


def _shrunk(image: "Image", side: int) -> "Image":
    """The image with its shorter side at most `side`. The longer one keeps a pixel at least."""
    from PIL.Image import Resampling

    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(1, round(one * side / shorter)) for one in image.size)
    return image.resize((width, height), Resampling.BOX, reducing_gap=1.0)
