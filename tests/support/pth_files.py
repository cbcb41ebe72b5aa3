"""Makers of `ta_tok.pth` files that were damaged, or made to do harm. All write one at a path, or give what does."""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.support.paths import GOLDEN

PUBLISHED = GOLDEN / "checkpoints" / "ta_tok" / "ta_tok.pth"


class Hostile:
    """What pickle calls when it is read."""

    def __init__(self, function: Callable, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def call(function: Callable, *arguments: object) -> Callable[[Path], object]:
    content = {"model": {"args": Hostile(function, *arguments), "sd": {}}}
    return lambda path: torch.save(content, path)


def members(**contents: bytes) -> Callable[[Path], object]:
    """A zip of these members; in their names "__" is a slash and "_" a dot."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name.replace("__", "/").replace("_", "."), content)

    return make


def steps(body: bytes, **more: bytes) -> Callable[[Path], object]:
    """A zip as torch.save writes it, with these steps as its pickle."""
    return members(a__data_pkl=body, **more)


def tensors(**changes: object) -> Callable[[Path], object]:
    """The published file with tensors changed; their names have two underscores for a dot."""

    def make(path: Path) -> None:
        content = torch.load(PUBLISHED, weights_only=True)
        content["model"]["sd"].update({name.replace("__", "."): value for name, value in changes.items()})
        torch.save(content, path)

    return make


def arguments(value: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        content = torch.load(PUBLISHED, weights_only=True)
        content["model"]["args"] = value
        torch.save(content, path)

    return make


def changed_bytes(change: Callable[[bytearray], object]) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        content = bytearray(PUBLISHED.read_bytes())
        path.write_bytes(change(content) or content)

    return make


def storage(count: int, size: tuple, stride: tuple, offset: int = 0, dtype: str = "FloatStorage", key: str = "0"):
    """A tensor of 16 bytes that are there, described in any way."""

    def value(thing: object) -> bytes:
        return pickle.dumps(thing, 2)[2:-1]  # without its first and last step

    place = value("storage") + f"ctorch\n{dtype}\n".encode() + value(key) + value("cpu") + value(count)
    rest = value(offset) + value(size) + value(stride) + b"\x89ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + place + b"tQ" + rest + b"tR"
    body = b"\x80\x02}" + value("model") + b"}" + value("sd") + b"}" + value("x") + tensor + b"sss."
    return steps(body, a__data__0=b"\0" * 16)


def deflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02]" + b"N" * 10**8 + b".")


def member_outside(path: Path) -> None:
    torch.save({"model": {"args": {}, "sd": {}}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil", "x")


def same_numbers_again(path: Path) -> None:
    whole = torch.zeros(1000)
    torch.save({"model": {"args": {}, "sd": {f"x{k}": whole.view(-1) for k in range(1000)}}}, path)


def easydict(tail: bytes) -> Callable[[Path], object]:
    return steps(b"\x80\x02ceasydict\nEasyDict\n" + tail + b".")


def terabytes(content: bytearray) -> None:
    """The first member of the table of contents claims to be larger than any disk."""
    at = content.index(b"PK\1\2")
    struct.pack_into("<2L", content, at + 20, 0xFFFFFFFE, 0xFFFFFFFE)


def directory(length: int, start: int) -> Callable[[Path], object]:
    """The published file with another place for its table of contents."""

    def change(content: bytearray) -> None:
        content[content.rindex(b"PK\6\7")] = 0  # the second, larger place of the table is not used
        struct.pack_into("<2L", content, content.rindex(b"PK\5\6") + 12, length, start)

    return changed_bytes(change)


def many_layers(path: Path) -> None:
    one = torch.zeros(1)
    tensors(**{f"encoder__encoder__layers__{k}__x": one for k in range(3, 9003)})(path)


def flip(content: bytearray) -> None:
    content[2000] ^= 1


def old_format(path: Path) -> None:
    torch.save({}, path, _use_new_zipfile_serialization=False)


def code_archive(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def billion_laughs(path: Path) -> None:
    doubled = b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(60))
    steps(b"\x80\x02]q\x00" + doubled + b".")(path)
