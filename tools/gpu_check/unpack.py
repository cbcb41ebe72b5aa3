"""What `prepare` carried, made usable: a virtual environment over the running Python. Standard library only.

Nothing is installed into the Python that runs this. Processes started with the new one find the carried packages first,
then all that the old one has.
"""

import json
import os
import shutil
import site
import sys
import tarfile
import tempfile
import venv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
WHEELS, STUBS, COMFYUI, KERNELS = "wheels", "stubs", "comfyui.zip", "kernels.tar.gz"


@dataclass
class Unpacked:
    """The Python to run, what its processes need in their environment, and what was found."""

    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)


def unpack(carried: Path, folder: Path) -> Unpacked:
    """Into `folder`; where nothing was carried, all stays as it is."""
    made = Unpacked()
    if not carried.is_dir():
        return made
    home = folder / "venv"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(home)
    made.python = str(home / "bin" / "python")
    packages = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    wheels = sorted((carried / WHEELS).glob("*.whl"))
    made.notes["wheels"] = sum(fits(wheel.name) for wheel in wheels)
    made.notes["left out"] = [wheel.name for wheel in wheels if not fits(wheel.name)]
    for wheel in filter(lambda wheel: fits(wheel.name), wheels):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    for stub in (carried / STUBS).glob("*"):
        shutil.copytree(stub, packages / stub.name, dirs_exist_ok=True)
    # A package of the same name that the machine may have would hide ours, which has no __init__.py.
    (packages / "tests").mkdir()
    (packages / "tests" / "__init__.py").write_text(f"__path__ = [{str(TOP / 'tests')!r}]\n", encoding="utf-8")
    lines = [
        f"import site; site.addsitedir({path!r})" for path in [*site.getsitepackages(), site.getusersitepackages()]
    ]
    if (carried / KERNELS).is_file():
        cache = Path(tempfile.gettempdir(), "gpu-check-kernels")  # a later run finds what this one compiles
        unpack_kernels(carried / KERNELS, cache)
        shutil.copy(Path(__file__).with_name("carried_kernels.py"), packages)
        lines.append("import carried_kernels; carried_kernels.install()")
        made.environment["TRITON_CACHE_DIR"] = str(cache)
        made.notes["kernels"] = len(list(cache.glob("*/*.cubin")))
    (packages / "gpu_check.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if (carried / COMFYUI).is_file():
        with zipfile.ZipFile(carried / COMFYUI) as archive:
            archive.extractall(folder / "ComfyUI")
        made.environment["COMFYUI_PATH"] = str(folder / "ComfyUI")
    return made


def unpack_kernels(archive: Path, cache: Path) -> None:
    """Into Triton's cache, whose groups of files name whole paths."""
    with tarfile.open(archive) as packed:
        packed.extractall(cache, filter="data")
    for group in cache.glob("*/__grp__*.json"):
        names = json.loads(group.read_text(encoding="utf-8"))["child_paths"]
        paths = {name: str(group.parent / name) for name in names if (group.parent / name).is_file()}
        group.write_text(json.dumps({"child_paths": paths}), encoding="utf-8")


def fits(wheel: str) -> bool:
    """Whether a wheel is for this Python: `prepare` fetches them for one version of it."""
    python, abi = wheel.removesuffix(".whl").split("-")[-3:-1]
    return abi in ("none", "abi3") or python == f"cp{sys.version_info[0]}{sys.version_info[1]}"


def environment(more: dict[str, str], dry: bool) -> dict[str, str]:
    """Of the worker and all that it starts."""
    kept = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more}
    if dry:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    else:
        kept["BLIP3O_TEST_DEVICE"] = "cuda"
    return kept
