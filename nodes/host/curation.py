"""`blip3o curate` on a folder of the user, in a process of its own that a cancel ends, and what came of it.

Decoding images takes memory and time that are not ComfyUI's, and a damaged file must not end ComfyUI.
"""

import hashlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import folder_paths

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.files import atomic_write, naming_failures
from .. import requirements
from . import child, curated, image_folders, notes

PACKAGES = ("imagehash", "numpy", "PIL", "py3langid", "pyarrow", "pydantic", "scipy", "yaml")  # of curate
PASSES = {"measure": "Measuring the images", "select": "Choosing", "write": "Writing the shards"}
_BAR = re.compile(rb"(measure|select|write):[^\r\n]*?(\d+)/(\d+)")
_TAIL = 4096  # bytes of what the process said last
_WHAT = "The curation"


@dataclass(frozen=True)
class Request:
    """The node's inputs."""

    folder: str
    output_name: str
    min_side: int
    min_sharpness: float
    drop_duplicates: bool
    default_caption: str  # of images without a text; "": they are dropped


def curate(request: Request) -> tuple[str, int, int, dict]:
    """(the folder of the shards, images kept, images dropped, what the node's page shows).

    Raises ComfyUI's interrupt when the user cancels, and Blip3oError when it fails. The next run continues.
    """
    requirements.check_extras("Curating", PACKAGES, "curate")
    from ...blip3o_core.curation.results import read_results
    from ...blip3o_core.curation.work import Work
    from .curation_image import draw

    source = _images_in(request.folder)
    out = _place(request.output_name)
    config = _write_settings(request, source, out)
    _follow(config)
    work = Work(out)
    results = read_results(work)
    _tell(results, out)
    return str(work.shards), results.kept, results.dropped, _shown(draw(results))


def _images_in(name: str) -> Path:
    """The folder, with nothing in it that names files elsewhere. Raises Blip3oError."""
    from ...blip3o_core.curation.readers.find import find_pieces

    source = image_folders.resolve(name).absolute()
    try:
        pieces = find_pieces(str(source))
    except Blip3oError as error:
        raise Blip3oError(
            f"The folder {shown(source)} has no image that can be read. Put images into it, and beside each a text of "
            "the same name, such as cat.jpg and cat.txt."
        ) from error
    if any(piece.reader not in ("folder", "unread") for piece in pieces):
        raise Blip3oError(
            f"The folder {shown(repr(name))} has lists, parquet files or tars. This node reads only images with texts "
            "beside them, for a list can name files anywhere. Move these files away, or use `blip3o curate` on the "
            "command line."
        )
    return source


def _place(name: str) -> Path:
    """The folder of a name in output/curated. Raises Blip3oError for what is no name."""
    plain = name.strip()
    simple = plain and plain.strip(".") and len(plain) <= 100 and plain.isprintable() and not set(plain) & set("/\\:")
    if not simple or not curated.is_inside(curated.root() / plain):
        raise Blip3oError(
            f"output_name is {shown(repr(name))}. It must name a folder in output/{curated.FOLDER}, without / and \\, "
            "such as 'my-images'."
        )
    return curated.root() / plain


def _write_settings(request: Request, source: Path, out: Path) -> Path:
    """The settings, beside the folder `out`; with them `blip3o curate` continues. What others made is not touched."""
    import yaml

    from ...blip3o_core.curation.settings import load_curation

    config = out.with_name(f"{out.name}.yaml")
    if os.path.lexists(config):
        before = [one.path for one in load_curation(config).sources]
        mine = before == [str(source)]
    else:
        mine = not os.path.lexists(out)
    if not mine:
        raise Blip3oError(
            f"output_name is {shown(repr(out.name))}, but {shown(out)} was made from other images. Choose a different "
            "name, or remove that folder and the .yaml file beside it."
        )
    caption = request.default_caption.strip()
    settings = {
        "sources": [{"path": str(source), "options": {"caption": caption}} if caption else str(source)],
        "out": str(out),
        "keep": {"min_side": request.min_side, "min_sharpness": request.min_sharpness},
        **({} if request.drop_duplicates else {"duplicates": None}),
    }  # fmt: skip
    with naming_failures(config):
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(config) as scratch:
            scratch.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return config


def _follow(config: Path) -> None:
    """Until the process has ended. Raises ComfyUI's interrupt after a cancel, Blip3oError after a failure."""
    notes.show(PASSES["measure"])
    bar = comfy.utils.ProgressBar(100 * len(PASSES))
    bar.update_absolute(0)
    with tempfile.TemporaryDirectory(prefix="blip3o_curate_") as scratch:
        output = Path(scratch, "output.txt")
        with child.started(_WHAT, ["curate", str(config)], output) as process:
            while (status := child.status_of(process)) is None:
                mm.throw_exception_if_processing_interrupted()
                _show(bar, output)
        _show(bar, output)  # what it said last
        if status:
            raise Blip3oError(child.failure(_WHAT, status, output, "give it fewer images at a time"))


def _show(bar, output: Path) -> None:
    with open(output, "rb") as file:
        file.seek(max(0, output.stat().st_size - _TAIL))
        found = _BAR.findall(file.read())
    if found:
        name, done, total = found[-1][0].decode(), int(found[-1][1]), max(1, int(found[-1][2]))
        bar.update_absolute(round(100 * (list(PASSES).index(name) + done / total)))
        notes.show(f"{PASSES[name]}: {done} of {total}")


def _tell(results, out: Path) -> None:
    from ...blip3o_core.curation.decisions import WITHOUT_TEXT
    from ...blip3o_core.curation.report import title_of
    from ...blip3o_core.curation.select import KEPT

    why = [
        f"{title_of(reason)} {count:,}" for reason, count in results.reasons.most_common() if reason != KEPT and count
    ]
    reasons = f" Dropped: {', '.join(why)}." if why else ""
    count = results.kept + results.dropped
    place = f"output/{curated.FOLDER}/{out.name}"
    told = f"Kept {results.kept:,} of {count:,} images.{reasons} {place}/report.html shows more."
    notes.tell([told], logging.INFO)
    if results.reasons[WITHOUT_TEXT]:
        notes.tell(
            [
                "Images without a text cannot be trained with. Put one beside each, cat.txt beside cat.jpg, or write a "
                "default_caption for all of them."
            ]
        )
    if not results.kept:
        notes.tell(["No image is left to train with. Loosen the limits, or choose another folder."])


def _shown(sheet) -> dict[str, list[dict[str, str]]]:
    """The sheet as a file in ComfyUI's temporary folder, named by content."""
    name = f"blip3o_curated_{hashlib.sha256(sheet.tobytes()).hexdigest()[:24]}.png"
    path = Path(folder_paths.get_temp_directory(), name)
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as scratch:
            sheet.save(scratch, "PNG", compress_level=1)
    return {"images": [{"filename": name, "subfolder": "", "type": "temp"}]}
