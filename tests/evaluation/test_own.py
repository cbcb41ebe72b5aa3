"""A prompt file of the user as a task."""

import json

import pytest
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.tasks.find import open_task
from tests.support.evaluation import words


def written(path, lines: list[dict]):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_fields_become_an_item(tmp_path):
    """Catches fields that are lost, ids that move with the order, and references that are looked for elsewhere."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    path = written(
        tmp_path / "p.jsonl",
        [
            {"prompt": "a cat"},
            {"prompt": "make it blue", "id": "edit", "category": "edits", "references": "a.png", "words": "open"},
            {"prompt": "put them together", "id": 7, "references": ["a.png", "a.png"]},
        ],
    )
    first, second, third = open_task("own", path).items
    assert (first.id, first.category, first.references, dict(first.facts)) == ("00000", "", (), {})
    assert (second.id, second.category, dict(second.facts)) == ("edit", "edits", {"words": "open"})
    assert second.references[0].read() == (tmp_path / "a.png").read_bytes()
    assert third.id == "7" and len(third.references) == 2


@pytest.mark.parametrize(
    "line, says",
    [
        ({"id": "x"}, "line 1: the field 'prompt' is missing."),
        ({"prompt": "a", "id": [1]}, "line 1: id is [1]. It must be text or a whole number."),
        ({"prompt": "a", "id": "../x"}, "line 1: the id is"),
        ({"prompt": "a", "references": 3}, "line 1: references is 3. It must be a path or a list of paths."),
        ({"prompt": "a", "references": ["no.png"]}, "no.png does not exist."),
        ({"prompt": "a", "references": ["a"] * 9}, "line 1: there are 9 references. An edit takes at most 8."),
        ({"prompt": "a", "category": 5}, "line 1: category is 5. It must be text."),
    ],
)
def test_a_faulty_line_is_named(line, says, tmp_path):
    """Catches a line that is skipped, or a fault that is found only when its image is made."""
    with pytest.raises(Blip3oError) as caught:
        open_task("own", written(tmp_path / "p.jsonl", [line]))
    assert says in str(caught.value) and "p.jsonl, line 1" in str(caught.value)


def test_a_reference_that_is_no_image_costs_only_itself(tiny, tmp_path):
    """Catches a run that ends at a damaged reference, and edits and images from text that cannot stand in one file."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    lines = [{"prompt": "a cat"}, *({"prompt": "blue", "references": f"{name}.png"} for name in "ab")]
    path = written(tmp_path / "p.jsonl", lines)
    out = tmp_path / "out"
    assert main(words(tiny, out, f"--data={path}", "--reward=consistency", task="own")) == 1
    found = json.loads((out / "results.json").read_text())
    assert [one["item"] for one in found["images"]["failed"]] == ["00002"]
    assert "Cannot read b.png" in found["images"]["failed"][0]["reason"]
    [scorer] = found["scorers"]
    assert scorer["unjudged"] == 2 and scorer["failures"] == 0  # there is no mask


def test_a_category_of_a_file_without_any(tmp_path, capsys):
    """Catches "It has ''.", which names no category."""
    path = written(tmp_path / "p.jsonl", [{"prompt": "a cat"}])
    assert main(["evaluate", "own", f"--data={path}", "--only=cats"]) == 1
    assert "own has no category 'cats'. Its items have none." in capsys.readouterr().err


def test_without_a_file(capsys):
    """Catches a traceback where the prompt file is left out."""
    assert main(["evaluate", "own"]) == 1
    assert "own needs a prompt file. Give --data FILE" in capsys.readouterr().err
