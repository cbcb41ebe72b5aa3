"""`blip3o evaluate` on small prompt files of benchmarks, from its words to a folder for their scorers."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from blip3o_core.cli.main import main

FOX = {"tag": "single_object", "include": [{"class": "fox", "count": 1}], "prompt": "a photo of a fox"}


def run(model: Path, task: str, out: Path, *more: str) -> dict:
    words = ["evaluate", task, f"--checkpoint={model}", f"--out={out}", "--device=cpu", "--steps=1", *more]
    assert main(words) == 0
    return json.loads((out / "results.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_geneval(tiny, tmp_path):
    """Catches files that are missing in the layout, or too many."""
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_bytes(b"\xef\xbb\xbf" + json.dumps(FOX).encode() + b"\r\n")
    found = run(tiny, "geneval", tmp_path / "out", f"--data={prompts}", "--samples=2")
    assert files(tmp_path / "out" / "images") == [
        "00000/metadata.jsonl",
        "00000/samples/0000.png",
        "00000/samples/0001.png",
    ]
    assert json.loads((tmp_path / "out" / "images" / "00000" / "metadata.jsonl").read_text()) == FOX
    assert found["scorers"] == [] and "# The file has 1 prompts" in found["official"]


def test_dpg(tiny, tmp_path):
    """Catches single images among the grids, and grids that are missing after a whole run."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "vrd3.txt").write_text("a fox and a cup")
    (tmp_path / "prompts" / "vrd4.txt").write_text("left out by --limit")
    run(tiny, "dpg", tmp_path / "out", f"--data={tmp_path}", "--limit=1", "--size=64x64")
    assert files(tmp_path / "out" / "images") == ["vrd3.png"]
    assert files(tmp_path / "out" / "samples") == [f"vrd3/{k}.png" for k in range(4)]
    with Image.open(tmp_path / "out" / "images" / "vrd3.png") as grid:
        assert grid.size == (128, 128)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("rapidocr"), reason="needs the extra ocr")
def test_text_is_made_on_one_machine_and_read_on_another(editor, tmp_path):
    """Catches images that are made again when they are scored later, and items without a number."""
    assert run(editor, "text", tmp_path / "out", "--option=count=5", "--option=ocr=no")["scorers"] == []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()}
    [ocr] = run(editor, "text", tmp_path / "out", "--option=count=5")["scorers"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()} == before
    assert ocr["n"] == 5 and list(ocr["measures"]) == ["spans", "right"]
    assert list(ocr["measures"]["right"]["categories"]) == ["word", "words", "sentence", "number", "two texts"]


@pytest.mark.parametrize(("more", "says"), [("--samples=5", "--samples is 5"), ("--size=96x64", "--size is 96x64")])
def test_dpg_refuses_before_anything_is_made_what_its_grids_cannot_hold(tiny, tmp_path, capsys, more, says):
    """Catches thousands of images that turn out useless when the grids are written."""
    (tmp_path / "a.txt").write_text("a fox")
    assert (
        main(["evaluate", "dpg", f"--data={tmp_path}", f"--checkpoint={tiny}", f"--out={tmp_path / 'out'}", more]) == 1
    )
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_faulty_prompt_file_makes_nothing(tiny, tmp_path, capsys):
    """Catches a folder that was begun before the prompts were read, and a stack trace."""
    (tmp_path / "a.jsonl").write_text(json.dumps(FOX) + '\n{"tag": "colors"}\n')
    words = [
        "evaluate",
        "geneval",
        f"--data={tmp_path / 'a.jsonl'}",
        f"--checkpoint={tiny}",
        f"--out={tmp_path / 'out'}",
    ]
    assert main(words) == 1
    assert "a.jsonl, line 2: the field 'prompt' is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
