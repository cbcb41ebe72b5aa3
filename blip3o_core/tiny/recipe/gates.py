"""What the gates of several stages share: held-back scenes, and the share of images that show them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..judge.judge import judge_image
from ..scenes.spec import spec_of
from ..scenes.world import Scene, World
from .quick_world import make_scene


def held_back_scenes(seed: int, count: int, world: World) -> dict[str, list[Scene]]:
    """`count` held-back scenes, the same number of each category."""
    each = range(count // len(world.categories))
    found = {}
    for category in world.categories:
        scenes = [make_scene(seed, "held_back", index, world, category) for index in each]
        found[category] = sorted(scenes, key=lambda scene: scene.canvas)  # images of one shape one after the other
    return found


def accuracy(images: Iterable[np.ndarray], scenes: Sequence[Scene], textures: bool = True) -> float:
    """Share of the images that are right; without `textures` whatever their surfaces are."""
    asked = scenes if textures else [replace(scene, textures_named=False) for scene in scenes]
    right = [judge_image(image, spec_of(scene)).strict for image, scene in zip(images, asked, strict=True)]
    return sum(right) / len(right)


def accuracy_by_category(
    scenes: dict[str, list[Scene]],
    make_images: Callable[[list[Scene]], Iterable[np.ndarray]],
    textures: bool = True,
) -> dict[str, float]:
    """Accuracy of the images that `make_images` makes of each category's scenes, and as "mean" their mean."""
    by_category = {category: accuracy(make_images(group), group, textures) for category, group in scenes.items()}
    return {**by_category, "mean": sum(by_category.values()) / len(by_category)}
