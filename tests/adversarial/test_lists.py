"""Lists of edits and of prompts: texts that are no lists, entries that are no edits, names that lead elsewhere."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.support.attacks import Attack, attacks, check
from tests.support.image_files import chunk, png

GOOD = {"image": "a.png", "instruction": "make it blue"}
Prepare = Callable[[Path], object]


def nothing(_: Path) -> None:
    pass


def edits(content: bytes | str | list, before: Prepare = nothing, out: str = "out") -> Callable[[Path], list[str]]:
    """The words for a list with this `content`, or with these entries; `before`: what else is in its folder."""

    def prepare(place: Path) -> list[str]:
        Image.new("RGB", (64, 64)).save(place / "a.png")
        before(place)
        text = content
        if isinstance(text, list):
            text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in text)
        (place / "list.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["edit", "--list", "list.jsonl", "--out", out, "--steps", "1"]

    return prepare


def one(**changes) -> Callable[[Path], list[str]]:
    return edits([{**GOOD, **changes}])


def images(value, **changes) -> Callable[[Path], list[str]]:
    return edits([{"images": value, "instruction": "x", **changes}])


def prompts(content: bytes, *words: str) -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        (place / "p.txt").write_bytes(content)
        return ["generate", "--prompts", "p.txt", "--out", "out", "--steps", "1", *words]

    return prepare


def out_folder(make: Prepare) -> Prepare:
    def before(place: Path) -> None:
        (place / "out").mkdir()
        make(place / "out")

    return before


def pipe_as_list(place: Path) -> list[str]:
    os.mkfifo(place / "list.jsonl")
    return ["edit", "--list", "list.jsonl", "--out", "out"]


def absent_list(_: Path) -> list[str]:
    return ["edit", "--list", "absent.jsonl", "--out", "out"]


def with_settings(text: bytes, compressed: int = 0) -> bytes:
    """An image that seems to be one of ours, with `text` as its settings."""
    rows = (b"\0" * 193) * 64
    return png(64, 64, rows, 8, 2, chunk(b"iTXt", b"blip3o\0" + bytes([compressed]) + b"\0\0\0" + text))


LINE = r"list\.jsonl has faulty lines\. No image was made\..*line 1: "
OVERWRITTEN = LINE + "The result .* would be overwritten"
SHORT_NAMES = {"image": "a.png", "instruction": "x", "out": "l.png"}
REFUSED = {
    "image: a file of the system": (one(image="../" * 9 + "etc/passwd"), LINE + "Cannot read .*passwd"),
    "image: an absolute path": (one(image="/etc/passwd"), LINE + "Cannot read /etc/passwd"),
    "image: a URL": (one(image="https://127.0.0.1:9/a.png"), LINE + r".*a\.png does not exist"),
    "image: a zero byte": (one(image="a\0.png"), LINE + r"'\S*a\\x00\.png' cannot be read: embedded null byte"),
    "image: half a character": (one(image="\ud800.png"), LINE + r"'.ud800\.png' cannot be read"),
    "image: 5,000 characters": (one(image="x" * 5000), LINE + r"x+\.\.\. \(5,000 characters\) cannot be read"),
    "image: a pipe": (edits([{**GOOD, "image": "p"}], lambda place: os.mkfifo(place / "p")), LINE + "p is a pipe"),
    "image: moves the cursor": (one(image="\x1b[31mx\n.png"), LINE + r"'\\x1b\[31mx\\n\.png' does not exist"),
    "image: empty": (one(image=""), LINE + r"the images are \[''\]"),
    "image: a number": (one(image=5), LINE + r"the images are \[5\]"),
    "image: a list": (one(image=["a.png"]), LINE + r"the images are \[\['a.png'\]\]"),
    "image: none": (one(image=None), LINE + r"the images are \[None\]"),
    "image: the folder": (one(image="."), LINE + r". is a folder"),
    "images: none at all": (images([]), LINE + "There are 0 images; an edit takes 1 to 8"),
    "images: nine": (images(["a.png"] * 9), LINE + "There are 9 images; an edit takes 1 to 8"),
    "images: 100,000": (images(["a.png"] * 10**5), LINE + "There are 100000 images"),
    "images: nested": (images([["a.png"]]), LINE + r"the images are \[\['a.png'\]\]"),
    "images: text": (images("a.png"), LINE + r"the images are a\.png"),
    "images: 100,000 numbers": (images([1] * 10**5), LINE + r"the images are \[1.*characters\)"),
    "image and images": (one(images=["a.png"]), LINE + 'give either "image", a path, or "images"'),
    "neither image nor images": (edits([{"instruction": "x"}]), LINE + 'give either "image"'),
    "an unknown key": (one(evil=1), LINE + "unknown key 'evil'. A line can have image, images, instruction"),
    "an unknown key of 100,000 characters": (one(**{"k" * 10**5: 1}), LINE + r"unknown key 'k+\.\.\. \(100,00"),
    "a key with a capital": (edits([{"Image": "a.png", "instruction": "x"}]), LINE + "unknown key 'Image'"),
    "a key twice": (
        edits(['{"image": "a.png", "image": "/etc/passwd", "instruction": "x"}']), LINE + ".*'image' stands in"
    ),
    "out: a folder above": (one(out="../x.png"), LINE + r"out is '../x.png'; it must be the name of a .png file"),
    "out: an absolute path": (one(out="/tmp/x.png"), LINE + "out is '/tmp/x.png'"),
    "out: a path of Windows": (one(out="a\\b.png"), LINE + "out is "),
    "out: another format": (one(out="a.jpg"), LINE + "out is 'a.jpg'"),
    "out: a zero byte": (one(out="a\0.png"), LINE + "out is "),
    "out: a number": (one(out=3), LINE + "out is 3; it must be text"),
    "out: 304 characters": (one(out="x" * 300 + ".png"), "Cannot write .*: File name too long. Choose another --out"),
    "out: the input": (edits([{**GOOD, "out": "a.png"}], out="."), OVERWRITTEN),
    "out: the input with a capital": (edits([{**GOOD, "out": "A.PNG"}], out="."), OVERWRITTEN),
    "out: a folder": (
        edits([SHORT_NAMES], out_folder(lambda out: (out / "l.png").mkdir())), r"Cannot write out/l\.png: it is a fold"
    ),
    "out: a link to the input": (
        edits([SHORT_NAMES], out_folder(lambda out: (out / "l.png").symlink_to(out.parent / "a.png"))),
        OVERWRITTEN,
    ),
    "out: twice": (edits([SHORT_NAMES, {**SHORT_NAMES, "out": "L.PNG"}]), r"line 2: line 1 writes L\.PNG, too"),
    "--out: a file": (edits([GOOD], lambda place: (place / "out").write_text("x")), "Cannot write to the folder out"),
    "--out: in /proc": (edits([GOOD], out="/proc/x"), "Cannot write to the folder /proc/x"),
    "seed: 1.0": (one(seed=1.0), LINE + "seed is 1.0; it must be a whole number"),
    "seed: text": (one(seed="1"), LINE + "seed is '1'"),
    "seed: true": (one(seed=True), LINE + "seed is True"),
    "seed: a list": (one(seed=[1] * 10**5), LINE + r"seed is \[1.*characters\)"),
    "seed: 5,000 digits": (
        edits(['{"image": "a.png", "instruction": "x", "seed": ' + "9" * 5000 + "}"]), LINE + ".*too many digits"
    ),
    "seed: beyond all numbers": (
        edits(['{"image": "a.png", "instruction": "x", "seed": 1e400}']), LINE + "seed is inf; it must be a whole"
    ),
    "instruction: spaces": (one(instruction="  "), LINE + "The instruction is '  '"),
    "instruction: missing": (edits([{"image": "a.png"}]), LINE + "The instruction is ''"),
    "instruction: a list": (one(instruction=["x"]), LINE + "instruction is .*; it must be text"),
    "instruction: half a character": (one(instruction="blue \ud800"), LINE + "The prompt contains half a character"),
    "instruction: too long": (one(instruction="blue " * 2000), LINE + "The prompt .* Shorten"),
    "mask: a file of the system": (one(mask="../" * 9 + "etc/passwd"), LINE + "Cannot read .*passwd"),
    "mask: empty": (one(mask=""), LINE + "mask is ''; give a path"),
    "mask: none": (one(mask=None), LINE + "mask is None; it must be text"),
    "mask: black": (one(mask="a.png"), LINE + "a.png: The mask is empty"),
    "200,000 brackets": (edits("[" * 200_000), LINE + "the line cannot be read as JSON: it is nested too deeply"),
    "200,000 braces": (edits('{"image":' * 200_000), LINE + "the line cannot be read as JSON: it is nested too deep"),
    "a number": (edits(["5"]), LINE + "'5' is not a JSON object"),
    "null": (edits(["null"]), LINE + "'null' is not a JSON object"),
    "a list in place of lines": (edits(json.dumps([GOOD])), LINE + ".* is not a JSON object"),
    "an object of many lines": (edits(json.dumps(GOOD, indent=1)), LINE + "the line cannot be read as JSON"),
    "JSON of Python": (edits(str(GOOD)), LINE + "the line cannot be read as JSON"),
    "empty": (edits(""), r"list\.jsonl is empty\. Write an edit on each line"),
    "a mark alone": (edits(b"\xef\xbb\xbf"), r"list\.jsonl is empty"),
    "UTF-16": (edits(json.dumps(GOOD).encode("utf-16")), r"list\.jsonl, line 1, is not UTF-8 text: it looks"),
    "UTF-16 without a mark": (edits(json.dumps(GOOD).encode("utf-16-le")), "it looks like UTF-16"),
    "Latin-1": (edits(json.dumps(GOOD).encode() + b"\n" + b'{"image": "caf\xe9.png"}'), r"list\.jsonl, line 2, is not"),
    "binary": (edits(bytes(range(128, 256)) * 9), r"list\.jsonl, line 1, is not UTF-8 text: byte 0 is 0x80"),
    "100,000 faulty lines": (edits(["x"] * 100_000), r"line 10: .*and 99990 more$"),
    "the last of four": (edits([GOOD] * 3 + ["{}"]), r"line 4: give either"),
    "a pipe": (pipe_as_list, r"list\.jsonl is a pipe, not a regular file"),
    "absent": (absent_list, r"absent\.jsonl does not exist. Give --list a UTF-8 text file of JSON objects"),
    "prompts: Latin-1": (prompts(b"a red \xff circle"), r"p\.txt, line 1, is not UTF-8 text: byte 6 is 0xff"),
    "prompts: UTF-16": (prompts("a red circle".encode("utf-16")), "it looks like UTF-16"),
    "prompts: UTF-16 without a mark": (prompts("a red circle".encode("utf-16-be")), "it looks like UTF-16"),
    "prompts: a mark alone": (prompts(b"\xef\xbb\xbf"), r"p\.txt"),
    "prompts: spaces": (prompts(b" \n\t\n"), r"p\.txt"),
    "prompts: one too long": (prompts(b"red circle\n" + b"red " * 5000), "The prompt .* Shorten"),
    "prompts: a line of 17 MB": (prompts(b"red circle\n" + b"r" * 17 * 2**20), r"p\.txt, line 2, has 17,825,792"),
}  # fmt: skip


def all_that_is_taken(place: Path) -> list[str]:
    """A list, because each process takes seconds to load the model."""
    out = place / "out"
    out.mkdir()
    (out / "link.png").symlink_to(place / "outside.png")
    (out / "bomb.png").write_bytes(with_settings(zlib.compress(b"[" * 10**8, 9), 1))
    (out / "deep.png").write_bytes(with_settings(b"[" * 10**5))
    (out / "number.png").write_bytes(with_settings(b"5"))
    names = [
        ".png",
        "..png",
        "a:b.png",
        "link.png",
        "bomb.png",
        "deep.png",
        "number.png",
        "x" * 248 + ".png",
    ]
    lines = [json.dumps({**GOOD, "out": name}) for name in names]
    lines += [json.dumps({**GOOD, "seed": seed}) for seed in (0, 2**64 - 1)]
    lines += [json.dumps({**GOOD, "instruction": text}, ensure_ascii=False) for text in ("a\u2028b", "a\x85b")]
    lines += ['{"image": "a.png", "instruction": "make\\u0000it blue"}', "  " + json.dumps(GOOD) + "\t"]
    text = "\ufeff" + "\r\n".join(lines[:5]) + "\r\n\r\n" + "\r".join(lines[5:9]) + "\n" + "\n".join(lines[9:])
    return edits(text)(place)


SAMPLE = ["image: a pipe", "a key twice", "200,000 brackets", "UTF-16 without a mark", "out: a folder above"]
refused = [Attack(name, prepare, says) for name, (prepare, says) in REFUSED.items()]


@attacks(
    [attack for attack in refused if attack.name in SAMPLE],
    slow=[attack for attack in refused if attack.name not in SAMPLE],
)
def test_a_bad_list_is_refused_in_words(attack, tmp_path):
    """Catches tracebacks, hangs, messages of megabytes, and images written where nobody asked for them."""
    check(attack, tmp_path)


@attacks([], long=[Attack("odd names, seeds, instructions and line ends", all_that_is_taken, None)])
def test_an_odd_list_is_taken_and_writes_into_its_folder(attack, tmp_path):
    """Catches an image written through a link, and one cut where its instruction holds a line separator."""
    check(attack, tmp_path)
    made = list((tmp_path / "out").iterdir())
    assert len(made) == 14 and all(path.is_file() and not path.is_symlink() for path in made)
    assert not (tmp_path / "outside.png").exists()
