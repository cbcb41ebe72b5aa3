"""Nested values in files: back to the bit, without pickle, and every other file refused in a sentence."""

import json
import math

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.files import NameTaken
from blip3o_core.weights.nested_file import CannotStore, load_nested, save_nested
from tests.support.attacks import read_safetensors, write_safetensors

KIND, REMEDY = "things", "Save it again."
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8,
          torch.bool, torch.complex64]  # fmt: skip


def like(a, b) -> bool:
    """Equal in kind and value, tensors in dtype, shape and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return same and a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(like, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(like(a[key], b[key]) for key in a)
    return a == b or (a != a and b != b)


def value():
    shared = torch.arange(12.0).view(3, 4)
    return [
        (shared.t(), {"pooled_output": shared[1], "same": shared, "again": shared}),
        [None, {"": True, 7: -3, "big": 2**200, "text": "日本 \ud800\n", "percent": 0.1, "nan": math.nan,
                "inf": -math.inf, "zero": -0.0, "empty": [(), [], {}], "area": ("percentage", 1, 0.5, 0, 0)}],
        [torch.tensor(3.5), {"nothing": torch.zeros(0, 3), "wide": torch.ones(1, 1).expand(2, 3)}],
        [{f"{dtype}": torch.tensor([[1, 0], [2, 3]]).to(dtype) for dtype in DTYPES}],
        {"odd": torch.tensor([math.nan, -0.0, 1e-45]), "weight": torch.nn.Parameter(torch.ones(2)).detach()},
    ]  # fmt: skip


def test_what_is_saved_is_loaded(tmp_path):
    """Catches a key, a tuple, a dtype, a bit or a sign that a file loses, and a view that takes all it looks at."""
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_nested(path, value(), KIND, {"prompt": "{}"})
    loaded = load_nested(path, KIND, REMEDY)
    assert like(loaded, value()) and math.copysign(1, loaded[1][1]["zero"]) == -1
    save_nested(again, loaded, KIND, {"prompt": "{}"})
    assert path.read_bytes() == again.read_bytes() and path.stat().st_size < 6000
    with pytest.raises(NameTaken):
        save_nested(path, [], KIND, replace=False)
    save_nested(path, [], KIND)
    assert load_nested(path, KIND, REMEDY) == [] and len(list(tmp_path.iterdir())) == 2


class Model:
    pass


def deep(levels):
    inner: list = []
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "part, says",
    [
        (Model(), "of the type .*Model"), (b"bytes", "builtins.bytes"), (lambda: 0, "function"), ({1.5: 2}, "key 1.5"),
        (deep(99), "more than 64 deep"), (1 << 5000, "5,001 bits"), (torch.zeros(2, device="meta"), "special kind"),
        (torch.eye(2).to_sparse(), "special kind"), (torch.zeros(2, dtype=torch.complex128), "complex128"),
    ],
)  # fmt: skip
def test_what_no_file_can_hold_is_named(part, says, tmp_path):
    """Catches a pickle by the back door, and a part that is left out without a word."""
    with pytest.raises(CannotStore, match=says) as caught:
        save_nested(tmp_path / "x.safetensors", [1, {"key": part}], KIND)
    assert caught.value.keys[:2] == (1, "key") and not list(tmp_path.iterdir())


def test_objects_pass_through_their_owner(tmp_path):
    """Catches an object that loads as a dictionary, or one that a stranger's file may name."""
    path = tmp_path / "x.safetensors"
    save_nested(path, [Model()], KIND, pack=lambda each: ("model", {"a": 1}) if isinstance(each, Model) else None)
    assert load_nested(path, KIND, REMEDY, lambda name, inner: (name, inner)) == [("model", {"a": 1})]
    for unpack in (None, lambda name, inner: None):
        with pytest.raises(Blip3oError, match="means nothing"):
            load_nested(path, KIND, REMEDY, unpack)


def described(description, tensors=None, data=b""):
    text = description if isinstance(description, str) else json.dumps(description)
    return {"__metadata__": {f"blip3o_{KIND}": text}, **(tensors or {})}, data


ONE = {"0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
ATTACKS = {
    "another kind": (({"__metadata__": {"blip3o_tokens": "[]"}}, b""), "does not hold things"),
    "a plain model": ((ONE, bytes(8)), "does not hold things"),
    "no text": (({"__metadata__": {f"blip3o_{KIND}": 5}}, b""), "does not hold things"),
    "no JSON": (described("["), "cannot be read as JSON"),
    "deep JSON": (described("[" * 200_000), "nested too deeply"),
    "deep": (described("[\"list\", [" * 90 + "[\"is\", 1]" + "]]" * 90), "more than 64 deep"),
    "another word": (described(["eval", "1"]), "means nothing"),
    "an object": (described(["object", "os.system", ["is", "x"]]), "means nothing"),
    "a number as text": (described(["float", "x1p9"]), "x1p9 is not a number"),
    "digits": (described('["is", ' + "9" * 9999 + "]"), "too many digits"),
    "a missing tensor": (described(["tensor", "7"], ONE, bytes(8)), "a tensor 7, which is missing"),
    "a tensor left over": (described(["is", 1], ONE, bytes(8)), "1 of its 1 tensors belong nowhere"),
    "a key twice": (described(["dict", [["a", ["is", 1]], ["a", ["is", 2]]]]), "a dictionary in its description"),
    "a key of another kind": (described(["dict", [[None, ["is", 1]]]]), "a dictionary in its description"),
    "cut": (described(["tensor", "0"], ONE, bytes(5)), "cannot be read as a safetensors file"),
    "terabytes": (
        described(["tensor", "0"], {"0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "cannot be read as a safetensors file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_answered(name, tmp_path):
    """Catches a file that runs something, fills the memory, ends the process, or loads as something else."""
    (header, data), says = ATTACKS[name]
    path = tmp_path / "x.safetensors"
    write_safetensors(path, header, data)
    with pytest.raises(Blip3oError, match=says):
        load_nested(path, KIND, REMEDY)


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n", b"PK\3\4" * 99], ids=["empty", "pickle", "zip"])
def test_other_files_are_named(content, tmp_path):
    """Catches a reader that believes a name."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(Blip3oError, match="cannot be read as a safetensors file"):
        load_nested(path, KIND, REMEDY)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    """Catches a truncated file that loads with zeros where its numbers were."""
    path = tmp_path / "x.safetensors"
    save_nested(path, value(), KIND)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(Blip3oError):
            load_nested(path, KIND, REMEDY)
    header, data = read_safetensors_of(whole, path)
    assert header["__metadata__"].keys() == {f"blip3o_{KIND}"} and data


def read_safetensors_of(whole, path):
    path.write_bytes(whole)
    return read_safetensors(path)
