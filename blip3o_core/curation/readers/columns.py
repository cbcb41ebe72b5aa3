"""Which column of a table, or key of a list's entry, is the target, the references and the text.

The guesses are what public sets call them: `image` and `text` of the hub's image folders, `jpg` and `txt` of tables
made from webdataset, `input_images`, `output_image` and `instruction` of X2I2, Nano-150k and MICo, `input_image`,
`output_image` and `input_prompt` of ShareGPT-4o-Image, `original_image`, `edit_prompt` and `edited_image` of
InstructPix2Pix, `source_img` and `target_img` of MagicBrush.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import Blip3oError, did_you_mean, shown
from .options import Options

_TARGETS = ("output_image", "target_image", "target_img", "edited_image", "edited_img")
_IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "image_path", "file_name", "filename", "file", "path")
_REFERENCES = (
    *("input_images", "input_image", "references", "reference", "reference_images", "reference_image"),
    *("source_image", "source_img", "source_images", "original_image", "conditioning_image"),
    "images",  # of items.jsonl, beside `image`
)
# Alone they may be anything, such as the site that an image is from: only both of a pair are images.
_PAIRS = (("target", "source"), ("output", "input"))
ONLY_EDITS = ("instruction", "instructions", "edit_instruction", "edit_prompt")
_CAPTIONS = (
    *("caption", "captions", "text", "txt", "prompt", "input_prompt", "description"),
    *("long_caption", "short_caption"),
)


@dataclass(frozen=True)
class Columns:
    image: str
    references: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()  # all of them are texts of the sample


def choose(names: Iterable[str], options: Options) -> Columns:
    """Raises Blip3oError, which lists the names that exist, when there is no image, or an option names no column."""
    names = tuple(names)
    existing = {name.lower(): name for name in reversed(names)}

    def first(*known: str) -> tuple[str, ...]:
        return next(((existing[name],) for name in known if name in existing), ())

    for wanted in filter(None, (options.image, options.references, options.text)):
        if not set(wanted) & set(names):
            hint = f" {did_you_mean(wanted[0], names)}".rstrip()
            raise Blip3oError(f"It has no column {shown(repr(wanted[0]))}.{hint} Its columns: {_listed(names)}.")
    pair = next((pair for pair in _PAIRS if existing.keys() >= set(pair)), ())
    image = options.image or first(*_TARGETS, *pair[:1])
    image = image or first(*(one for one in _IMAGES if existing.get(one) not in options.references))
    if not image:
        raise Blip3oError(
            f"None of its columns is known to have the image. Its columns: {_listed(names)}. Name the one with the "
            "image in the source's options, as `image: COLUMN`."
        )
    references = tuple(one for one in options.references if one in names) or tuple(
        one for one in first(*_REFERENCES, *pair[1:]) if one != image[0]
    )
    if not references and image[0].lower() in _TARGETS:
        references = first("image", "img")
    texts = tuple(one for one in options.text if one in names) or (
        first(*ONLY_EDITS, *_CAPTIONS) if references else first(*_CAPTIONS, *ONLY_EDITS)
    )
    return Columns(image[0], references, texts)


def _listed(names: Iterable[str]) -> str:
    return shown(", ".join(names) or "none", 500)
