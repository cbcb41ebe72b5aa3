"""What the refining of the decoder looks at: objects and letters, which are a small part of every image."""

import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.seeds import seeded
from blip3o_core.tiny.recipe import autoencoder
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.tiny.recipe.worlds import whole
from blip3o_core.tiny.scenes.textures import Texture
from blip3o_core.tiny.scenes.world import Scene, SceneObject, lettered_word


def test_objects_and_letters_are_found_on_a_ground_with_texture():
    """Catches a ground that counts as an object because of its texture, and letters that count as ground."""
    ground = Texture("stripes", 0)
    circle = Scene("single_object", (SceneObject("circle", "red", 64, 64, 20, ground),), "blue", texture=ground)
    word = Scene("text", (), "grey", word=lettered_word("SUN", "yellow", 2, 2), texture=ground)
    for scene in (circle, word):
        found = autoencoder._of_objects([scene], autoencoder.drawn([scene], 128), 128)
        left, top, right, bottom = (scene.word or scene.objects[0]).box
        rows, columns = torch.where(found[0, 0])
        assert found.shape == (1, 1, 128, 128) and not found[0, 0, :8].any()
        assert left - 1 <= int(columns.min()) and int(columns.max()) <= right
        assert top - 1 <= int(rows.min()) and int(rows.max()) <= bottom
        assert 0.1 < len(rows) / ((right - left) * (bottom - top)) < 0.9


def test_an_error_at_an_object_counts_more_while_the_decoder_is_refined(tmp_path, monkeypatch):
    """Catches weights that are not passed on, and weights that are those of other pixels."""
    true = torch.zeros(1, 3, 16, 16)
    objects = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    objects[..., :4, :4] = True
    at_object, at_ground = true.clone(), true.clone()
    at_object[..., 1, 1] = at_ground[..., 10, 10] = 0.5
    places = 1 + 3.0 * objects
    loss = autoencoder.image_loss
    assert torch.allclose(loss(at_object, true), loss(at_ground, true))
    assert torch.allclose(loss(at_object, true, places), 4 * loss(at_ground, true, places))

    seen = []
    monkeypatch.setattr(autoencoder, "image_loss", lambda made, true, places: seen.append(places) or loss(made, true))
    monkeypatch.setattr(autoencoder, "fit", lambda network, make_data, loss, *_: loss(make_data(seeded(1))))
    recipe = Recipe(tmp_path, print)
    network = open_checkpoint(recipe.start_checkpoint().folder).load_autoencoder(torch.float32)
    settings = autoencoder.REFINED.replace(batch=3)
    autoencoder.refine_decoder(network, tmp_path, settings, None, whole(autoencoder.WORLD))
    assert seen and all(sorted(places.unique().tolist()) == [1, 4] for places in seen)
