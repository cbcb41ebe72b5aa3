"""`make demo`: the pack in a real ComfyUI, with the bundled model and nothing to download."""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tools.comfyui.client import Client
from tools.comfyui.server import Server
from tools.environment import TOP
from tools.images.nine import NINE, Cell, page, wrong
from tools.samples.parts import Sample, add_chain, encode, load


def graph(cells: Sequence[Cell]) -> tuple[dict, list[str]]:
    """One graph for all cells in API format, and the ids of the nodes that save their images."""
    sample = Sample("Demo")
    loader, decoded, saved = load(sample), [], []
    for cell in cells:
        sources = [decoded[number - 1] for number in cell.sources]
        chain = add_chain(sample, loader, cell.words, encode(sample, loader, *sources) if sources else None)
        sample.prompt[chain.generator]["inputs"]["seed"] = cell.seed
        sample.prompt[chain.sampler]["inputs"]["noise_seed"] = cell.seed
        decoded.append(chain.decode)
        saved.append(sample.add("SaveImage", images=[chain.decode, 0], filename_prefix="demo"))
    return sample.prompt, saved


def generate(client: Client, cells: Sequence[Cell] = NINE) -> tuple[list[np.ndarray], list[float]]:
    """Make the images one by one -> (H, W, 3) uint8 of each, and the seconds that each took."""
    whole, saved = graph(cells)
    images, seconds = [], []
    for own in saved:
        asked = {id: part for id, part in whole.items() if id == own or id not in saved}
        started = time.monotonic()
        result = client.run(asked, timeout=600)
        seconds.append(time.monotonic() - started)
        if result.status != "success":
            raise SystemExit(f"{result.status}: {result.error.get('exception_message')}")
        with Image.open(io.BytesIO(client.view(**result.images[0]))) as image:
            images.append(np.asarray(image.convert("RGB")))
    return images, seconds


def demo(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        images, seconds = generate(client)
    out.parent.mkdir(parents=True, exist_ok=True)
    page(images).save(out)
    first, *others = seconds
    each = sum(others) / len(others)
    print(
        f"{os.cpu_count()} CPU cores: {first:.1f} s for the first image, loading included; {each:.1f} s for the others"
    )
    faults = wrong(images)
    print(f"{len(images) - len(faults)} of {len(images)} are what their words say, as the judge of their world sees it")
    for words, reasons in faults.items():
        print(f"  {words}: {'; '.join(reasons)}")
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TOP / "output" / "demo.png", help="PNG file to write the images to")
    demo(parser.parse_args().out)


if __name__ == "__main__":
    main()
