"""`make serve`: ComfyUI with this pack, for a person. What is made there stays, and the next start finds it."""

import argparse
import json
import os
import webbrowser
from pathlib import Path

import torch

from tools.comfyui.server import ON_CPU, PACK_FOLDER, Server
from tools.environment import TOP

SAMPLE = "BLIP3o-1-Text-to-Image"
MODELS = "blip3o"  # the folder of this pack's checkpoints in a folder of models


def extra_models(base: Path, models: Path) -> Path:
    """A file for ComfyUI that puts `models`, laid out as its own folder of models, in front of `base/models`."""
    names = sorted({MODELS, *(path.name for path in models.iterdir() if path.is_dir())})
    section = {"base_path": str(models), "is_default": True, **{name: name for name in names}}
    file = base / "extra_model_paths.yaml"
    file.write_text(json.dumps({"models": section}, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
    return file


def prepared(base: Path, models: Path | None, port: int) -> Server:
    """The server, not started yet. SystemExit, in one sentence, for a folder or a port that cannot be used."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        (models or base / "models" / MODELS).mkdir(parents=models is None, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"Cannot use the folder {error.filename}: {error.strerror}. Name another one.") from None
    arguments = ("--extra-model-paths-config", str(extra_models(base, models))) if models else ()
    try:
        return Server(base, port=port, arguments=arguments, on_cpu=ON_CPU and not torch.cuda.is_available())
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "ports end at 65535"
        raise SystemExit(
            f"Cannot use port {port} ({reason}): stop what runs there, or choose another port, as in "
            "`make serve PORT=8189`."
        ) from None


def sample_url(address: str) -> str:
    """Where ComfyUI's page opens with the text to image sample."""
    return f"http://{address}/?template={SAMPLE}&source={PACK_FOLDER}"


def has_display() -> bool:
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def serve(server: Server, models: Path, browser: bool) -> None:
    """Until Ctrl-C, or until ComfyUI ends by itself."""
    with server:
        sample = sample_url(server.address)
        print(
            f"ComfyUI runs. Press Ctrl-C to stop it: your images and workflows stay in {server.base}.\n"
            f"  text to image  {sample}\n"
            f"  address        http://{server.address}\n"
            f"  images         {server.base / 'output'}\n"
            f"  models         {models / MODELS}\n"
            f"  log            {server.log}",
            flush=True,
        )
        if browser:
            webbrowser.open(sample)
        status = server.process.wait()
    raise SystemExit(f"ComfyUI ended by itself with status {status}. {server.log} says why.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.serve", description=__doc__)
    parser.add_argument("--base", type=Path, default=TOP / "comfy", help="folder that keeps everything (%(default)s)")
    parser.add_argument("--models", type=Path, help="a ComfyUI models folder; checkpoints lie in its folder blip3o")
    parser.add_argument("--port", type=int, default=8188, help="default: %(default)s")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="do not open a browser")
    arguments = parser.parse_args()
    base = arguments.base.expanduser().resolve()
    models = arguments.models.expanduser().resolve() if arguments.models else None
    if models and not models.is_dir():
        raise SystemExit(f"There is no folder of models at {models}: name one that is there, or leave the option out.")
    try:
        serve(prepared(base, models, arguments.port), models or base / "models", arguments.browser and has_display())
    except KeyboardInterrupt:
        print(f"\nComfyUI has stopped. Your images are in {base / 'output'}.")
    except RuntimeError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
