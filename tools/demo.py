"""`make demo` and `make serve`: the pack in a real ComfyUI, with the bundled model and nothing to download."""

import argparse
import io
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from blip3o_core.tiny.judge.contact_sheet import make_contact_sheet
from tools.comfyui.client import Client
from tools.comfyui.server import Server
from tools.comfyui.workflow import load_workflow, node_of, to_prompt
from tools.environment import TOP

PROMPTS = (
    "a red circle left of a blue star",
    "a green triangle on a yellow background",
    "a pink square and a cyan cross on a black background",
)
_PICTURE, _LETTERS = 320, 16  # px in the grid


def draw(client: Client, prompts: tuple[str, ...]) -> tuple[list[np.ndarray], list[float]]:
    """Each prompt through workflows/text_to_image.json -> pictures (H, W, 3) uint8, and seconds from asked to saved."""
    graph = to_prompt(load_workflow("text_to_image"), client.object_info())
    pictures, seconds = [], []
    for prompt in prompts:
        node_of(graph, "BLIP3oTokenGenerator")[1]["prompt"] = prompt
        started = time.monotonic()
        result = client.run(graph, timeout=600)
        seconds.append(time.monotonic() - started)
        if result.status != "success":
            raise SystemExit(f"{result.status}: {result.error.get('exception_message')}")
        with Image.open(io.BytesIO(client.view(**result.images[0]))) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return pictures, seconds


def grid(pictures: list[np.ndarray]) -> np.ndarray:
    """One row, each over its prompt."""
    return make_contact_sheet(pictures, PROMPTS, len(PROMPTS), _PICTURE, _LETTERS)


def demo(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        pictures, seconds = draw(client, PROMPTS)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(pictures)).save(out)
    first, *others = seconds
    each = sum(others) / len(others)
    print(
        f"through ComfyUI on {os.cpu_count()} CPU cores: {first:.1f} s with loading the model, then {each:.1f} s each"
    )
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TOP / "output" / "demo.png", help="PNG to write the grid to")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--port", type=int, default=8188)
    arguments = parser.parse_args()
    if not arguments.serve:
        demo(arguments.out)
        return
    with tempfile.TemporaryDirectory() as scratch, suppress(KeyboardInterrupt):
        with Server(Path(scratch), port=arguments.port) as server:
            print(f"ComfyUI with the pack: http://{server.address} (log: {server.log}; Ctrl-C ends it)", flush=True)
            server.process.wait()


if __name__ == "__main__":
    main()
