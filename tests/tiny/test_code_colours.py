"""The colours in which the bundled model's tokens are shown, and the words that it knows."""

import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.tiny.code_colours import bundled_colours
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.edits import instruction, make_edit
from blip3o_core.tiny.scenes.known_words import unknown_words
from blip3o_core.tiny.scenes.world import make_scene
from tools.token_colours import cells, distance


def test_the_mosaic_has_the_colours_of_the_image():
    """Catches colours of another model or in another order. Black to white is 442; measured 16.8."""
    tokenizer = open_checkpoint(BUNDLED).load_image_tokenizer(torch.float32)
    table = bundled_colours()
    assert table.shape == (tokenizer.config.num_codes, 3)
    codes, colours = cells(tokenizer, "held_back", 20)
    assert distance(table, codes, colours) < 30 < distance(table.flip(0), codes, colours)


def test_every_word_of_the_world_is_known():
    """Catches a warning at a prompt that the model was trained on."""
    prompts = [caption(make_scene(3, "train", k), k) for k in range(200)]
    prompts += [instruction(make_edit(3, "train", k), k) for k in range(200)]
    assert not [word for prompt in prompts for word in unknown_words(prompt)]
    assert unknown_words('A photo of a cat, "DOG" and 12 猫') == ["photo", "cat", "12", "猫"]
