"""What an edition changes in the recipe: the world of every stage, and how long stages train.

The first edition's settings stand in the stages' own modules. The second has more to learn: textures and oblong images
for the autoencoder, letters for the image tokenizer, and words, shapes and compositions for the language model.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..scenes.world import SECOND, TEXT, World

EDITIONS = (1, 2)
# Of FitSettings, by stage of the second edition
CHANGES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "autoencoder": {"steps": 3400, "batch": 24},
        "image_tokenizer": {"steps": 2600},
        "renderer": {"steps": 11900},
        "connector": {"steps": 600},
    }
)
# A gate's minimum where the second edition has another: the stage `decoder` trains its autoencoder on.
MINIMA: Mapping[str, float] = MappingProxyType({"autoencoder": 0.9})
WORDS = 0.25  # share of scenes with words


def world_of(world: World, edition: int, words: float = WORDS) -> World:
    """The first edition's world of a stage -> that of this edition, with the same shares of categories and colours."""
    if edition == 1:
        return world
    total = sum(weight for _, weight in world.weights)
    weights = (*world.weights, (TEXT, total * words / (1 - words)))
    return replace(
        world, weights=weights, textured=SECOND.textured, oblong=SECOND.oblong, lettered=True, low_contrast=False
    )
