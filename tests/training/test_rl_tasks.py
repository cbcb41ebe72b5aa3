"""Tasks of reinforcement learning: files of prompts and edits, the tiny world's, and what is held out."""

import json

import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.tiny.judge.judge import judge_edit, judge_image
from blip3o_core.tiny.scenes.edits import edit_kinds
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.tasks import EDIT_WORLD, WORLD
from blip3o_core.training.rl.tasks import Task, find_tasks, open_task, read_tasks


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    Image.new("L", (8, 6), 255).save(tmp_path / "mask.png")
    Image.new("L", (5, 5), 255).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def write(path, *entries):
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in entries))
    return path


def test_files_say_what_to_train_on(folder):
    """Catches prompts that are cut or stripped of their words, and paths that are not relative to the list."""
    text = write(folder / "prompts.txt", "a cat", "", '  a dog: "hi"  ')
    assert [(task.prompt, task.group) for task in read_tasks(text, "tasks")] == [
        ("a cat", "all"),
        ('a dog: "hi"', "all"),
    ]
    edit = {"prompt": "make it red", "group": "edits", "references": ["a.png"], "mask": "mask.png", "meta": {"n": 1}}
    first, second = read_tasks(write(folder / "tasks.jsonl", edit, {"prompt": "a tree"}), "tasks")
    assert (first.group, first.meta, first.place) == ("edits", {"n": 1}, "tasks.jsonl, line 1")
    opened = open_task(first)
    assert opened.pixels[0].shape == (6, 8, 3) and opened.mask.shape == (6, 8)
    assert second == Task("a tree", place="tasks.jsonl, line 2")


def test_all_faulty_lines_of_a_file_are_named(folder):
    """Catches a run that starts with a half-understood file, or that names one fault at a time."""
    faulty = write(
        folder / "tasks.jsonl", "{", [1], {"prompt": " "}, {"prompt": "a", "promt": 1}, {"prompt": "a", "group": ""},
        {"prompt": "a", "references": ["gone.png"]}, {"prompt": "a", "mask": "mask.png"}, {"prompt": "a", "meta": 3},
    )  # fmt: skip
    with pytest.raises(Blip3oError) as caught:
        read_tasks(faulty, "tasks")
    message = str(caught.value)
    assert all(f"line {number}: " in message for number in range(1, 9))
    assert "gone.png is not a file" in message
    for name, words in (("broken.png", "tasks.jsonl, line 1"), ("small.png", "5x5")):
        entry = {"prompt": "a", "references": ["broken.png" if "broken" in name else "a.png"]}
        entry |= {"mask": name} if name == "small.png" else {}
        with pytest.raises(Blip3oError, match=words):
            open_task(read_tasks(write(folder / "tasks.jsonl", entry), "tasks")[0])


def test_a_number_of_tasks_is_held_out_of_a_file(folder):
    """Catches held-out prompts that are trained on, and ones that are all of the end of a sorted file."""
    path = str(write(folder / "prompts.txt", *(f"prompt {k}" for k in range(20))))
    tasks = find_tasks(path, 4, 100, 0)
    kept = [task.prompt for task in tasks.held_out]
    assert kept == ["prompt 2", "prompt 7", "prompt 12", "prompt 17"]
    assert len(tasks.train) == 16 and not {task.prompt for task in tasks.train} & set(kept)
    assert find_tasks(path, path, 100, 0).held_out != tasks.held_out
    assert find_tasks(path, 5, 100, 0).identity != tasks.identity
    with pytest.raises(Blip3oError, match="held_out is 20"):
        find_tasks(path, 20, 100, 0)


@pytest.mark.parametrize("source, message", [
    ("no_such_file.txt", "does not exist"), ("tinny", "tiny, tiny-edits"), ("json:nothing", "has no 'nothing'"),
    ("no_such_module:f", "name its file"), ("builtins:repr", "must be a function"), ("gone.py:f", "no such file"),
])  # fmt: skip
def test_tasks_that_cannot_be_found_are_a_sentence(source, message):
    """Catches a traceback for a mistyped name of a file, a world or a function."""
    with pytest.raises(Blip3oError, match=message):
        find_tasks(source, 4, 10, 0, own_code=True)


def test_a_function_in_a_file_makes_tasks(folder, monkeypatch):
    """Catches a function that only an installed module can have, and one that a workflow runs."""
    (folder / "my_tasks.py").write_text(
        "from blip3o_core.training.rl.tasks import Task\n"
        "def make(count, split, seed):\n    return [Task(f'{split} {seed} {k}') for k in range(count)]\n"
    )
    monkeypatch.chdir(folder)
    tasks = find_tasks("my_tasks.py:make", 1, 2, 3, own_code=True)
    assert [task.prompt for task in (*tasks.train, *tasks.held_out)] == ["train 3 0", "train 3 1", "held_out 3 0"]
    for source in ("my_tasks.py:make", "os:system"):
        with pytest.raises(Blip3oError, match="a workflow could come from anybody"):
            find_tasks(source, 1, 2, 3)


def test_the_tiny_world_asks_for_every_kind_alike():
    """Catches a kind that is learnt at the cost of the others, and held-out prompts that were trained on."""
    for source, kinds in (("tiny", WORLD.categories), ("tiny-edits", edit_kinds(EDIT_WORLD))):
        tasks = find_tasks(source, 16, 24, 0)
        assert [task.group for task in tasks.train] == [kinds[k % len(kinds)] for k in range(24)]
        assert find_tasks(source, 16, 24, 1).train != tasks.train
        longer = find_tasks(source, 16, 40, 0)
        assert [one.prompt for one in longer.train[:24]] == [one.prompt for one in tasks.train]
        assert longer.identity == tasks.identity != find_tasks(source, 16, 24, 1).identity


def test_the_tiny_worlds_tasks_are_about_their_own_images():
    """Catches a prompt with another scene's specification, reference or mask."""
    scene = find_tasks("tiny", 1, 1, 0).train[0]
    assert not judge_image(torch.zeros(64, 64, 3).numpy(), scene.meta["spec"]).strict
    for task in find_tasks("tiny-edits", 1, len(edit_kinds(EDIT_WORLD)), 0).train:
        edit, opened = task.meta["edit"], open_task(task)
        target = torch.from_numpy(rasterize(edit.target, opened.pixels[0].shape[0])) / 255
        assert judge_edit(target.numpy(), edit).strict
        changed = torch.stack([(target - one).abs().amax(-1) > 0 for one in opened.pixels]).all(0)
        assert bool((opened.mask.bool() | ~changed).all())
