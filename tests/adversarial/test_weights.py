"""Weights that were damaged, made by other tools, or made to do harm: safetensors files, their index, their tensors."""

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.attacks import BUNDLED, Attack, attacks, check, copy_of_bundled, generate
from tests.support.attacks import read_safetensors as read
from tests.support.attacks import write_safetensors as write

WEIGHTS, NORM = "model.safetensors", "model.norm.weight"
INDEX = WEIGHTS + ".index.json"
UP = "model.layers.3.mlp.up_proj.weight"


def inspect(folder: Path) -> list[str]:
    return ["inspect", "--checkpoint", str(folder)]


def raw(name: str, says: str, make: Callable[[Path], object] | bytes) -> Attack:
    """Another file, or no file at all, in place of the weights."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        (folder / WEIGHTS).unlink()
        make(folder / WEIGHTS) if callable(make) else (folder / WEIGHTS).write_bytes(make)
        return inspect(folder)

    return Attack(name, prepare, says)


def header(name: str, says: str | None, edit: Callable[[dict], object], more: Callable = lambda data: data) -> Attack:
    """The weights with another header, and with `more` done to their bytes."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        content, data = read(BUNDLED / WEIGHTS)
        changed = edit(content)
        write(folder / WEIGHTS, changed if isinstance(changed, bytes) else content, more(data))
        return inspect(folder)

    return Attack(name, prepare, says)


def norm(says: str, **changes) -> Attack:
    return header(f"the norm is {str(changes)[:60]}", says, lambda content: content[NORM].update(changes))


def twin(content: dict) -> bytes:
    other = json.dumps({NORM: content["model.layers.0.input_layernorm.weight"]})
    return (json.dumps(content)[:-1] + "," + other[1:]).encode()


def shift_last(content: dict) -> None:
    last = max((entry for name, entry in content.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])
    last["data_offsets"] = [offset + 64 for offset in last["data_offsets"]]


def add(name: str, shape: list[int], count: int = 1) -> Callable[[dict], None]:
    def edit(content: dict) -> None:
        end = max(entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__")
        for k in range(count):
            content[f"{name}{k or ''}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end]}

    return edit


def declared(dtype: str, *names: str) -> Callable[[dict], None]:
    """All tensors, or the named ones, said to be of another format of two bytes."""

    def edit(content: dict) -> None:
        for name, entry in content.items():
            if name != "__metadata__" and (not names or name in names):
                start, end = entry["data_offsets"]
                if end - start == 2 * math.prod(entry["shape"]):
                    entry["dtype"] = dtype

    return edit


def sparse(path: Path) -> None:
    """256 GB that take no place, with names and shapes that begin well."""
    content = {
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [2**30, 64], "data_offsets": [0, 2**38]},
        "model.diffusion_connector.0.weight": {"dtype": "F32", "shape": [0, 64], "data_offsets": [2**38, 2**38]},
        "model.diffusion_connector.2.weight": {"dtype": "F32", "shape": [0, 64], "data_offsets": [2**38, 2**38]},
    }
    text = json.dumps(content).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**38)


DAMAGED = "cannot be read as a safetensors file"
FILES = [
    *(
        raw(f"a header of {length:,} bytes", DAMAGED, struct.pack("<Q", length) + b"{}" * 50)
        for length in (2**63, 2**64 - 1, 0, 100_000_001, 99_000_000)
    ),
    raw("lists in lists", "nested too deeply", struct.pack("<Q", 200_000) + b"[" * 200_000),
    raw("objects in objects", "nested too deeply", struct.pack("<Q", 500_000) + b'{"a":' * 100_000),
    raw("a header that is a list", DAMAGED, struct.pack("<Q", 2) + b"[]"),
    raw("a header that is not text", "not UTF-8", struct.pack("<Q", 2) + b"\xff\xfe"),
    raw("a web page", DAMAGED, b"<!DOCTYPE html>" * 100),
    raw("a Git LFS pointer", "git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    raw("a folder", "is a folder", Path.mkdir),
    raw("a pipe", "is a pipe", os.mkfifo),
    raw("a device", "is a device", lambda path: path.symlink_to("/dev/zero")),
    raw("a link to itself", "Too many levels", lambda path: path.symlink_to(path)),
    raw("a link to nothing", "is a link to a file that does not exist", lambda path: path.symlink_to("absent")),
    raw("256 GB of nothing", "do not fit its config files|No diffusion folder fits", sparse),
    header("a name twice", "twice", twin),
    header("two tensors in one place", "starts at byte", lambda c: c[NORM].update(data_offsets=[0, 384])),
    header("a hole", "starts at byte", shift_last),
    norm(DAMAGED, data_offsets=[384, 0]),
    norm(DAMAGED, data_offsets=[-384, 0]),
    norm(DAMAGED, data_offsets=[2**50, 2**50 + 384]),
    norm(DAMAGED, data_offsets="x"),
    norm(DAMAGED, shape=[2**63]),
    norm(DAMAGED, shape=[2**32] * 3),
    norm(DAMAGED, shape=[-192]),
    norm(DAMAGED, shape=[192.0]),
    norm(DAMAGED, shape=None),
    norm(DAMAGED, dtype=None),
    norm(DAMAGED, dtype=7),
    norm(DAMAGED, dtype="F8_E4M3"),
    *(norm("number format .* not supported", dtype=dtype) for dtype in ("F128", "F4", "F6_E2M3", "F8_E8M0", "")),
    header("a stranger without numbers", "unexpected: model.layers.stranger", add("model.layers.stranger", [0])),
    header("a stranger of 0 x 2^63", DAMAGED, add("model.stranger", [0, 2**63])),
    header(
        "a stranger of 0 x 2^40 x 2^40",
        "unexpected: model.layers.stranger",
        add("model.layers.stranger", [0, 2**40, 2**40]),
    ),
    header("a name of 20 MB", "20,000,013 characters", add("model.layers." + "x" * 20_000_000, [0])),
    header(
        "names that write to a terminal",
        r"unexpected: 'model\.layers\.\\x1b",
        add("model.layers.\x1b]0;pwned\x07\x1b[31m\nerror: fake", [0]),
    ),
    header("bytes behind the last tensor", "its tensors end", lambda content: None, lambda data: data + b"evil" * 100),
    header("the last bytes missing", "its tensors end", lambda content: None, lambda data: data[:-2]),
    header("metadata of 50 MB", None, lambda content: content.update(__metadata__={"a": "x" * 50_000_000})),
    header("all tensors as I16", "number format: .* is I16", declared("I16")),
    header("the embedding as U16", "number format: .* is U16", declared("U16", "model.embed_tokens.weight")),
]
MANY = header("300,000 names more", None, add("model.stranger", [0], 300_000))


def rewritten(name: str, says: str | None, edit: Callable[[dict], object], command=generate) -> Attack:
    """The weights saved again with other tensors."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        tensors = {name: tensor.clone() for name, tensor in load_file(BUNDLED / WEIGHTS).items()}
        edit(tensors)
        (folder / WEIGHTS).unlink()
        save_file(tensors, folder / WEIGHTS)
        return command(folder)

    return Attack(name, prepare, says)


def fill(name: str, value: float):
    return lambda tensors: tensors[name].flatten()[-1:].fill_(value)


def overflow(name: str):
    return lambda tensors: tensors[name].fill_(3e38)


def put(name: str, tensor: torch.Tensor):
    return lambda tensors: tensors.update({name: tensor})


def cast(dtype: torch.dtype, *beginnings: str):
    def edit(tensors: dict) -> None:
        for name in tensors:
            if name.startswith(beginnings):
                tensors[name] = tensors[name].to(dtype)

    return edit


CONV, OUT = "model.sana_vae.decoder.conv_in.weight", "model.sana.proj_out.weight"
NO_FLOATS = (torch.int32, torch.int64, torch.bool, torch.uint8, torch.int8, torch.complex64, torch.uint16, torch.uint64)
CONNECTOR = "model.diffusion_connector.2.weight"
FP8_PARTS = {"the language model": ("model.layers.",), "SANA": (OUT,), "the autoencoder": (CONV,)}
TENSORS = [
    rewritten("NaN in the language model", f"{UP} in", fill(UP, math.nan)),
    rewritten("infinity in the autoencoder", "NaN or infinite values", fill(CONV, math.inf)),
    rewritten("infinity in SANA", "NaN or infinite values", fill(OUT, -math.inf)),
    *(
        rewritten(f"{name.split('.')[1]} of huge numbers", "NaN or infinite values", overflow(name))
        for name in (UP, CONV, OUT, CONNECTOR)
    ),
    rewritten("NaN in a head that nobody reads", None, put("lm_head.weight", torch.full((8391, 192), math.nan))),
    rewritten("zeros everywhere", None, lambda tensors: [tensor.zero_() for tensor in tensors.values()]),
    *(rewritten(f"up_proj as {dtype}", "number format", cast(dtype, UP), inspect) for dtype in NO_FLOATS),
    *(rewritten(f"{name} as int64", "number format", cast(torch.int64, name), inspect) for name in (CONV, OUT, NORM)),
    rewritten("SANA as int8", "number format: .* is I8", cast(torch.int8, "model.sana."), inspect),
    *(
        rewritten(f"{part} as {dtype}", None, cast(dtype, *names))
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float64)
        for part, names in FP8_PARTS.items()
    ),
    rewritten("everything as fp8", None, cast(torch.float8_e4m3fn, "model."), inspect),
    rewritten(
        "scaled fp8",
        "quantised or scaled fp8.*Use the weights in bfloat16",
        put(UP + "_scale", torch.ones(1)),
        inspect,
    ),
    rewritten("a connector of one axis", "a matrix of 2 axes", put(CONNECTOR, torch.ones(5)), inspect),
    rewritten("no connector", "not a BLIP3o-NEXT checkpoint", lambda tensors: tensors.pop(CONNECTOR), inspect),
    rewritten(
        "a word for the number of a stage",
        "do not fit",
        put("model.sana_vae.decoder.up_blocks.x.y", torch.ones(1)),
        inspect,
    ),
]


def index(
    name: str, says: str | None, listed, prepare_folder: Callable[[Path], object] = lambda folder: None
) -> Attack:
    """An index in place of the weights. `listed`: its weight_map, what makes it, or its text."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        prepare_folder(folder)
        (folder / WEIGHTS).unlink(missing_ok=True)
        files = listed() if callable(listed) else listed
        text = files if isinstance(files, str) else json.dumps({"weight_map": files})
        (folder / INDEX).write_text(text)
        return inspect(folder)

    return Attack(f"an index: {name}", prepare, says)


def names_of_bundled() -> list[str]:
    return [name for name in read(BUNDLED / WEIGHTS)[0] if name != "__metadata__"]


def zero_device(folder: Path) -> None:
    (folder / "zero").symlink_to("/dev/zero")


def two_shards(folder: Path) -> None:
    """The norm is in both, with other numbers."""
    tensors = load_file(BUNDLED / WEIGHTS)
    save_file(tensors, folder / "a.safetensors")
    save_file({NORM: torch.ones_like(tensors[NORM])}, folder / "b.safetensors")


NO_NAME = "is not the name of a file"
INDEXES = [
    *(
        index(f"the file {str(value)[:30]!r}", NO_NAME, {"a": value})
        for value in (
            "../../../../../../etc/passwd",
            "/etc/passwd",
            str(BUNDLED / WEIGHTS),
            {"b": 1},
            None,
            ".",
            "..",
            "",
            "a\0b",
            "\ud800",
            "x" * 5000,
            "\x1b[31mred\n.safetensors",
            "http://127.0.0.1:9/x.safetensors",
        )
    ),
    index(
        "100,000 files that are missing",
        "100000 of them are missing",
        lambda: {str(k): f"{k}.x" for k in range(100_000)},
    ),
    index("lists in lists", "nested too deeply", "[" * 200_000),
    index("objects in objects", "nested too deeply", '{"a":' * 200_000),
    index("no map", "lists no files", "{}"),
    index("a pipe for a shard", "is a pipe", {"a": "pipe"}, lambda folder: os.mkfifo(folder / "pipe")),
    index("a device for a shard", "is a device", {"a": "zero"}, zero_device),
    index("a folder for a shard", "is a folder", {"a": "dir"}, lambda folder: (folder / "dir").mkdir()),
    index(
        "a tensor in two shards",
        f"{NORM} is in a.safetensors and in b.safetensors",
        {"model.embed_tokens.weight": "a.safetensors", "x": "b.safetensors"},
        two_shards,
    ),
    index(
        "a tensor that its shard lacks",
        "does not contain it",
        {NORM: "a.safetensors", "lost": "a.safetensors"},
        two_shards,
    ),
    index(
        "a tensor in two shards, one of them named",
        None,
        lambda: dict.fromkeys(names_of_bundled(), "a.safetensors"),
        two_shards,
    ),
]


REST = [*FILES[1:5], *FILES[6:13], *FILES[14:], *TENSORS[1:]]


@attacks(
    [FILES[0], FILES[5], FILES[13], TENSORS[0], INDEXES[0]],
    slow=[*REST[::2], *INDEXES[1:]],
    long=[*REST[1::2], MANY],
)
def test_bad_weights_are_refused_in_words(attack, tmp_path):
    """Catches tracebacks, hangs and dead processes for strange weights, and numbers read from wrong places."""
    check(attack, tmp_path)
