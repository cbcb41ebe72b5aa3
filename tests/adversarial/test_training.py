"""Settings, data and folders of runs that were damaged, or made to do harm, given to `train` and `add-references`."""

import gzip
import io
import json
import math
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.attacks import BUNDLED, Attack, attacks, check

ONE = '{"image": "0.png", "caption": "a red square"}'


def image(colour: str = "red", size: tuple[int, int] = (64, 64)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "png")
    return data.getvalue()


def settings(place: Path, **changes) -> dict:
    return {
        "checkpoint": str(BUNDLED),
        "out": str(place / "run"),
        "data": [str(place / "data")],
        "train": {"connector": 1e-4},
        "steps": 1,
        "batch": 1,
        "device": "cpu",
        **changes,
    }


def write_data(place: Path) -> None:
    (place / "data").mkdir()
    (place / "data/0.png").write_bytes(image())
    (place / "data/items.jsonl").write_text(ONE + "\n")


def training(
    name: str, says: str | None, prepare: Callable = lambda place: None, text=None, words=(), **changes
) -> Attack:
    """`prepare(place)` damages the data; `changes` are of the settings, which `text` replaces."""

    def make(place: Path) -> list[str]:
        write_data(place)
        prepare(place)
        known = {key: value(place) if callable(value) else value for key, value in changes.items()}
        content = yaml.safe_dump(settings(place, **known)) if text is None else text
        (place / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["train", str(place / "c.yaml"), *words]

    return Attack(name, make, says)


def lines(*given: str | bytes) -> Callable:
    content = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in given)
    return lambda place: (place / "data/items.jsonl").write_bytes(content)


def first_image(content: bytes) -> Callable:
    return lambda place: (place / "data/0.png").write_bytes(content)


SETTINGS = [
    training("settings with a tag that runs code", r"YAML|settings", text="!!python/object/apply:os.system [exit]"),
    training("a word with a tag", r"cannot be read as YAML", words=["steps=!!python/object/apply:os.system [exit]"]),
    training("settings nested 100,000 deep", r"c\.yaml", text="[" * 100_000),
    training("settings of random bytes", r"c\.yaml", text=bytes(range(256))),
    training("settings that are a list", r"contains no settings", text="- a\n- b\n"),
    training("settings that hold themselves", r"contains no settings|YAML", text="a: &a [*a]\n- b"),
    training("a date as steps", r"steps is .*it must be a number", words=["steps=2024-01-01"]),
    training("a word without a value", r"'steps' is not a setting", words=["steps"]),
    training("an unknown key", r"evil is not a known setting", evil=1),
    training(
        "steps beyond counting", r"steps is 1000000000000000000000000000000; it must be 1,000,000,000", steps=10**30
    ),
    training("a batch beyond 64 bits", r"batch is 1180591620717411303424", batch=2**70),
    training("a seed beyond 63 bits", r"seed is 1180591620717411303424", seed=2**70),
    training("accumulation of a billion", r"images for each step", accumulation=10**9),
    training(
        "a rate that overflows",
        r"train\.connector is 1e\+300; it must be 1,000,000 or less",
        train={"connector": 1e300},
    ),
    training("a rate of NaN", r"must be a finite number", train={"connector": math.nan}),
    training("save_every of infinity", r"must be a whole number", save_every=math.inf),
    training("rank of a billion", r"lora\.rank is 1000000000", lora={"rank": 10**9}, train={"language": 1e-4}),
    training("an image of 63 pixels", r"63x63", image_size=63),
    training("an image of a terapixel", r"image_size is 1099511627776", image_size=2**40),
    training("shards of nothing", r"shard_gb is 0", shard_gb=0),
    training("a zero byte in out", r"out is .*zero byte", out="a\0b"),
    training("out below /proc", r"Cannot write /proc/x: .*continue with --resume", out="/proc/x"),
    training("out that is a file", r"Cannot write .*run", lambda place: (place / "run").write_text("x")),
    training("a cache below /proc", r"Cannot write /proc/x", cache="/proc/x"),
    training("a checkpoint that is a file", r"/etc/passwd", checkpoint="/etc/passwd"),
    training("data that is a device", r"data names /dev/null, which is not a folder", data=["/dev/null"]),
    training("data that is a text", r"data names /etc/passwd", data=["/etc/passwd"]),
    training("a name of 5,000 letters as data", r"data names x+\.\.\. \(5,000 characters\)", data=["x" * 5000]),
]

LISTS = [
    training("a list nested 200,000 deep", r"items\.jsonl, line 1: .*nested too deeply", lines("[" * 200_000)),
    training(
        "a list that is a pipe",
        r"items\.jsonl is a pipe",
        lambda p: ((p / "data/items.jsonl").unlink(), os.mkfifo(p / "data/items.jsonl")),
    ),
    training("a list without lines", r"contains no images", lines("")),
    training("a list in other bytes", r"line 1, is not UTF-8", lines(b'{"image": "\xff"}')),
    training("a list in UTF-16", r"UTF-16", lines(ONE.encode("utf-16"))),
    training(
        "captions under another key",
        r"unknown key 'text'\. Did you mean caption",
        lines('{"image": "0.png", "text": "red"}'),
    ),
    training(
        "an image that is a pipe",
        r"'pipe' is not a regular file",
        lambda p: (os.mkfifo(p / "data/pipe"), lines('{"image": "pipe"}')(p)),
    ),
    training("an image that is a device", r"'/dev/zero' is not a regular file", lines('{"image": "/dev/zero"}')),
    training("an image that is a text", r"/etc/passwd.*as an image", lines('{"image": "/etc/passwd"}')),
    training("an image that is an object", r"Give paths as text", lines('{"image": {"a": 1}}')),
    training("a zero byte in a name", r"does not exist", lines(r'{"image": "a\u0000.png"}')),
    training("5,000 letters in a name", r"5,002 characters.*does not exist", lines('{"image": "' + "x" * 5000 + '"}')),
    training("half a character in a name", r"does not exist", lines(r'{"image": "\ud800.png"}')),
    training(
        "half a character in a caption", r"half a character", lines(r'{"image": "0.png", "caption": "red \ud800"}')
    ),
    training("a caption that is a number", r"the caption is 5", lines('{"image": "0.png", "caption": 5}')),
    training(
        "a caption of a megabyte",
        r"0\.png: .*tokens",
        lines(json.dumps({"image": "0.png", "caption": "red " * 250_000})),
    ),
    training("a caption with U+2028", None, lines('{"image": "0.png", "caption": "red\u2028blue"}')),
    training("an image of no bytes", r"0\.png is empty", first_image(b"")),
    training("an image cut in half", r"0\.png.*as an image", first_image(image()[:90])),
    training("an image of 60,000 pixels a side", r"60000x1", first_image(image(size=(60_000, 1)))),
    training(
        "a git-lfs pointer as an image",
        r"Git LFS pointer",
        first_image(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
]


def tar(*members, mode: str = "w") -> Callable:
    """A shard of (name, bytes) and (name, type)."""

    def prepare(place: Path) -> None:
        with tarfile.open(place / "d.tar", mode) as shard:
            for name, content in members:
                member = tarfile.TarInfo(name)
                if isinstance(content, bytes) and len(content) != 1:
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
                else:
                    member.type, member.linkname = content, "/etc/passwd"
                    shard.addfile(member)

    return prepare


def raw_tar(content: bytes | Callable[[bytes], bytes]) -> Callable:
    def prepare(place: Path) -> None:
        tar(("a.png", image()), ("a.txt", b"black"))(place)
        whole = (place / "d.tar").read_bytes()
        (place / "d.tar").write_bytes(content(whole) if callable(content) else content)

    return prepare


def header(name: str, size: bytes, kind: bytes = b"0", **fields: tuple[int, bytes]) -> bytes:
    """A tar header with a size and other fields as nobody writes them, and the right sum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size.ljust(12, b"\0"), kind
    for start, content in fields.values():
        block[start : start + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = header("a.txt", b"00000000000\0", b"S", real=(483, b"\x80\0\0\x0f" + bytes(8)))
NEGATIVE = header("a.png", b"\xff" * 12)
SHARD = {"data": lambda place: [str(place / "d.tar")]}
SHARDS = [
    training("a shard that is fine", None, tar(("a.png", image()), ("a.txt", b"red")), **SHARD),
    training("members that leave the folder", None, tar(("../../evil.png", image()), ("/evil.txt", b"red")), **SHARD),
    training(
        "a link to the system",
        r"contains no images .*links to what is not in the shard",
        tar(("a.png", tarfile.SYMTYPE)),
        **SHARD,
    ),
    training(
        "a device in a shard", r"contains no images .*devices and pipes", tar(("a.png", tarfile.CHRTYPE)), **SHARD
    ),
    training(
        "json nested 200,000 deep",
        r"a\.json cannot be read as JSON: it is nested too deeply",
        tar(("a.png", image()), ("a.json", b"[" * 200_000)),
        **SHARD,
    ),
    training(
        "json that is a list",
        r"a\.json must contain a JSON object",
        tar(("a.png", image()), ("a.json", b"[1,2]")),
        **SHARD,
    ),
    training(
        "json without a caption",
        r'a\.json has no "caption"',
        tar(("a.png", image()), ("a.json", b'{"text": "red"}')),
        **SHARD,
    ),
    training(
        "a text in other bytes",
        r"a\.txt, line 1, is not UTF-8",
        tar(("a.png", image()), ("a.txt", b"\xff\xfa")),
        **SHARD,
    ),
    training("a shard cut in a member", r"cut short|unexpected end", raw_tar(lambda whole: whole[:600]), **SHARD),
    training("a shard of garbage", r"uncompressed \.tar shard", raw_tar(b"x" * 5000), **SHARD),
    training("a shard of nothing", r"uncompressed \.tar shard", raw_tar(b""), **SHARD),
    training("a compressed shard", r"uncompressed \.tar shard", raw_tar(gzip.compress), **SHARD),
    training("two shards in one file", r"several shards were joined", raw_tar(lambda whole: whole + whole), **SHARD),
    training("a sparse member of 60 GB", r"sparse", raw_tar(SPARSE + bytes(1024)), **SHARD),
    training("a member of a negative size", r"d\.tar", raw_tar(NEGATIVE + bytes(1024)), **SHARD),
    training(
        "a member of an exabyte",
        r"cut short|d\.tar",
        raw_tar(header("a.png", b"\x80\0\0\0\x10" + bytes(7)) + bytes(1024)),
        **SHARD,
    ),
    training(
        "10,000 long names before a member",
        r"d\.tar",
        raw_tar(b"".join([header("././@LongLink", b"00000000001\0", b"L") + b"x".ljust(512, b"\0")] * 10_000)),
        **SHARD,
    ),
    training("a shard that is a pipe", r"data names", lambda place: os.mkfifo(place / "d.tar"), **SHARD),
]


def packed(**changes) -> Callable:
    """A packed file whose tensors are changed; bytes are captions."""

    def prepare(place: Path) -> None:
        tensors = {"codes": torch.zeros(2, 64, dtype=torch.int32), "latents": torch.zeros(2, 16, 8, 8)}
        tensors["captions"] = torch.frombuffer(bytearray(b'["red", "red"]'), dtype=torch.uint8)
        for name, change in changes.items():
            given = (
                change(tensors[name]) if callable(change) else torch.frombuffer(bytearray(change), dtype=torch.uint8)
            )
            tensors[name] = given.contiguous()
        save_file(tensors, place / "d.safetensors")

    return prepare


PACK = {"data": lambda place: [str(place / "d.safetensors")]}
PACKS = [
    training("a packed file that is fine", None, packed(), **PACK),
    training("captions nested 200,000 deep", r"nested too deeply", packed(captions=b"[" * 200_000), **PACK),
    training("captions in other bytes", r"not UTF-8", packed(captions=b"\xff\xff"), **PACK),
    training("captions of floats", r"captions is .*must be bytes", packed(captions=lambda old: torch.zeros(3)), **PACK),
    training("too few captions", r"1 captions for 2 images", packed(captions=b'["red"]'), **PACK),
    training("codes beyond the codebook", r"codes are .* to 1000000", packed(codes=lambda old: old + 10**6), **PACK),
    training("codes below zero", r"codes are -1", packed(codes=lambda old: old - 1), **PACK),
    training("codes that are true or false", r"must be integer", packed(codes=lambda old: old.bool()), **PACK),
    training("codes of uint64", r"must be integer", packed(codes=lambda old: old.to(torch.uint64)), **PACK),
    training("latents of NaN", r"row \d: its latents contains NaN", packed(latents=lambda old: old * math.nan), **PACK),
    training(
        "latents of 8 bits", r"must be floating-point", packed(latents=lambda old: old.to(torch.float8_e4m3fn)), **PACK
    ),
    training(
        "no rows",
        r"contains no images",
        packed(codes=lambda old: old[:0], latents=lambda old: old[:0], captions=b"[]"),
        **PACK,
    ),
    training("codes without width", r"0 codes per image", packed(codes=lambda old: old[:, :0]), **PACK),
    training(
        "a packed file cut short",
        r"d\.safetensors",
        lambda place: (
            packed()(place),
            (place / "d.safetensors").write_bytes((place / "d.safetensors").read_bytes()[:-9]),
        ),
        **PACK,
    ),
]


def after_a_run(name: str, says: str | None, spoil: Callable[[Path], object]) -> Attack:
    """One step was trained, then something is done to the run's folder, then it is continued."""

    def prepare(place: Path) -> None:
        from blip3o_core.training.config import TrainingConfig
        from blip3o_core.training.trainer import train

        train(TrainingConfig(**settings(place)))
        spoil(place / "run")

    return training(name, says, prepare, words=["steps=2", "--resume"])


def spoil_cache(codes: Callable, latents: Callable = lambda old: old) -> Callable:
    def spoil(run: Path) -> None:
        for file in (run / "cache").rglob("*.safetensors"):
            entry = load_file(file)
            save_file(
                {"codes": codes(entry["codes"]).contiguous(), "latents": latents(entry["latents"]).contiguous()}, file
            )

    return spoil


def last(run: Path) -> Path:
    return max(run.glob("step-*"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch run/cache/evil.png",)  # which `check` would find


RESUMED = [
    after_a_run("a run as it was left", None, lambda run: None),
    after_a_run("zeros at the end of the log", None, lambda run: (run / "log.jsonl").open("ab").write(b"\0\0\0\0\n")),
    after_a_run("a number in the log", None, lambda run: (run / "log.jsonl").open("a").write("5\n")),
    after_a_run("other bytes in the log", None, lambda run: (run / "log.jsonl").open("ab").write(b"\xff\xff\n")),
    after_a_run(
        "a folder as the log",
        r"Cannot write .*run",
        lambda run: ((run / "log.jsonl").unlink(), (run / "log.jsonl").mkdir()),
    ),
    after_a_run(
        "no facts in state.json",
        r"does not say its resume_fingerprint",
        lambda run: (last(run) / "training/state.json").write_text("{}"),
    ),
    after_a_run(
        "an empty state.json",
        r"state\.json cannot be read as JSON",
        lambda run: (last(run) / "training/state.json").write_text(""),
    ),
    after_a_run(
        "a nested state.json",
        r"nested too deeply",
        lambda run: (last(run) / "training/state.json").write_text("[" * 200_000),
    ),
    after_a_run(
        "a state cut short",
        r"Cannot read .*state\.pt.*Remove",
        lambda run: (last(run) / "training/state.pt").write_bytes(
            (last(run) / "training/state.pt").read_bytes()[:-500]
        ),
    ),
    after_a_run(
        "a state that is absent", r"Cannot read .*state\.pt", lambda run: (last(run) / "training/state.pt").unlink()
    ),
    after_a_run(
        "a state with code in it",
        r"Cannot read .*state\.pt",
        lambda run: torch.save({"step": 1, "x": Evil()}, last(run) / "training/state.pt"),
    ),
    after_a_run(
        "a state of another run",
        r"is absent in its parameters",
        lambda run: torch.save(
            {"step": 1, "parameters": {}, "optimizer": {}, "ema": None}, last(run) / "training/state.pt"
        ),
    ),
    after_a_run("a copy of a checkpoint", None, lambda run: shutil.copytree(last(run), run / "step-x")),
    after_a_run(
        "a link where parts are deleted", None, lambda run: (run / ".step-00000009").symlink_to(run.parent / "data")
    ),
    after_a_run(
        "garbage in the cache",
        None,
        lambda run: [file.write_bytes(b"x") for file in (run / "cache").rglob("*.safetensors")],
    ),
    after_a_run("other numbers in the cache", None, spoil_cache(lambda old: old * 0, lambda old: old * 0 + 7)),
    after_a_run("floats as codes in the cache", None, spoil_cache(lambda old: old + 0.5)),
    after_a_run("another shape in the cache", None, spoil_cache(lambda old: old[:3])),
    after_a_run("codes beyond the codebook in the cache", None, spoil_cache(lambda old: old + 10**6)),
    after_a_run(
        "a file as the cache",
        r"Cannot write .*cache",
        lambda run: (
            shutil.rmtree(run / "cache"),
            (run / "cache").write_text("x"),
            (run.parent / "data/0.png").touch(),
        ),
    ),
]


def adding(name: str, says: str | None, out: str, *words: str) -> Attack:
    command = ["add-references", "--checkpoint", str(BUNDLED), "--reference-mode", "cross", "--out", out, *words]
    return Attack(name, lambda place: command, says)


ADDED = [
    adding("add-references into an existing folder", r"already exists", "."),
    adding("add-references onto a device", r"/dev/full/x", "/dev/full/x"),
    adding("add-references below /proc", r"/proc/x", "/proc/x"),
    adding("add-references with a zero byte", r"zero byte|null byte|cannot", "a\0b"),
]


@attacks(
    [SETTINGS[0], SETTINGS[9], LISTS[0], LISTS[1], SHARDS[4], PACKS[1], ADDED[0]],
    slow=[*SETTINGS[1:9], *SETTINGS[10:], *LISTS[2:], *SHARDS[:4], *SHARDS[5:], PACKS[0], *PACKS[2:], *ADDED[1:]],
    long=RESUMED,
)
def test_bad_training_is_refused_in_words(attack, tmp_path):
    """Catches tracebacks, hangs, runs on nothing, and states or caches of something else that are trained on."""
    check(attack, tmp_path)
