"""Where checkpoints are: the bundled one in the pack, others in the `blip3o` folder and what the user's YAML adds."""

from pathlib import Path

import folder_paths

from ...blip3o_core.checkpoint import bundled
from ...blip3o_core.checkpoint.checkpoint import find_checkpoints
from ...blip3o_core.errors import Blip3oError

FOLDER = "blip3o"
AUTOMATIC = "auto"


def register() -> None:
    """Make the model folder known; paths that the user's YAML gave earlier stay in front."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


def _roots() -> list[Path]:
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]


def checkpoints() -> list[str]:
    """Names for the loader's combo, relative, with '/' on every system, the bundled one first. Cheap; never raises."""
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
    """A name from a combo -> its folder. Raises Blip3oError for names that leave the model folders or do not exist."""
    if name == bundled.NAME:
        return str(bundled.resolve_checkpoint(None))
    roots = _roots()
    for root in roots:
        folder = root / name
        if not folder.is_dir():
            continue
        # Links inside the model folder may point anywhere; the name itself may not.
        if ".." in Path(name).parts or Path(name).is_absolute():
            break
        return str(folder)
    looked = ", ".join(map(str, roots))
    raise Blip3oError(
        f"{name!r} is no folder in {looked}. Put the checkpoint's folder (config.json, tokenizer and .safetensors "
        "files) and its diffusion folder there, press R to refresh the lists, and choose again."
    )


def tatok_files() -> list[str]:
    """Published files of the image tokenizer alone, `.pth`, up to two levels down."""
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
    raise Blip3oError(f"{name!r} is no .pth file in {looked}. Put ta_tok.pth there, press R, and choose it again.")


def complaint(name: str) -> str | None:
    """Why `name` is not in the list of checkpoints and what to do; None when it is."""
    try:
        folder = resolve(name)
    except Blip3oError as error:
        return str(error)
    if name in checkpoints():
        return None
    return (
        f"{folder} is no checkpoint: config.json and model.safetensors (or model.safetensors.index.json) must both "
        "be in it. Copy what is missing, or choose another folder."
    )


def fingerprint(*names: str) -> list:
    """Names, sizes and times of the files behind `names`: a loader runs again when one is replaced."""
    found = []
    for name in names:
        try:
            files = [Path(resolve_file(name))] if name in tatok_files() else sorted(Path(resolve(name)).rglob("*"))
            found += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
        except (OSError, TypeError, Blip3oError):  # a linked name is not known yet
            found.append([name])
    return found
