"""`make images`: writes README's nine images and those of docs/gallery.md to docs/images, and prints their sizes."""

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.pipeline import Pipeline
from tools.environment import TOP
from tools.images.gallery import GALLERY
from tools.images.hero import write_hero
from tools.images.maker import Maker
from tools.images.nine import nine
from tools.images.page import save

IMAGES = TOP / "docs" / "images"


def main() -> None:
    maker = Maker(Pipeline.load(BUNDLED))
    IMAGES.mkdir(parents=True, exist_ok=True)
    save(nine(maker), IMAGES / "nine.webp")
    write_hero(maker, IMAGES / "hero.webp")
    for name, make in GALLERY.items():
        save(make(maker), IMAGES / f"gallery_{name}.webp")
    for file in sorted(IMAGES.glob("*.webp")):
        print(f"docs/images/{file.name}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
