"""`make demo`: the pack in a real ComfyUI, with the bundled model and nothing to download."""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from blip3o_core.reports.contact_sheet import make_contact_sheet
from tools.comfyui.client import Client
from tools.comfyui.server import Server
from tools.comfyui.workflow import load_workflow, node_of, to_prompt
from tools.environment import TOP

PROMPTS = (
    "a red circle left of a blue star",
    "a green triangle on a yellow background",
    "a pink square and a cyan cross on a black background",
)
_IMAGE, _LETTERS = 320, 16  # px in the grid


def generate(client: Client, prompts: tuple[str, ...]) -> tuple[list[np.ndarray], list[float]]:
    """Run the text to image sample for each prompt -> images (H, W, 3) uint8, and the seconds that each took."""
    graph = to_prompt(load_workflow("BLIP3o-1-Text-to-Image"), client.object_info())
    images, seconds = [], []
    for prompt in prompts:
        node_of(graph, "BLIP3oTokenGenerator")[1]["prompt"] = prompt
        started = time.monotonic()
        result = client.run(graph, timeout=600)
        seconds.append(time.monotonic() - started)
        if result.status != "success":
            raise SystemExit(f"{result.status}: {result.error.get('exception_message')}")
        with Image.open(io.BytesIO(client.view(**result.images[0]))) as image:
            images.append(np.asarray(image.convert("RGB")))
    return images, seconds


def grid(images: list[np.ndarray]) -> np.ndarray:
    """One row of images, each above its prompt."""
    return make_contact_sheet(images, PROMPTS, len(PROMPTS), _IMAGE, _LETTERS)


def demo(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        images, seconds = generate(client, PROMPTS)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(images)).save(out)
    first, *others = seconds
    each = sum(others) / len(others)
    print(
        f"{os.cpu_count()} CPU cores: {first:.1f} s for the first image, loading included; {each:.1f} s for the others"
    )
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TOP / "output" / "demo.png", help="PNG file to write the images to")
    demo(parser.parse_args().out)


if __name__ == "__main__":
    main()
