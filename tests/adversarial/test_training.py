"""Settings, lists and folders of runs that were damaged, or made to do harm, given to `train` and `add-references`."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.attacks import BUNDLED, Attack, attacks, check
from tests.support.bad_training import ONE, first_image, image, lines, settings, training

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
    [SETTINGS[0], SETTINGS[9], LISTS[0], LISTS[1], ADDED[0]],
    slow=[*SETTINGS[1:9], *SETTINGS[10:], *LISTS[2:], *ADDED[1:]],
    long=RESUMED,
)
def test_bad_training_is_refused_in_words(attack, tmp_path):
    """Catches tracebacks, hangs, runs on nothing, and states or caches of something else that are trained on."""
    check(attack, tmp_path)
