"""The colours in which the bundled model's tokens are shown, the words that it knows, and images of its world."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.tiny.code_colours import bundled_colours
from blip3o_core.tiny.recipe.model_config import FIRST_EDITION, SECOND_EDITION, write_tokenizer
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.edits import instruction, make_edit
from blip3o_core.tiny.scenes.flat import is_flat
from blip3o_core.tiny.scenes.known_words import unknown_words
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.textures import TEXTURES
from blip3o_core.tiny.scenes.world import PALETTE, SECOND, Scene, World, make_scene
from tools.token_colours import cells, distance


def test_the_mosaic_has_the_colours_of_the_image():
    """Catches colours of another model or in another order. Black to white is 442; measured 17.6."""
    tokenizer = open_checkpoint(BUNDLED).load_image_tokenizer(torch.float32)
    table = bundled_colours()
    assert table.shape == (tokenizer.config.num_codes, 3)
    codes, colours = cells(tokenizer, "held_back", 20)
    assert distance(table, codes, colours) < 30 < distance(table.flip(0), codes, colours)


@pytest.mark.parametrize(("sizes", "world"), [(FIRST_EDITION, World()), (SECOND_EDITION, SECOND)])
def test_every_word_of_the_world_is_known(sizes, world, tmp_path):
    """Catches a warning at a prompt that the model was trained on, and none at a word of another edition."""
    write_tokenizer(tmp_path, sizes)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    def unknown(prompt: str) -> list[str]:
        return unknown_words(prompt, lambda word: tokenizer.token_to_id(word) is not None)

    prompts = [caption(make_scene(3, "train", k, world), k) for k in range(200)]
    prompts += [instruction(make_edit(3, "train", k, world), k) for k in range(200)]
    assert not [word for prompt in prompts for word in unknown(prompt)]
    assert unknown('A photo of a cat, "DOG" and 12 猫. Please') == ["photo", "cat", "12", "猫", "please"]
    later = ["wide", "striped", "grey"]
    assert unknown("a wide image of a striped circle on grey") == (later if world == World() else [])


def test_images_of_the_world_are_no_photographs():
    """Catches a note that calls a textured image a photograph, and none at a photograph."""
    world = replace(SECOND, textured=1.0)
    for k in range(60):
        assert is_flat(Image.fromarray(rasterize(make_scene(4, "held_back", k, world), 128)))
    grounds = [Scene("", (), ground, texture=texture) for ground in PALETTE for texture in TEXTURES]
    assert all(is_flat(Image.fromarray(rasterize(scene, 128))) for scene in grounds)
    data = pytest.importorskip("skimage.data")
    assert not any(is_flat(Image.fromarray(getattr(data, name)())) for name in ("astronaut", "coffee", "rocket", "cat"))
