"""Files that appear whole or not at all."""

import json

import pytest
import torch

from blip3o_core.checks import require_finite
from blip3o_core.errors import Blip3oError, bullet_list
from blip3o_core.files import atomic_write, write_json


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_gets_its_name_when_it_is_whole(tmp_path, durable):
    """Catches a reader that sees half a file."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path, durable) as scratch:
        scratch.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        scratch.write_bytes(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    """Catches a failed or cancelled save that destroys the file before it, or leaves its scrap beside it."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as scratch:
        scratch.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_with_a_hole_is_refused(value):
    """Catches black pictures that nobody is told about."""
    with pytest.raises(Blip3oError, match=r"The mask contains NaN or infinite values. Draw it again\."):
        require_finite(torch.tensor([0.0, value]), "The mask", "Draw it again.")
    require_finite(torch.zeros(2), "The mask", "Draw it again.")


def test_a_long_list_says_how_much_is_left_out():
    """Catches an error of ten thousand lines."""
    assert bullet_list(["a", "b", "c"], most=2) == "  a\n  b\n  and 1 more"
    assert bullet_list(["a"], most=2) == "  a"


def test_json_that_cannot_be_written_leaves_the_file_before(tmp_path):
    """Catches a report that is cut short by the value it cannot hold."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1} and list(tmp_path.iterdir()) == [path]
