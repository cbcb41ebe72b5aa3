"""Images that keep their aspect in training: what the encoders see of them, and which rows share a forward pass."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.models import autoencoder
from blip3o_core.training.data import latent_cache
from blip3o_core.training.data.batches import Batches
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.latent_cache import ImageEncoder
from blip3o_core.training.data.order import ShuffledOrder
from blip3o_core.training.data.packed import pack
from tests.support.training_world import (
    assert_resumes,
    assert_same_microbatches,
    assert_same_run,
    batches,
    encoder,
    make_shards,
)

SIZES = [
    (64, 64),
    (128, 32),
    (64, 64),
    (32, 128),
    (128, 32),
    (96, 96),
]


def make_images(folder, sizes=SIZES, references=None):
    """Noise of these sizes in pixels; with `references`, sizes too, each is an edit of a second image."""
    folder.mkdir()
    noise, lines = np.random.default_rng(0), []
    for k, (width, height) in enumerate(sizes):
        lines.append({"image": f"{k}.png", "caption": f"image {k}" + " and more" * k})
        _save(folder / f"{k}.png", noise, width, height)
        if references:
            _save(folder / f"before{k}.png", noise, *references[k])
            lines[-1] = {"image": f"{k}.png", "images": [f"before{k}.png"], "instruction": f"change {k}"}
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def _save(path, noise, width, height):
    Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def test_latents_are_of_the_whole_image_and_codes_of_it_stretched(world, checkpoint, tmp_path):
    """Catches an image that is cut or squeezed for the latents, and codes of another part of it than the latents."""
    data = make_images(tmp_path / "data", [(128, 32), (64, 64), (1200, 64)])
    images = encoder(world, tmp_path / "cache", fit="keep")
    wide, square, long = (images.encode(item.image) for item in find_items((str(data),)))
    assert [tuple(one[1].shape[1:]) for one in (wide, square)] == [(4, 16), (8, 8)]
    crop = encoder(world, tmp_path / "crop").encode(find_items((str(data),))[1].image)
    assert torch.equal(square[0], crop[0]) and torch.equal(square[1], crop[1])
    tokenizer, vae = checkpoint.load_image_tokenizer(), checkpoint.load_autoencoder()
    with Image.open(data / "0.png") as image:
        seen = torch.tensor(np.array(image.resize((76, 76), Image.Resampling.BICUBIC)))
        whole = torch.tensor(np.array(image))[None] / 255
    with torch.no_grad():
        expected = tokenizer.codes(tokenizer.features((seen.movedim(-1, 0)[None] / 255 - 0.5) / 0.5))[0]
        assert (wide[1] - 0.5 * autoencoder.encode(vae, whole)[0]).abs().max() < 1e-4
    assert torch.equal(wide[0], expected)
    # Beyond 8:1 both see the middle.
    with Image.open(data / "2.png") as image:
        image.crop((344, 0, 856, 64)).save(data / "2.png")
    middle = images.encode(find_items((str(data),))[2].image)
    assert torch.equal(long[0], middle[0]) and torch.equal(long[1], middle[1])


def test_what_is_cached_keeps_its_shape(world, tmp_path, monkeypatch):
    """Catches an entry of another fit, and oblong images that are encoded again in every epoch."""
    data, cache = make_images(tmp_path / "data"), tmp_path / "cache"
    fresh = batches(world, cache, data=str(data), fit="keep", batch=6).microbatches(0)
    count = len(list(cache.rglob("*.safetensors")))
    batches(world, cache, data=str(data), fit="stretch", batch=6).microbatches(0)
    assert len(list(cache.rglob("*.safetensors"))) == 2 * count
    monkeypatch.setattr(ImageEncoder, "_encode", None)
    assert_same_microbatches(batches(world, cache, data=str(data), fit="keep", batch=6).microbatches(0), fresh)


def test_rows_of_one_pass_have_one_shape(world, tmp_path):
    """Catches rows that are lost or used twice, noise of another shape, and passes that are no larger than one row."""
    data = make_images(tmp_path / "data")
    loader = batches(world, data=str(data), fit="keep", batch=3, accumulation=2)
    passes = loader.microbatches(0)
    shapes = [tuple(one.batch.latents.shape[2:]) for one in passes]
    assert sorted(zip(shapes, (len(one.batch.ids) for one in passes), strict=True)) == [
        ((4, 16), 2), ((8, 8), 3), ((16, 4), 1)
    ]  # fmt: skip
    assert all(one.noising.noise.shape == one.batch.latents.shape for one in passes)
    lengths = sorted(int(length) for one in passes for length in one.batch.attention_mask.sum(1))
    assert len(set(lengths)) == 6
    # Rows of one shape are divided as they always were.
    square = batches(world, batch=2, accumulation=3).microbatches(1)
    whole = batches(world, batch=6).microbatches(1)[0]
    assert torch.equal(torch.cat([one.batch.latents for one in square]), whole.batch.latents)


def test_shards_give_the_rows_of_the_files(world, tmp_path):
    """Catches a shape that is known only of images that have a file of their own."""
    data = make_images(tmp_path / "data")
    shards = make_shards(data, tmp_path / "shards")
    one, other = (batches(world, data=str(path), fit="keep", batch=6) for path in (data, shards))
    other.order = ShuffledOrder(6, 0)
    assert_same_microbatches(one.microbatches(0), other.microbatches(0))


@pytest.mark.slow
def test_a_step_is_the_mean_over_rows_and_resumes(world, tmp_path):
    """Catches a shape that weighs by its number of passes, and a resumed run whose rows are divided otherwise."""
    data = make_images(tmp_path / "data")
    settings = {"data": str(data), "fit": "keep", "cache": str(tmp_path / "cache")}
    assert_resumes(world, batch=6, **settings)
    whole, parts = world.train("whole", batch=6, **settings), world.train("parts", batch=2, accumulation=3, **settings)
    assert_same_run(whole, parts)


def test_what_cannot_be_trained_is_refused(world, tmp_path):
    """Catches processes that wait for each other for ever, and references that are squeezed without a word."""
    config = world.config(fit="keep")
    images = encoder(world, fit="keep")
    items = find_items(config.paths)
    with pytest.raises(Blip3oError, match="train in one process"):
        Batches(config, items, images.checkpoint.prompt_encoder, images, 0, 2)
    sizes = [(64, 64), (32, 128)]
    data = make_images(tmp_path / "edits", sizes, sizes[::-1])
    with pytest.raises(Blip3oError, match=r"its reference .*before\d.png of [0-9]+ x [0-9]+"):
        batches(world, data=str(data), fit="keep", batch=2).microbatches(0)
    shutil.rmtree(data)
    make_images(data, sizes, sizes)
    passes = batches(world, data=str(data), fit="keep", batch=2).microbatches(0)
    assert all(one.batch.references.shape[2:] == one.batch.latents.shape[1:] for one in passes)


def test_packed_files_of_several_shapes_train_together(world, tmp_path):
    """Catches latents of several shapes in one pass, and processes that run different numbers of passes."""
    images, paths = encoder(world), [str(tmp_path / f"{name}.safetensors") for name in ("square", "wide")]
    codes = torch.zeros(3, len(images.encode(find_items((str(world.data),))[0].image)[0]), dtype=torch.int64)
    for path, shape in zip(paths, (images.shape, (images.shape[0], 4, 16)), strict=True):
        pack(path, codes, torch.zeros(3, *shape), ["a", "b", "c"])
    passes = batches(world, data=paths, batch=6).microbatches(0)
    assert sorted(tuple(one.batch.latents.shape[2:]) for one in passes) == [(4, 16), (8, 8)]
    config = world.config(data=paths, batch=6)
    with pytest.raises(Blip3oError, match="several shapes"):
        Batches(config, find_items(paths), images.checkpoint.prompt_encoder, images, 0, 2)


def test_images_need_no_cache(world, tmp_path, monkeypatch):
    """Catches files that nobody asked for, images that take each other's codes, and a cache that is named in vain."""
    kept = batches(world, tmp_path / "cache", batch=6).microbatches(0)
    loader = batches(world, batch=6)
    loader.images = encoder(world, fit="crop")
    loader.images.folder = None
    monkeypatch.setattr(latent_cache, "_AT_ONCE", 4 * 64 * 64)
    [one], [other] = loader.microbatches(0), kept
    assert torch.equal(one.batch.ids, other.batch.ids)
    assert (one.batch.latents - other.batch.latents).abs().max() < 1e-4
    with pytest.raises(Blip3oError, match="cache_images is false"):
        world.config(cache_images=False)
    out = world.train("run", steps=1, cache=None, cache_images=False).parent
    assert not (out / "cache").exists()
