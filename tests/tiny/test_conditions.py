"""What SANA is taught to draw from: codes, named textures, and what a connector gets wrong of them."""

import torch

from blip3o_core.seeds import seeded
from blip3o_core.tiny.recipe.alignment import Alignment, condition_weights, directions
from blip3o_core.tiny.recipe.model_config import SECOND_EDITION
from blip3o_core.tiny.recipe.oracle_codes import FIRST_OBJECT, batch_codes, first_letter, named_textures, used_codes
from blip3o_core.tiny.recipe.renderer import condition_noise, oracle_conditions
from blip3o_core.tiny.scenes.textures import SOLID, Texture
from blip3o_core.tiny.scenes.world import Scene, SceneObject

SIZES = SECOND_EDITION


def textured(named: bool) -> Scene:
    objects = (
        SceneObject("circle", "red", 32, 32, 20, texture=Texture("dots")),
        SceneObject("star", "blue", 96, 96, 20, texture=SOLID),
    )
    return Scene("position", objects, "green", texture=Texture("grain"), textures_named=named)


def test_every_patch_has_the_texture_that_the_caption_names_there():
    """Catches the ground's texture on an object, one object's on another, and textures that nobody asked for."""
    scene = textured(named=True)
    (codes,), (textures,) = batch_codes([scene], SIZES), named_textures([scene], SIZES)
    ground = codes < FIRST_OBJECT
    upper = torch.arange(64) < 32
    assert textures[ground].unique().tolist() == [5]  # grain, the last kind
    assert textures[~ground & upper].unique().tolist() == [2]  # dots
    assert textures[~ground & ~upper].unique().tolist() == [0]
    assert not named_textures([textured(named=False)], SIZES).any()


def test_a_texture_in_a_condition_hides_no_code():
    """Catches a texture that lies on what tells codes apart, or changes a condition's length, which a norm decides."""
    places = torch.arange(used_codes(SIZES) // 64 * 64).view(-1, 64)
    plain = oracle_conditions(places, sizes=SIZES)
    torch.testing.assert_close(oracle_conditions(places, torch.zeros_like(places), sizes=SIZES), plain)
    for kind in range(1, 6):
        given = oracle_conditions(places, torch.full_like(places, kind), sizes=SIZES)
        torch.testing.assert_close(given.norm(dim=-1), plain.norm(dim=-1))
        rows = given[::20, 1:].flatten(0, 1)
        nearest = torch.cdist(rows, plain[:, 1:].flatten(0, 1)).argmin(1)
        assert torch.equal(nearest, places[::20].flatten())
        others = [oracle_conditions(places[:1], torch.full((1, 64), k), sizes=SIZES) for k in range(6)]
        distances = torch.stack([(given[:1, 1:] - other[:, 1:]).norm(dim=-1).min() for other in others])
        assert distances.argmin() == kind and distances.sort().values[1] > 5


def test_letters_and_objects_weigh_more_than_grounds_in_the_connectors_error():
    """Catches weights of the wrong codes: with one weight for all, every letter became the mean of letters."""
    letter = first_letter(SIZES)
    codes = torch.tensor([0, FIRST_OBJECT - 1, FIRST_OBJECT, letter - 1, letter, used_codes(SIZES) - 1])
    assert condition_weights(codes, torch.zeros_like(codes), SIZES).tolist() == [1, 1, 5, 5, 20, 20]
    assert condition_weights(codes, torch.tensor([0, 1, 2, 0, 0, 0]), SIZES).tolist() == [1, 4, 20, 5, 20, 20]


def test_half_of_the_conditions_are_exact():
    """Catches a renderer that never sees what it is measured with, or only that."""
    error = condition_noise(400, 65, SIZES.cross_width, seeded(0))
    size = error.flatten(1).std(1)
    assert 0.4 < (size == 0).float().mean() < 0.6
    assert 0.5 < size.max() < 0.65 and size[size > 0].min() < 0.1


def test_fixed_directions_ask_for_the_letter_and_the_texture():
    """Catches directions that are asked for other letters, or textures that are asked for where a letter is."""
    letters, ask = first_letter(SIZES), directions(192)
    codes = torch.tensor([[letters, letters + 25 * 8 + 3, FIRST_OBJECT, 5]])
    textures = torch.tensor([[0, 0, 3, 0]])
    told = torch.stack([ask[:, 0], ask[:, 25], ask[:, 26 + 3], ask[:, 26]])[None]
    codes, textures, told = codes.repeat(1, 16), textures.repeat(1, 16), told.repeat(1, 16, 1)
    connector = torch.nn.Linear(192, SIZES.cross_width)

    def loss(states, **weights):
        with torch.no_grad():
            return Alignment(0.0, **weights).loss(connector, states, codes, textures, SIZES).item()

    for weights in ({"letters": 1.0}, {"textures": 1.0}):
        assert loss(told, **weights) < 0.01
        assert loss(told.roll(1, 1), **weights) > 3
    assert loss(told) == 0
    changed = told.clone()
    changed[0, 0::4] = ask[:, 26 + 5]  # of a letter, whose textures nobody asks for
    assert loss(changed, textures=1.0) < 0.01 and loss(changed, letters=1.0) > 1.5  # half of them
