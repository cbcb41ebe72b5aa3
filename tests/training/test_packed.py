"""Pictures that were encoded before: one file whose rows train as the pictures themselves would."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.errors import Blip3oError
from blip3o_core.training.data.collate import IGNORED
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.packed import pack
from tests.support.training_world import assert_same_microbatches, batches, encoder, make_data


def pack_squares(world, path, captions=None, dtype=torch.float32):
    """The six squares, encoded by the checkpoint."""
    items = find_items((str(world.data),))
    encoded = [item.encode(encoder(world)) for item in items]
    captions = captions or [item.captions[0] for item in items]
    codes, latents = (torch.stack([getattr(one, name) for one in encoded]) for name in ("codes", "latents"))
    pack(path, codes.to(torch.int16), latents.to(dtype), captions)
    return path


def test_packed_rows_are_the_pictures(world, tmp_path):
    """Catches rows of another picture or caption, codes or latents that are rounded, and another order or noise."""
    packed = pack_squares(world, tmp_path / "squares.safetensors")
    for step in (0, 1, 5):
        files = batches(world, batch=5).microbatches(step)
        assert_same_microbatches(batches(world, batch=5, data=str(packed)).microbatches(step), files)
    assert [path.name for path in tmp_path.iterdir()] == ["squares.safetensors"]
    one = world.train("files", steps=2)
    other = world.train("packed", steps=2, data=str(packed))
    assert world.log("files") == world.log("packed")
    assert one.name == other.name


def test_packed_rows_and_pictures_train_together(world, tmp_path):
    """Catches sources that cannot be mixed, and half-precision latents that reach the loss as they lie in the file."""
    packed = pack_squares(world, tmp_path / "squares.safetensors", [None] * 6, torch.bfloat16)
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


def test_a_phrasing_is_drawn_by_the_row_alone(world, tmp_path):
    """Catches one phrasing for ever, and a choice that resuming or dividing the batch otherwise would change."""
    phrasings = [[f"{number} square {k}" for k in range(4)] for number in range(6)]
    packed = pack_squares(world, tmp_path / "squares.safetensors", phrasings)
    settings = {"data": str(packed)}
    seen = {}
    for step in range(8):
        [one] = batches(world, batch=6, **settings).microbatches(step)
        parts = batches(world, batch=2, accumulation=3, **settings).microbatches(step)
        rows = [
            row[keep].tolist()
            for part in parts
            for row, keep in zip(part.batch.ids, part.batch.attention_mask, strict=True)
        ]
        assert rows == [row[keep].tolist() for row, keep in zip(one.batch.ids, one.batch.attention_mask, strict=True)]
        for position, row in enumerate(rows):
            seen.setdefault(batches(world, **settings).order.index(6 * step + position), set()).add(tuple(row))
    assert all(len(texts) >= 2 for texts in seen.values())
    assert len(set.union(*seen.values())) > 18
    # The same list in items.jsonl: each picture's texts are its own.
    data = make_data(tmp_path / "data")
    lines = [{"image": f"{k}.png", "caption": texts} for k, texts in enumerate(phrasings)]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert_same_microbatches(batches(world, data=str(data)).microbatches(1), batches(world, **settings).microbatches(1))


def test_a_packed_run_resumes(world, tmp_path):
    """Catches phrasings or rows that depend on where a run was interrupted."""
    phrasings = [[f"{number} square {k}" for k in range(3)] for number in range(6)]
    packed = pack_squares(world, tmp_path / "squares.safetensors", phrasings)
    settings = {"data": str(packed), "steps": 4, "save_every": 2}
    world.train("straight", **settings)
    world.train("resumed", **settings)
    run = world.folder / "resumed"
    (run / "step-00000004").rename(run / ".step-00000004")
    world.train("resumed", resume=True, **settings)
    assert world.log("resumed") == world.log("straight")


def text(content) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


DAMAGED = {
    "nothing packed": (lambda t: t.pop("codes"), "lacks codes"),
    "codes that are floats": (lambda t: t.update(codes=t["codes"].float()), "codes is 6 x 25 of torch.float32"),
    "latents without channels": (lambda t: t.update(latents=t["latents"][:, 0]), "4 dimensions"),
    "fewer latents": (lambda t: t.update(latents=t["latents"][:5].clone()), "do not match"),
    "fewer captions": (lambda t: t.update(captions=text(["a"] * 5)), "5 captions for 6"),
    "captions that are no list": (lambda t: t.update(captions=text("a")), "str captions"),
    "captions that are no JSON": (lambda t: t.update(captions=torch.tensor([123], dtype=torch.uint8)), "as JSON"),
    "a caption that is no text": (lambda t: t.update(captions=text(["a"] * 5 + [7])), "row 5: the caption is 7"),
    "codes of another grid": (lambda t: t.update(codes=t["codes"][:, :9].clone()), "9 codes per image.*5 x 5"),
    "codes of another book": (lambda t: t["codes"].fill_(96), "codes are 96 to 96.*has 96"),
    "negative codes": (lambda t: t["codes"].fill_(-1), "codes are -1"),
    "latents of another size": (lambda t: t.update(latents=t["latents"][..., :4].clone()), "8 x 8 x 4.*8 x 8 x 8"),
}


@pytest.mark.parametrize("damage, shown", DAMAGED.values(), ids=DAMAGED)
def test_a_packed_file_that_does_not_fit_is_refused(damage, shown, world, tmp_path):
    """Catches a traceback hours into a run, or training on codes that mean something else: the message names it."""
    packed = pack_squares(world, tmp_path / "squares.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(packed).items()}
    damage(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, packed)
    with pytest.raises(Blip3oError, match=f"squares.safetensors.*{shown}"):
        world.train(data=str(packed))
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_packed_leaves_the_file_alone(world, tmp_path):
    """Catches a good file overwritten by a broken or half-written one, and a file that is no safetensors at all."""
    packed = pack_squares(world, tmp_path / "squares.safetensors")
    before = packed.read_bytes()
    with pytest.raises(Blip3oError, match="1 captions for 6"):
        pack_squares(world, packed, ["a"])
    assert packed.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    packed.write_bytes(before[:1000])
    with pytest.raises(Blip3oError, match="squares.safetensors"):
        world.train(data=str(packed))
