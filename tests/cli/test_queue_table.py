"""`blip3o queue` before it asks a server: tables and workflows, right and wrong."""

import json

import pytest

from blip3o_core.cli.queue_table import read_rows, read_workflow
from blip3o_core.errors import Blip3oError

DRAW = {"noise_seed": 2, "guidance": 2.0}
WORKFLOW = {
    "4": {
        "class_type": "BLIP3oTokenGenerator",
        "inputs": {"prompt": "a", "seed": 1, "sampling.top_p": 0.9, "lm": ["1", 0]},
    },
    "6": {"class_type": "BLIP3oDiffusionSampler", "inputs": DRAW, "_meta": {"title": "Draw"}},
    "7": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "8": {"class_type": "Other", "inputs": {"seed": 3, "on": True}},
}


@pytest.fixture
def rows(tmp_path):
    def read(text: str, workflow=WORKFLOW):
        (tmp_path / "table.csv").write_text(text, encoding="utf-8")
        return read_rows(tmp_path / "table.csv", workflow)

    return read


def test_cells_become_inputs_of_the_workflow(rows, tmp_path):
    """Catches a column that fills another node, numbers sent as text, and an empty cell that empties an input."""
    (tmp_path / "a.JPG").write_bytes(b"one")
    made = rows(
        "\ufeffprompt,4.seed,Other.seed,Draw.guidance,sampling.top_p,image,8.on,name\n"
        '"a ""red"" cube, small",5,6,3,0.5,a.JPG,false,first one\n\n , ,,,,,,\nb,7,,,,,,\n'
    )
    assert [row.name for row in made] == ["first one", "00001"]
    inputs = {id: node["inputs"] for id, node in made[0].prompt.items()}
    assert inputs["4"] == {"prompt": 'a "red" cube, small', "seed": 5, "sampling.top_p": 0.5, "lm": ["1", 0]}
    assert inputs["8"] == {"seed": 6, "on": False} and inputs["6"]["guidance"] == 3.0
    ((name, file),) = made[0].uploads.items()
    assert inputs["7"]["image"] == name and name.endswith(".jpg") and file == tmp_path / "a.JPG"
    assert made[1].prompt["8"] == WORKFLOW["8"] and made[1].uploads == {}
    assert WORKFLOW["4"]["inputs"]["prompt"] == "a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed\n1\n", "4.seed or 8.seed"),
        ("promt\na\n", "prompt"),
        ("lm\na\n", "no input 'lm' to fill"),
        ("9.seed\n1\n", "no input '9.seed' to fill"),
        ("4.seed\n1.5\n", "line 2, column 4.seed: '1.5' must be a whole number"),
        ("guidance\nx\n", "must be a number"),
        ("8.on\n1\n", "must be true or false"),
        ("prompt\n", "has 0 images"),
        ("", "has 0 images"),
        ("prompt,4.seed\na, b,3\n", "line 2 has 3 cells for 2 columns"),
        ('prompt\n"a\n', "is not CSV"),
        ("name\na\nA\n", "the name A stands in line 2"),
        ("name\n../a\n", "cannot name a file"),
        ("image\nmissing.png\n", "missing.png"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(rows, text, says):
    """Catches a run that breaks off after half of its images, or a stack trace."""
    with pytest.raises(Blip3oError, match=says):
        rows(text)


def test_what_is_no_workflow_in_api_format_is_named(tmp_path):
    """Catches the page's own format sent to the server, which answers with a riddle."""
    path = tmp_path / "w.json"
    for content, says in (
        ({"nodes": [], "links": []}, r"Export \(API\)"),
        ({"1": {"inputs": {}}}, "not a node"),
        ({"1": 5}, "not a node"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(Blip3oError, match=says):
            read_workflow(path)
