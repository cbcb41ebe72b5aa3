"""`python -m tools.example_images`: writes the folder of example images that the node Curate Images lists.

Scenes of the tiny world on a black background that their captions do not mention, so that a LoRA which learns them has
learnt something that no prompt asks for. Three are not fit to train with: a blurred one, a small one and a copy.
"""

from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageFilter

from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.world import CATEGORIES, World, make_scene
from tools.environment import TOP

FOLDER = TOP / "nodes" / "example_images"
COUNT, SIDE = 24, 256  # good images; pixels
SEED = "night"
BACKGROUND = "black"
WORLD = World(coloured=0.0)
KINDS = [name for name in CATEGORIES if name != "background"]
BLURRED, COPY, SMALL = 25, 26, 27  # numbers of images


def examples() -> dict[str, tuple[Image.Image, str]]:
    """Name -> the image and its caption."""
    scenes = [make_scene(SEED, "train", k, WORLD, KINDS[k % len(KINDS)]) for k in range(SMALL)]
    found = {}
    for number, scene in enumerate(scenes, 1):
        shown = replace(scenes[6] if number == COPY else scene, background=BACKGROUND)
        image = Image.fromarray(rasterize(shown, SIDE // 4 if number == SMALL else SIDE))
        if number == BLURRED:
            image = image.filter(ImageFilter.GaussianBlur(SIDE / 16))
        elif number == COPY:
            image = image.resize((200, 200)).resize((SIDE, SIDE))
        found[f"{number:02d}"] = image, caption(replace(shown, background=scene.background), number)
    return found


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (image, text) in examples().items():
        image.save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    print(FOLDER.relative_to(TOP))
