"""Images that were encoded before: one file whose rows train as the images themselves would."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.errors import Blip3oError
from blip3o_core.training.data.collate import IGNORED
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.packed import pack
from tests.support.training_world import World, assert_resumes, assert_same_microbatches, batches, encoder, make_data


@pytest.fixture(scope="module")
def squares(tiny, training_files):
    """The six squares as the checkpoint encodes them: codes, latents, captions."""
    data, cache = training_files
    world = World(tiny, data, cache, data)
    images, items = encoder(world), find_items((str(data),))
    encoded = [item.encode(images) for item in items]
    codes, latents = (torch.stack([getattr(one, name) for one in encoded]) for name in ("codes", "latents"))
    return codes, latents, [item.captions[0] for item in items]


def pack_squares(squares, path, captions=None, dtype=torch.float32):
    codes, latents, own_captions = squares
    pack(path, codes.to(torch.int16), latents.to(dtype), captions or own_captions)
    return path


def test_packed_rows_are_the_images(squares, world, tmp_path):
    """Catches rows of another image or caption, codes or latents that are rounded, and another order or noise."""
    packed = pack_squares(squares, tmp_path / "squares.safetensors")
    files, rows = batches(world, batch=5), batches(world, batch=5, data=str(packed))
    for step in (0, 1, 5):
        assert_same_microbatches(rows.microbatches(step), files.microbatches(step))
    assert [path.name for path in tmp_path.iterdir()] == ["squares.safetensors"]
    one = world.train("files", steps=2)
    other = world.train("packed", steps=2, data=str(packed))
    assert world.log("files") == world.log("packed")
    assert one.name == other.name


def test_packed_rows_and_images_train_together(squares, world, tmp_path):
    """Catches sources that cannot be mixed, and half-precision latents that reach the loss as they lie in the file."""
    packed = pack_squares(squares, tmp_path / "squares.safetensors", [None] * 6, torch.bfloat16)
    plain = make_data(tmp_path / "plain", captions=False)
    mixed = batches(world, batch=18, data=[str(world.data), str(packed), str(plain)])
    [one] = mixed.microbatches(0)
    assert one.batch.latents.dtype == torch.float32 and one.batch.ids.dtype == torch.int64
    order = [mixed.order.index(position) for position in range(18)]
    named = [(labels != IGNORED).any().item() for labels in one.batch.labels]
    assert named == [item < 6 for item in order]
    for place, item in enumerate(order):
        if 6 <= item < 12:
            twin = order.index(item - 6)
            assert (one.batch.latents[place] - one.batch.latents[twin]).abs().max() < 0.02
            assert torch.equal(one.batch.latents[place], one.batch.latents[twin].bfloat16().float())
    [alone] = batches(world, data=str(packed)).microbatches(0)
    assert alone.batch.latents.dtype == torch.float32
    world.train(steps=1, batch=18, data=[str(world.data), str(packed), str(plain)])


def test_a_phrasing_depends_on_the_row_alone(squares, world, tmp_path):
    """Catches one phrasing for ever, and a choice that resuming or dividing the batch otherwise would change."""
    phrasings = [[f"{number} square {k}" for k in range(4)] for number in range(6)]
    packed = pack_squares(squares, tmp_path / "squares.safetensors", phrasings)
    seen, data = {}, str(packed)
    together, divided = batches(world, batch=6, data=data), batches(world, batch=2, accumulation=3, data=data)
    for step in range(8):
        [one] = together.microbatches(step)
        parts = divided.microbatches(step)
        rows = [
            row[keep].tolist()
            for part in parts
            for row, keep in zip(part.batch.ids, part.batch.attention_mask, strict=True)
        ]
        assert rows == [row[keep].tolist() for row, keep in zip(one.batch.ids, one.batch.attention_mask, strict=True)]
        for position, row in enumerate(rows):
            seen.setdefault(together.order.index(6 * step + position), set()).add(tuple(row))
    assert all(len(texts) >= 2 for texts in seen.values())
    assert len(set.union(*seen.values())) > 18
    # The same list in items.jsonl: each image's texts are its own.
    folder = make_data(tmp_path / "data")
    lines = [{"image": f"{k}.png", "caption": texts} for k, texts in enumerate(phrasings)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = batches(world, batch=6, data=str(folder))
    assert_same_microbatches(files.microbatches(1), together.microbatches(1))


def test_a_packed_run_resumes(squares, world, tmp_path):
    """Catches phrasings or rows that depend on where a run was interrupted."""
    phrasings = [[f"{number} square {k}" for k in range(3)] for number in range(6)]
    assert_resumes(world, data=str(pack_squares(squares, tmp_path / "squares.safetensors", phrasings)))


def text(content) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


DAMAGED = {
    "nothing packed": (lambda t: t.pop("codes"), "lacks codes"),
    "codes that are floats": (lambda t: t.update(codes=t["codes"].float()), "codes is 6 x 25 of torch.float32"),
    "latents without channels": (lambda t: t.update(latents=t["latents"][:, 0]), "4 dimensions"),
    "fewer latents": (lambda t: t.update(latents=t["latents"][:5].clone()), "do not match"),
    "fewer captions": (lambda t: t.update(captions=text(["a"] * 5)), "5 captions for 6"),
    "captions that are not a list": (lambda t: t.update(captions=text("a")), "str captions"),
    "captions that are not JSON": (lambda t: t.update(captions=torch.tensor([123], dtype=torch.uint8)), "as JSON"),
    "a caption that is not text": (lambda t: t.update(captions=text(["a"] * 5 + [7])), "row 5: the caption is 7"),
    "codes of another grid": (lambda t: t.update(codes=t["codes"][:, :9].clone()), "9 codes per image.*5 x 5"),
    "codes of another book": (lambda t: t["codes"].fill_(96), "codes are 96 to 96.*has 96"),
    "negative codes": (lambda t: t["codes"].fill_(-1), "codes are -1"),
    "latents of another size": (lambda t: t.update(latents=t["latents"][..., :4].clone()), "8 x 8 x 4.*8 x 8 x 8"),
}


@pytest.mark.parametrize("damage, shown", DAMAGED.values(), ids=DAMAGED)
def test_a_packed_file_that_does_not_fit_is_refused(damage, shown, squares, world, tmp_path):
    """Catches a traceback hours into a run, or training on codes that mean something else: the message names it."""
    packed = pack_squares(squares, tmp_path / "squares.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(packed).items()}
    damage(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, packed)
    with pytest.raises(Blip3oError, match=f"squares.safetensors.*{shown}"):
        world.train(data=str(packed))
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_packed_leaves_the_file_alone(squares, world, tmp_path):
    """Catches a good file overwritten by a broken or half-written one, and a file that is not safetensors at all."""
    packed = pack_squares(squares, tmp_path / "squares.safetensors")
    before = packed.read_bytes()
    with pytest.raises(Blip3oError, match="1 captions for 6"):
        pack_squares(squares, packed, ["a"])
    assert packed.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    packed.write_bytes(before[:1000])
    with pytest.raises(Blip3oError, match="squares.safetensors"):
        world.train(data=str(packed))
