"""What the trainer sees of images and captions: their order, codes and latents, and what is cached."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.images import reader
from blip3o_core.models import autoencoder
from blip3o_core.training.data.collate import IGNORED
from blip3o_core.training.data.image_source import ImageSource
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.latent_cache import ImageEncoder
from blip3o_core.training.data.order import ShuffledOrder
from tests.support.training_world import assert_same_microbatches, batches, encoder, make_data, make_shard


def test_cached_images_give_the_same_batches(world, tmp_path, monkeypatch):
    """Catches a cache that rounds, mixes images up, or is not used: the second time nothing may be encoded."""
    cache = tmp_path / "cache"
    fresh = [batches(world, cache, batch=6).microbatches(step) for step in (0, 1)]
    assert len(list(cache.rglob("*.safetensors"))) == 6
    monkeypatch.setattr(ImageEncoder, "_encode", None)
    for step in (0, 1):
        assert_same_microbatches(batches(world, cache, batch=6).microbatches(step), fresh[step])


def test_what_is_cached_is_known_by_its_content(world, tmp_path):
    """Catches codes of another image, fit, size or encoder: all that decides them must be in the key."""
    cache, data = tmp_path / "cache", shutil.copytree(world.data, tmp_path / "data")

    def count(images) -> int:
        images.encode(find_items((str(data),))[0].image)
        return len(list(cache.rglob("*.safetensors")))

    assert [count(encoder(world, cache)) for _ in range(2)] == [1, 1]
    assert count(encoder(world, cache, side=32)) == 2
    assert count(encoder(world, cache, fit="stretch")) == 3
    shutil.copyfile(data / "3.png", data / "0.png")
    assert count(encoder(world, cache)) == 4
    from tests.support.tiny_checkpoint import make_checkpoint

    world.checkpoint = make_checkpoint(tmp_path / "other" / "model", seed=1)
    assert count(encoder(world, cache)) == 5
    # A later stage of training leaves the encoders alone, and finds the images encoded.
    world.checkpoint = world.train("later", steps=1, cache=str(tmp_path / "unused"), train={"connector": 1.0})
    assert count(encoder(world, cache)) == 5


def test_a_damaged_entry_is_made_again(world, tmp_path):
    """Catches a run that stops, or trains on rubbish, because a disk was full when an image was cached."""
    item, cache = find_items((str(world.data),))[0].image, tmp_path / "cache"
    codes, latents = encoder(world, cache).encode(item)
    [entry] = cache.rglob("*.safetensors")
    for content in (entry.read_bytes()[:50], b"", entry.read_bytes()[:-4]):
        entry.write_bytes(content)
        again = encoder(world, cache).encode(item)
        assert torch.equal(again[0], codes) and torch.equal(again[1], latents)


def test_codes_and_latents_are_those_of_the_two_encoders(world, checkpoint, tmp_path):
    """Catches swapped axes, a wrong value range, and latents that lack the scale the diffusion works on."""
    codes, latents = encoder(world, tmp_path / "cache").encode(find_items((str(world.data),))[2].image)
    with Image.open(world.data / "2.png") as image:
        middle = image.crop((8, 0, 72, 64))
        seen = torch.tensor(np.array(middle.resize((76, 76), Image.Resampling.BICUBIC)))
        whole = torch.tensor(np.array(middle))[None] / 255
    tokenizer, vae = checkpoint.load_image_tokenizer(), checkpoint.load_autoencoder()
    with torch.no_grad():
        expected = tokenizer.codes(tokenizer.features((seen.movedim(-1, 0)[None] / 255 - 0.5) / 0.5))[0]
    assert torch.equal(codes, expected)
    assert (latents - 0.5 * autoencoder.encode(vae, whole)[0]).abs().max() < 1e-4


def test_training_reads_files_as_edits_do(world, tmp_path):
    """Catches a second reader: greys of 16 bits that turn white, colours of another profile, images on their side."""
    pixels = np.asarray(Image.open(world.data / "2.png").convert("L"))
    Image.fromarray(pixels).save(tmp_path / "8.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.dstack([pixels * 0, 255 - pixels])).save(tmp_path / "clear.png")
    images = encoder(world, tmp_path / "cache")
    expected = images.encode(ImageSource(tmp_path / "8.png", "8.png"))
    for name in ("16.png", "turned.png", "clear.png"):
        found = images.encode(ImageSource(tmp_path / name, name))
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]), name


def test_what_an_older_reader_gave_is_not_used(world, tmp_path, monkeypatch):
    """Catches codes that outlive the mistake that made them, in a cache that knows only the files' bytes."""
    item, cache = find_items((str(world.data),))[0].image, tmp_path / "cache"
    encoder(world, cache).encode(item)
    monkeypatch.setattr(reader, "VERSION", reader.VERSION + 1)
    encoder(world, cache).encode(item)
    assert len(list(cache.rglob("*.safetensors"))) == 2


def contents(items) -> list:
    return [(item.captions, item.image.read()) for item in items]


def test_a_shard_holds_the_same_items_as_a_folder(world, tmp_path):
    """Catches members read at the wrong place, captions of another image, and a folder of shards that is not seen."""
    make_shard(world.data, tmp_path / "squares-000.tar")
    folder = find_items((str(world.data),))
    for source in (tmp_path / "squares-000.tar", tmp_path):
        items = find_items((str(source),))
        assert contents(items) == contents(folder)
    both = find_items((str(world.data), str(tmp_path)))
    assert [item.captions for item in both] == 2 * [item.captions for item in folder]


def test_every_epoch_shows_everything_once_in_a_new_order():
    """Catches images left out or shown twice, and an order that depends on where a run was resumed."""
    order = ShuffledOrder(50, seed=3)
    shown = [order.index(position) for position in range(150)]
    epochs = [shown[:50], shown[50:100], shown[100:]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert [ShuffledOrder(50, seed=3).index(position) for position in (149, 7)] == [shown[149], shown[7]]
    assert [ShuffledOrder(50, seed=4).index(position) for position in range(50)] != epochs[0]


def test_images_without_captions_are_reconstructed(world, tmp_path):
    """Catches a language model that learns to write images nobody described, and NaN where nothing is labelled."""
    plain = make_data(tmp_path / "plain", captions=False)
    world.train(steps=2, data=str(plain), train={"connector": 1e-3, "language": 1e-3})
    assert [entry["tokens"] for entry in world.log()] == [0, 0]
    assert all(entry["diffusion"] > 0 and entry["gradient_norm"] > 0 for entry in world.log())
    mixed = batches(world, batch=12, data=[str(world.data), str(plain)])
    [one] = mixed.microbatches(0)
    items = [mixed.items[mixed.order.index(position)] for position in range(12)]
    for item, labels in zip(items, one.batch.labels, strict=True):
        assert (labels != IGNORED).any() == bool(item.captions)


BROKEN = {
    "no JSON": ("a red square", "line 1"),
    "no image named": ('{"caption": "a"}', "line 1"),
    "absent image": ('{"image": "absent.png", "caption": "a"}', "absent.png"),
    "caption no text": ('{"image": "0.png", "caption": 3}', "caption is 3"),
    "no lines": ("\n", "contains no images"),
}


@pytest.mark.parametrize("text, shown", BROKEN.values(), ids=BROKEN)
def test_broken_lists_are_refused(text, shown, world, tmp_path):
    """Catches a traceback, or an item that is left out in silence; the message says which line."""
    shutil.copyfile(world.data / "0.png", tmp_path / "0.png")
    (tmp_path / "items.jsonl").write_text(text)
    with pytest.raises(Blip3oError, match=shown):
        find_items((str(tmp_path),))


def test_broken_files_are_refused(world, tmp_path):
    """Catches tracebacks for files that cannot be read as a shard or an image, and for an impossible size."""
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(Blip3oError, match="a.tar"):
        find_items((str(tmp_path / "a.tar"),))
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "items.jsonl").write_text(json.dumps({"image": "0.png", "caption": "a"}))
    [item] = find_items((str(tmp_path),))
    with pytest.raises(Blip3oError, match="0.png"):
        encoder(world).encode(item.image)
    with pytest.raises(Blip3oError, match="65x65"):
        encoder(world, side=65)
