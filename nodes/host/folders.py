"""Where checkpoints are: the bundled one in the pack, others in `models/blip3o` and in extra_model_paths.yaml."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import folder_paths

from ...blip3o_core import checkpoint as library
from ...blip3o_core.checkpoint import bundled
from ...blip3o_core.checkpoint.find import WEIGHTS, Found, find_models
from ...blip3o_core.download.published import download_line
from ...blip3o_core.errors import Blip3oError, shown

FOLDER = "blip3o"
AUTOMATIC = "auto"
TATOK_FILE = "ta_tok.pth"
# Seconds that a look at a folder counts, if the time of the folder stays: a network drive takes seconds for one, and
# ComfyUI asks for the lists several times a run.
_KEPT = 3.0
_PACK = Path(__file__).resolve().parents[2]
_looks: dict[Path, tuple[float, int, Found]] = {}  # root -> (when, the root's time, what was found)
_read: dict[tuple, list] = {}  # (checkpoint, diffusion folder) -> the files that were read, see `_state`


def register() -> None:
    """Make the model folder and make it known. Paths from extra_model_paths.yaml stay in front of it."""
    _make_own()
    folder_paths.add_model_folder_path(FOLDER, str(_own()))


def _own() -> Path:
    return Path(folder_paths.models_dir, FOLDER)


def _make_own() -> OSError | None:
    """Make ComfyUI's own model folder, if it is not there; why that failed, as on a disk that may only be read."""
    try:
        _own().mkdir(exist_ok=True)
    except OSError as error:
        return error
    return None


def _roots() -> list[Path]:
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def _look(root: Path) -> Found:
    try:
        changed = root.stat().st_mtime_ns
    except OSError:
        return Found()
    known = _looks.get(root)
    if known is None or known[1] != changed or time.monotonic() - known[0] > _KEPT or _is_stale(root, known[2]):
        found = find_models(root)
        known = _looks[root] = (time.monotonic(), changed, found)
    return known[2]


def _is_stale(root: Path, found: Found) -> bool:
    """Whether something that was found is gone."""
    weights = (any(os.path.lexists(root / name / file) for file in WEIGHTS) for name in found.checkpoints)
    return not all(weights) or not all(os.path.lexists(root / name) for name in found.tatok_files)


def _listed(kind: str) -> Iterator[tuple[str, Path]]:
    """(name in the list, path) of the first thing of each name. A model straight in a root is called like the root."""
    names = set()
    for root in _roots():
        for relative in sorted(getattr(_look(root), kind)):
            name = root.name if relative == "." else relative
            if name not in names:
                names.add(name)
                yield name, root / relative


def checkpoints() -> list[str]:
    """Names for the loader's combo: relative paths with '/', the bundled checkpoint first. Never raises."""
    return [bundled.NAME, *(name for name, _ in _listed("checkpoints"))]


def diffusion_folders() -> list[str]:
    """Folders with `transformer/config.json` and `vae/config.json`, up to three levels down."""
    return [AUTOMATIC, *(name for name, _ in _listed("diffusion_folders"))]


def tatok_files() -> list[str]:
    """The `.pth` files up to two levels down: image tokenizers as they are published.

    Without any, the published one's name: with an empty list nothing could be chosen, and no run say what is missing.
    """
    return [name for name, _ in _listed("tatok_files")] or [TATOK_FILE]


def resolve(name: str) -> str:
    """The name of a checkpoint -> its folder. Raises Blip3oError for a name that is not in the list."""
    if name == bundled.NAME:
        return str(bundled.resolve_checkpoint(None))
    folder = _find("checkpoints", name)
    if folder is None:
        raise Blip3oError(_what_is_wrong(name))
    return folder


def resolve_diffusion(name: str) -> str | None:
    """The name of a diffusion folder -> its path; None for "auto"."""
    if name == AUTOMATIC:
        return None
    folder = _find("diffusion_folders", name)
    if folder is None:
        raise Blip3oError(
            f"Cannot find the diffusion folder {shown(repr(name))} in {_places()} Put the folder with "
            "transformer/config.json and vae/config.json there, press R to refresh the lists, and choose it again, or "
            "choose 'auto'."
        )
    return folder


def resolve_file(name: str) -> str:
    """A name from `tatok_files` -> its path."""
    path = _find("tatok_files", name)
    if path is None:
        raise Blip3oError(
            f"Cannot find the file {shown(repr(name))} in {_places()} Put ta_tok.pth there, press R to refresh the "
            "list, and choose it again."
        )
    return path


def _find(kind: str, name: str) -> str | None:
    """The path of a name in a list; a name that is not there may be newer than the last look."""
    for _ in range(2):
        found = dict(_listed(kind)).get(name) if isinstance(name, str) else None
        if found is not None:
            return str(found)
        _looks.clear()
    return None


def _places() -> str:
    """The roots, the end of a sentence; and a sentence on what to do where there is none of them."""
    places = ", ".join(map(str, _roots())) + "."
    reason = None if any(root.is_dir() for root in _roots()) else _make_own()
    if reason is None:
        return places
    return (
        f"{places} ComfyUI cannot make the folder {_own()}: {reason.strerror}. Make it, or name another folder as "
        f"{FOLDER} in extra_model_paths.yaml."
    )


def _what_is_wrong(name: str) -> str:
    """Why no checkpoint of this name is in the list, and what to do."""
    for root in _roots():
        folder = _inside(root, name)
        if folder is None or not os.path.isdir(folder):
            continue
        has_config = os.path.lexists(folder / "config.json")
        missing = [] if has_config else ["config.json"]
        if not any(os.path.lexists(folder / file) for file in WEIGHTS):
            missing.append(" or ".join(WEIGHTS))
        if missing:
            return (
                f"{shown(folder)} does not contain a checkpoint: {' and '.join(missing)} is missing. Copy the missing "
                f"files, or choose another folder. {_download_line(name)}"
            )
        return (
            f"{shown(folder)} is not in the list under this name. Press R to refresh the lists, and choose it there. "
            f"Folders more than three levels below {root} are not listed: move them up."
        )
    return (
        f"Cannot find the folder {shown(repr(name))} in {_places()} Put the checkpoint's folder (config.json, "
        "tokenizer files and .safetensors files) and its diffusion folder there, press R to refresh the lists, and "
        f"choose again. {_download_line(name)}"
    )


def _download_line(name: str) -> str:
    """A sentence with the line to type that downloads this checkpoint, or lists those that can be."""
    words = download_line(name if isinstance(name, str) else "").removeprefix("blip3o ")
    return f'Or type in the folder {_PACK}: "{sys.executable}" -m blip3o_core {words}'


def _inside(root: Path, name: str) -> Path | None:
    """The path of a name that stays inside `root`; None for any other, and for names that no file can have."""
    if not isinstance(name, str) or not 0 < len(name) < 1000 or "\0" in name:
        return None
    if not Path(name).parts or ".." in Path(name).parts or Path(name).is_absolute():
        return None
    return root / name


def fingerprint(checkpoint: str, diffusion_folder: str = AUTOMATIC) -> str:
    """Of paths, sizes and times of the files that a checkpoint is loaded from: the loader runs again if one changes."""
    try:
        key = resolve(checkpoint), resolve_diffusion(diffusion_folder)
        known = _read.get(key, [])
        now = [_state(path) for path, *_ in known]
        if not known or now != known:  # it may have other files now
            now = _read[key] = [_state(path) for path in library.open_checkpoint(*key).files]
        return _digest(now)
    except (OSError, TypeError, ValueError):  # a linked name is not known yet; the loader says what is wrong
        return _digest([checkpoint, diffusion_folder])


def file_fingerprint(name: str) -> str:
    """As `fingerprint`, of a file from `tatok_files`."""
    return fingerprint_of(lambda: resolve_file(name), name)


def fingerprint_of(path: Callable[[], str], name: str) -> str:
    """As `fingerprint`, of the file that `path` finds for a name."""
    try:
        return _digest(_state(path()))
    except (OSError, TypeError, ValueError):
        return _digest([name])


def _digest(facts: list) -> str:
    """ComfyUI writes a fingerprint into every image that it saves, where a user's paths have no place."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _state(path: str | Path) -> list:
    """What changes with the content of a file, without a look into it."""
    try:
        facts = os.stat(path)
    except OSError:
        return [str(path), None]
    return [str(path), facts.st_size, facts.st_mtime_ns, facts.st_ino]
