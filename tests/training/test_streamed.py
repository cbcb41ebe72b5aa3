"""Training from shard folders: the same items as from files, known before the first step and read when needed."""

import json
import re
import shutil

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.shards.read import ShardFolder
from blip3o_core.training.data.batches import Batches
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.order import ShuffledOrder
from blip3o_core.training.data.streamed import StreamedItems
from blip3o_core.training.trainer import Trainer
from tests.support.training_world import (
    assert_resumes,
    assert_same_microbatches,
    batches,
    encoder,
    make_data,
    make_edits,
    make_shard,
    make_shards,
)


def content(path) -> list:
    items = find_items([str(path)])
    return [(one.captions, one.image.read(), [reference.read() for reference in one.references]) for one in items]


@pytest.mark.parametrize("kind", ["captions", "reconstructions", "edits", "compositions"])
def test_a_shard_folder_holds_the_same_items_as_a_folder(kind, world, tmp_path):
    """Catches references or texts of another item, and edits or reconstructions that are not known as such."""
    make = {"captions": make_data, "reconstructions": lambda folder: make_data(folder, captions=False)}
    make |= {"edits": make_edits, "compositions": lambda folder: make_edits(folder, several=True)}
    shards = make_shards(make[kind](tmp_path / "files"), tmp_path / "shards")
    assert content(shards) == content(tmp_path / "files")
    files, streamed = (find_items([str(path)]) for path in (tmp_path / "files", shards))
    assert streamed.summary() == files.summary() and streamed.edits == files.edits
    several, expected = streamed.first_with_several, files.first_with_several
    assert (several and several.captions) == (expected and expected.captions)
    assert [streamed.parts[0].num_references(k) for k in range(6)] == [one.num_references for one in files]


def test_rows_of_a_shard_folder_are_those_of_the_files(world, tmp_path):
    """Catches codes, latents or labels that depend on where an image was read from."""
    shards = make_shards(world.data, tmp_path / "shards", size=2)
    one, other = batches(world, batch=6), batches(world, data=str(shards), batch=6)
    other.order = ShuffledOrder(6, 0)
    for step in (0, 1):
        assert_same_microbatches(one.microbatches(step), other.microbatches(step))


def names_of(loader: Batches, steps) -> list[list[str]]:
    """The images of this process's rows in each step."""
    found = []
    for step in steps:
        size, first = loader.config.batch, loader.process * loader.config.batch
        rows = range(step * loader.rows + first, step * loader.rows + first + size)
        found.append([loader.items[loader.order.index(row)].name for row in rows])
    return found


@pytest.mark.parametrize("weights", [None, [3, 1]], ids=["by size", "by weight"])
def test_a_resumed_run_and_two_processes_see_the_rows_of_one(weights, world, tmp_path):
    """Catches rows that are skipped or seen twice after an interruption, or by two processes."""
    paths = [str(make_shards(world.data, tmp_path / "shards", size=2)), str(world.data)]
    data = [{"path": path, "weight": weight} for path, weight in zip(paths, weights or [None, None], strict=True)]

    def loader(process=0, processes=1, batch=4) -> Batches:
        config, images = world.config(data=data, batch=batch), encoder(world)
        items = find_items(config.paths)
        return Batches(config, items, images.checkpoint.prompt_encoder, images, process, processes)

    straight = names_of(loader(), range(6))
    assert len({name for step in straight for name in step}) == 12
    assert names_of(loader(), range(3, 6)) == straight[3:]
    halves = [names_of(loader(process, 2, 2), range(6)) for process in (0, 1)]
    assert [first + second for first, second in zip(*halves, strict=True)] == straight


@pytest.mark.slow
def test_an_interrupted_run_on_weighted_shards_resumes(world, tmp_path):
    """Catches weights of another training after a resume, and settings that decide the order and are not compared."""
    shards = make_shards(world.data, tmp_path / "shards", size=2)
    data = [{"path": str(shards), "weight": 3}, {"path": str(world.data), "weight": 1}]
    run = assert_resumes(world, data=data, workers=3)
    assert run.is_dir()
    with pytest.raises(Blip3oError, match=r"was trained with weights \[3.0, 1.0\], but weights is \[1.0, 1.0\] now"):
        world.train("resumed", resume=True, steps=5, data=[{**one, "weight": 1} for one in data])
    moved = shards.rename(tmp_path / "moved")
    (moved / "000.tar").rename(moved / "00.tar")
    (moved / "000.index").rename(moved / "00.index")
    manifest = (moved / "manifest.json").read_text()
    (moved / "manifest.json").write_text(manifest.replace('"000"', '"00"'))
    data[0]["path"] = str(moved)
    assert world.train("resumed", resume=True, steps=5, data=data).name == "step-00000005"
    make_shards(make_edits(tmp_path / "edits"), moved, size=2)
    with pytest.raises(Blip3oError, match="data has other images or captions now"):
        world.train("resumed", resume=True, steps=6, data=data)


def test_no_image_of_a_shard_is_read_before_the_first_step(world, editor, tmp_path, monkeypatch):
    """Catches a survey that would read millions of images for hours."""
    world.checkpoint = editor  # its prompts may be so long that the manifest's longest text is no question
    shards = make_shards(world.data, tmp_path / "shards")
    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "read", lambda *given: pytest.fail("an item was read"))
        patch.setattr(ShardFolder, "texts", lambda *given: pytest.fail("texts were read"))
        Trainer(world.config(data=str(shards))).close()


def test_shards_that_have_changed_are_named_before_the_first_step(world, tmp_path):
    """Catches a run that stops hours later at a shard that was cut short from the start."""
    shards = make_shards(world.data, tmp_path / "shards", size=2)
    (shards / "001.tar").write_bytes((shards / "001.tar").read_bytes()[:-512])
    with pytest.raises(Blip3oError, match="001.tar has .* bytes, and manifest.json says .*it was cut short"):
        Trainer(world.config(data=str(shards)))
    (shards / "002.index").unlink()
    with pytest.raises(Blip3oError, match="2 shards have changed since(?s:.)*001.tar(?s:.)*002.index does not exist"):
        Trainer(world.config(data=str(shards)))


def test_a_caption_in_a_shard_that_is_too_long_is_found_before_the_first_step(world, tmp_path):
    """Catches a run that stops at the step that meets it, though the manifest knows the longest text."""
    files = shutil.copytree(world.data, tmp_path / "files")
    lines = (files / "items.jsonl").read_text().splitlines()
    lines[3] = json.dumps({"image": "3.png", "caption": "red " * 5000})
    (files / "items.jsonl").write_text("\n".join(lines))
    with pytest.raises(Blip3oError, match=r"001.tar:003\.png: .*tokens"):
        Trainer(world.config(data=str(make_shards(files, tmp_path / "shards", size=2))))


def test_a_damaged_image_in_a_shard_stops_the_run_as_in_any_tar(world, tmp_path):
    """Catches other words, or a lost step, for what people know from plain shards."""
    files = shutil.copytree(world.data, tmp_path / "files")
    for path in files.glob("*.png"):
        data = path.read_bytes()
        path.write_bytes(data[:60] + bytes(len(data) - 120) + data[-60:])
    said = []
    for source in (make_shard(files, tmp_path / "plain.tar"), make_shards(files, tmp_path / "shards", size=6)):
        trainer = Trainer(world.config(data=str(source), cache=str(tmp_path / "cache")))
        trainer.state.step = trainer.saved + 1  # a step was made
        trainer._save = lambda: None
        with pytest.raises(Blip3oError) as error:
            trainer._next_microbatches()
        trainer.close()
        text = str(error.value).replace(str(tmp_path / "shards" / "000.tar"), str(tmp_path / "plain.tar"))
        said.append(re.sub(r"\d+(?=\.png| bytes)", "", text))
    assert said[0] == said[1] and "Step 1 was saved: continue with --resume" in said[0]


def test_what_is_beside_the_manifest_is_told(world, tmp_path):
    """Catches shards that are left out without a word, and a manifest of another program that hides plain shards."""
    shards = make_shards(world.data, tmp_path / "shards")
    make_shard(world.data, shards / "more.tar")
    assert "1 file not used (1 .tar that manifest.json does not name)" in find_items([str(shards)]).notes[0]
    (tmp_path / "plain").mkdir()
    make_shard(world.data, tmp_path / "plain" / "x.tar")
    (tmp_path / "plain" / "manifest.json").write_text('{"name": "an app"}')
    items = find_items([str(tmp_path / "plain")])
    assert len(items) == 6 and not isinstance(items.parts[0], StreamedItems)
