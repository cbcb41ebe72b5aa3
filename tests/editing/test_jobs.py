"""`blip3o edit --list`: a folder of edits, checked first, and continued where it was stopped."""

import json
from pathlib import Path

import pytest
import torch

from blip3o_core.images.png import read_settings
from tests.support.pictures import files, noise, pixels


def write_list(place: Path, *entries) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (place / "sub").mkdir(exist_ok=True)
    for name in ("a", "b", "hole"):
        (place / "sub" / f"{name}.png").write_bytes((place / f"{name}.png").read_bytes())
    path = place / "sub" / "list.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


RED = {"image": "a.png", "instruction": "red"}
LINES = (
    RED,
    "",
    {"images": ["b.png", "a.png"], "instruction": "blue", "seed": 40, "out": "mine.PNG"},
    {"image": "a.png", "instruction": "green", "mask": "hole.png"},
)


@pytest.mark.slow
@pytest.mark.parametrize("noise_seed", [[], ["--noise-seed=30"]])
def test_a_list_fills_a_folder_with_the_single_runs(noise_seed, edit, place):
    """Catches paths taken from the working directory, seeds of the wrong row, and settings carried over."""
    path = write_list(place, *LINES)
    assert edit(f"--list={path}", "--out={here}/drawn", "--seed=5", *noise_seed) == 0
    assert [drawn.name for drawn in files(place / "drawn")] == ["00000.png", "00002.png", "mine.PNG"]
    singles = {
        "00000.png": ["--image={here}/a.png", "--instruction=red", "--seed=5"],
        "mine.PNG": ["--image={here}/b.png", "--image={here}/a.png", "--instruction=blue", "--seed=40"],
        "00002.png": ["--image={here}/a.png", "--instruction=green", "--mask={here}/hole.png", "--seed=7"],
    }
    for row, (name, words) in zip((0, 1, 2), singles.items(), strict=True):
        assert edit(*words, *([f"--noise-seed={30 + row}"] if noise_seed else []), "--out={here}/one.png") == 0
        assert torch.equal(pixels(place / "one.png"), pixels(place / "drawn" / name)), name
        assert read_settings(place / "one.png") == read_settings(place / "drawn" / name)


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on(edit, place, capsys, monkeypatch):
    """Catches hours of pictures drawn twice, a picture of other settings taken for done, and a partial one kept."""
    from blip3o_core import pipeline

    path, real, calls = write_list(place, *LINES), pipeline.Pipeline.render, []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pipeline.Pipeline, "render", stop)
    run = (f"--list={path}", "--out={here}/drawn")
    assert edit(*run) == 130
    assert [drawn.name for drawn in files(place / "drawn")] == ["00000.png"]
    first = (place / "drawn" / "00000.png").stat().st_mtime_ns
    capsys.readouterr()
    assert edit(*run) == 0
    said = capsys.readouterr()
    assert f"skipped {place / 'drawn' / '00000.png'}" in said.err and "00000.png" not in said.out
    assert (place / "drawn" / "00000.png").stat().st_mtime_ns == first and len(files(place / "drawn")) == 3
    assert edit(*run) == 0 and len(calls) == 4 and capsys.readouterr().out == ""
    # Another seed, another picture under the same name, half a file, no picture at all: drawn again.
    assert edit(*run, "--seed=1") == 0 and len(calls) == 6
    noise(48, 32, seed=4).save(place / "sub" / "a.png")
    assert edit(*run, "--seed=1") == 0 and len(calls) == 9
    whole = (place / "drawn" / "mine.PNG").read_bytes()
    (place / "drawn" / "mine.PNG").write_bytes(whole[: len(whole) // 2])
    (place / "drawn" / "00000.png").write_text("no picture")
    assert edit(*run, "--seed=1") == 0 and len(calls) == 11
    assert (place / "drawn" / "mine.PNG").read_bytes() == whole


BAD_LINES = {
    "broken": ('{"image": "a.png", "instruction": ', "line 3: the line cannot be read as JSON"),
    "no object": ("[1, 2]", "line 3: '[1, 2]' is not a JSON object"),
    "deep": ("[" * 100_000, "line 3: the line cannot be read as JSON"),
    "unknown key": ({**RED, "masks": "hole.png"}, "line 3: unknown key 'masks'"),
    "no image": ({"instruction": "red"}, 'line 3: give either "image"'),
    "both": ({**RED, "images": ["a.png"]}, 'line 3: give either "image"'),
    "empty images": ({"images": [], "instruction": "red"}, "line 3: There are 0 images"),
    "images are numbers": ({"images": [1], "instruction": "red"}, "line 3: the images are [1]"),
    "no instruction": ({"image": "a.png"}, "line 3: The instruction is ''"),
    "instruction is a number": ({"image": "a.png", "instruction": 3}, "line 3: instruction is 3"),
    "half a character": ({"image": "a.png", "instruction": "a\ud800"}, "line 3: The prompt contains half a character"),
    "seed is text": ({**RED, "seed": "3"}, "line 3: seed is '3'"),
    "seed is true": ({**RED, "seed": True}, "line 3: seed is True"),
    "missing file": ({"image": "absent.png", "instruction": "red"}, "line 3: "),
    "zero byte": ({"image": "a\0.png", "instruction": "red"}, "line 3: "),
    "over-long name": ({"image": "a" * 5000, "instruction": "red"}, "line 3: "),
    "mask that is empty text": ({**RED, "mask": ""}, "line 3: "),
    "mask of another size": ({**RED, "mask": "b.png"}, "line 3: "),
    "too long for the prompt": ({**RED, "instruction": "word " * 99}, "line 3: The prompt is"),
    "out with a folder": ({**RED, "out": "../a.png"}, "line 3: out is '../a.png'"),
    "out of another format": ({**RED, "out": "a.jpg"}, "line 3: out is 'a.jpg'"),
    "out twice": ({**RED, "out": "00000.PNG"}, "line 3: line 1 writes 00000.PNG, too"),
}  # fmt: skip


@pytest.mark.parametrize("entry, shown", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_before_anything_is_drawn(entry, shown, edit, place, capsys, monkeypatch):
    """Catches a run that fails in the middle of the night, and a fault without its line's number."""
    from blip3o_core import pipeline

    monkeypatch.setattr(pipeline.Pipeline, "__init__", lambda *_: pytest.fail("weights were loaded"))
    path = write_list(place, RED, "", entry)
    before = files(place)
    assert edit(f"--list={path}", "--out={here}/drawn") == 1
    said = capsys.readouterr()
    assert said.out == "" and shown in said.err and "Traceback" not in said.err
    assert files(place) == before


def test_all_bad_lines_are_named_at_once(edit, place, capsys):
    """Catches a list that must be run once for every fault in it, and an error of a thousand lines."""
    path = write_list(place, RED, *[{**RED, "image": f"absent{k}.png"} for k in range(30)])
    assert edit(f"--list={path}", "--out={here}/drawn") == 1
    said = capsys.readouterr().err
    assert "line 2: " in said and "line 11: " in said and "line 12: " not in said and "and 20 more" in said


def test_lists_that_cannot_be_read_and_folders_that_cannot_be_written(edit, place, capsys):
    """Catches a traceback for a list that is absent, empty or no text, and for a file where a folder should be."""
    path = write_list(place, RED)
    (place / "empty.jsonl").write_text("\n \n")
    (place / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    (place / "taken.png").touch()
    for file, out, shown in (
        ("absent.jsonl", "out", "absent.jsonl"), ("empty.jsonl", "out", "is empty"),
        ("binary.jsonl", "out", "binary.jsonl"), ("sub", "out", "is a folder"),
        (path, "taken.png", "taken.png"), (path, "taken.png/below", "Cannot write"),
    ):  # fmt: skip
        before = files(place)
        assert edit(f"--list={place / file}", "--out={here}/" + out) == 1
        assert shown in capsys.readouterr().err and files(place) == before


def test_a_list_does_not_write_over_what_it_reads(edit, place, capsys):
    """Catches an original lost to the edit of it, where pictures and results share a folder."""
    path = write_list(place, RED, {"image": "b.png", "instruction": "red", "out": "a.png"})
    before = (place / "sub" / "a.png").read_bytes()
    assert edit(f"--list={path}", "--out={here}/sub") == 1
    said = capsys.readouterr().err
    assert "line 2: " in said and "overwritten" in said and (place / "sub" / "a.png").read_bytes() == before


def test_a_list_with_a_size_and_a_mask_names_the_line(edit, place, capsys):
    """Catches --size ignored for some lines of a list."""
    path = write_list(place, *LINES)
    assert edit(f"--list={path}", "--out={here}/drawn", "--size=64x64") == 1
    assert "line 4: --size cannot be used with a mask" in capsys.readouterr().err
