"""Where checkpoints are: the bundled one in the pack, others in `models/blip3o` and in extra_model_paths.yaml."""

import os
from pathlib import Path

import folder_paths

from ...blip3o_core.checkpoint import bundled, find_checkpoints
from ...blip3o_core.errors import Blip3oError, shown

FOLDER = "blip3o"
AUTOMATIC = "auto"


def register() -> None:
    """Make the model folder known. Paths from the user's extra_model_paths.yaml stay in front of it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


def _roots() -> list[Path]:
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def checkpoints() -> list[str]:
    """Names for the loader's combo: relative paths with '/', the bundled checkpoint first. Fast; never raises."""
    return list(dict.fromkeys([bundled.NAME, *(name for root in _roots() for name in find_checkpoints(root))]))


def diffusion_folders() -> list[str]:
    """Folders with `transformer/config.json` and `vae/config.json`, up to three levels down."""
    found = [AUTOMATIC]
    for root in _roots():
        for pattern in ("*/transformer/config.json", "*/*/transformer/config.json", "*/*/*/transformer/config.json"):
            try:
                matches = sorted(root.glob(pattern))
            except OSError:
                continue
            found += [m.parent.parent.relative_to(root).as_posix() for m in matches if (m.parents[1] / "vae").is_dir()]
    return list(dict.fromkeys(found))


def resolve(name: str) -> str:
    """A name from a combo -> its folder. Raises Blip3oError if it does not exist or leaves the model folders."""
    if name == bundled.NAME:
        return str(bundled.resolve_checkpoint(None))
    roots = _roots()
    for root in roots:
        folder = root / name
        if not os.path.isdir(folder):  # never raises, whatever the name
            continue
        # Links inside the model folder may point anywhere; the name itself may not.
        if ".." in Path(name).parts or Path(name).is_absolute():
            break
        return str(folder)
    looked = ", ".join(map(str, roots))
    raise Blip3oError(
        f"Cannot find the folder {shown(name)!r} in {looked}. Put the checkpoint's folder (config.json, tokenizer "
        "files and .safetensors files) and its diffusion folder there, press R to refresh the lists, and choose again."
    )


def tatok_files() -> list[str]:
    """The `.pth` files up to two levels down: image tokenizers as they are published."""
    found = []
    for root in _roots():
        try:
            found += [path.relative_to(root).as_posix() for depth in ("*.pth", "*/*.pth") for path in root.glob(depth)]
        except OSError:
            continue
    return sorted(set(found))


def resolve_file(name: str) -> str:
    """A name from `tatok_files` -> its path."""
    for root in _roots():
        if name in tatok_files() and (root / name).is_file():
            return str(root / name)
    looked = ", ".join(map(str, _roots()))
    raise Blip3oError(
        f"Cannot find the file {name!r} in {looked}. Put ta_tok.pth there, press R to refresh the list, and choose it "
        "again."
    )


def problem_with(name: str) -> str | None:
    """Why the checkpoint `name` cannot be loaded and what to do; None if it is in the list."""
    try:
        folder = resolve(name)
    except Blip3oError as error:
        return str(error)
    if name in checkpoints():
        return None
    return (
        f"{folder} does not contain a checkpoint. It needs config.json and model.safetensors (or "
        "model.safetensors.index.json). Copy the missing files, or choose another folder."
    )


def fingerprint(*names: str) -> list:
    """Paths, sizes and times of the files behind `names`. A loader runs again when one of them changes."""
    found = []
    for name in names:
        try:
            files = [Path(resolve_file(name))] if name in tatok_files() else sorted(Path(resolve(name)).rglob("*"))
            found += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
        except (OSError, TypeError, Blip3oError):  # a linked name is not known yet
            found.append([name])
    return found
