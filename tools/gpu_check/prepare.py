"""Fills a folder of the checkout with what a machine with a card and no network lacks. Needs a network, no card.

It is taken to have Python 3.12, torch for CUDA with its Triton, transformers, accelerate, pytest, and most of what
ComfyUI asks for; the packages here are what was missing on one. Pure Python stands in for large binaries.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tools.environment import comfyui

from .unpack import COMFYUI, KERNELS, STUBS, TOP, WHEELS

LIMIT = 64 * 2**20  # bytes, of the checkout and the folder together
PYTHON, TRITON = "3.12", "3.6.0"  # of the machine
LIBRARY = ("diffusers==0.42.1", "importlib_metadata==10.2.0")
HOST = (
    "comfy-aimdo==0.4.11", "blake3==1.0.11", "pydantic==2.14.4", "pydantic_core==2.50.5", "annotated_types==0.8.0",
    "typing_inspection==0.4.5", "typing_extensions==4.16.0", "alembic==1.20.1", "mako==1.4.3", "torchsde==0.2.6",
    "trampoline==0.1.2", "simpleeval==1.0.8", "websocket_client==1.9.2", "pydantic_settings==2.16.3",
    "python_dotenv==1.2.4", "spandrel==0.4.2",
)  # fmt: skip
HOST_PURE = ("comfy-kitchen==0.2.26", "sqlalchemy==2.1.9")  # 2 MB where the binaries are 50
HOST_STUBS = ("av", "kornia")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64", "any"]
# Of ComfyUI: what a server for this pack never opens.
LEFT_OUT = {
    "blueprints", "tests", "tests-unit", "comfy_api_nodes", "script_examples", "models", "input", "output",
    "custom_nodes", "user", "temp", ".git", ".github", ".ci",
}  # fmt: skip
COMMAND = 'set -o pipefail; python3 -m tools.gpu_check run --out "$OUT" --budget 540 2>&1 | tee "$OUT/log.txt"'


def prepare(folder: Path, with_comfyui: bool, with_kernels: bool, capability: str) -> int:
    """Exit status: 0 when everything was made and fits."""
    kept = _kernels_stamp(capability)
    for name in (WHEELS, STUBS):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / COMFYUI).unlink(missing_ok=True)
    (folder / WHEELS).mkdir(parents=True)
    print("packages", flush=True)
    _download(folder / WHEELS, LIBRARY)
    if with_comfyui:
        _download(folder / WHEELS, HOST)
        _download(folder / WHEELS, HOST_PURE, "py")
        for name in HOST_STUBS:
            (folder / STUBS / name).mkdir(parents=True)
            shutil.copy(Path(__file__).with_name("stub.py"), folder / STUBS / name / "__init__.py")
        print("ComfyUI", flush=True)
        pack_comfyui(comfyui(), folder / COMFYUI)
    stamp = folder / "kernels.stamp"
    if not with_kernels:
        (folder / KERNELS).unlink(missing_ok=True)
        stamp.unlink(missing_ok=True)
    elif not (folder / KERNELS).is_file() or not stamp.is_file() or stamp.read_text() != kept:
        print(f"kernels for compute capability {capability} (minutes)", flush=True)
        _compile_kernels(folder / KERNELS, capability)
        stamp.write_text(kept)
    return _say(folder)


def _download(folder: Path, requirements: tuple[str, ...], implementation: str = "cp") -> None:
    """Wheels for the machine's Python; `implementation`: "cp", or "py" for pure Python where there is a choice."""
    abis = ["cp" + PYTHON.replace(".", ""), "abi3", "none"] if implementation == "cp" else ["none"]
    command = [
        sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--python-version", PYTHON, "--implementation", implementation, "--dest", str(folder),
    ]  # fmt: skip
    for option, values in (("--abi", abis), ("--platform", PLATFORMS)):
        command += [word for value in values for word in (option, value)]
    subprocess.run([*command, *requirements], check=True)


def pack_comfyui(source: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(source.rglob("*")):
            parts = path.relative_to(source).parts
            if path.is_file() and parts[0] not in LEFT_OUT and "__pycache__" not in parts and not _words(parts):
                archive.write(path, path.relative_to(source))


def _words(parts: tuple[str, ...]) -> bool:
    """Whether a file belongs to the tokenizer of another model."""
    if parts[:2] == ("comfy", "sd1_tokenizer"):
        return True
    return parts[:2] == ("comfy", "text_encoders") and any(part.endswith("_tokenizer") for part in parts[2:-1])


def _kernels_stamp(capability: str) -> str:
    """What the compiled kernels depend on."""
    files = [*(TOP / "blip3o_core/decoding/fused").glob("*.py"), *Path(__file__).parent.glob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(files))
    return hashlib.sha256(f"{TRITON} {capability} {text}".encode()).hexdigest()


def _compile_kernels(target: Path, capability: str) -> None:
    """With the machine's Triton, which is kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    triton = cache / "comfyui-blip3o-next" / f"triton-{TRITON}"
    if not (triton / "triton" / "__init__.py").is_file():
        install = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "--target", str(triton), f"triton=={TRITON}"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tools.gpu_check.kernels", folder, "--capability", capability]
        environment = {**os.environ, "PYTHONPATH": str(triton)}
        environment.pop("TRITON_INTERPRET", None)
        subprocess.run(command, cwd=TOP, env=environment, check=True)
        pack_kernels(Path(folder), target)


def pack_kernels(cache: Path, target: Path) -> None:
    """What Triton reads of its cache: not the texts on the way."""
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(cache.glob("*/*")):
            if path.suffix in (".cubin", ".json"):
                archive.add(path, path.relative_to(cache))


def _say(folder: Path) -> int:
    """Sizes and the command; exit status."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=TOP, check=True, capture_output=True).stdout.decode().split("\0")
    tree = sum((TOP / name).stat().st_size for name in names if name and (TOP / name).is_file())
    parts = {path.name: _size(path) for path in sorted(folder.iterdir())}
    for name, size in {"checkout": tree, **parts}.items():
        print(f"{size / 1e6:8.1f} MB  {name}")
    total = tree + sum(parts.values())
    print(f"{total / 1e6:8.1f} MB  of {LIMIT / 1e6:.1f}")
    if total > LIMIT:
        print("This is too much. Remove new files, or use --no-comfyui or --no-kernels.", file=sys.stderr)
        return 1
    print(f"\nOn the machine with the card, in a copy of this checkout with {folder.name}/ in it:\n\n{COMMAND}")
    return 0


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())
