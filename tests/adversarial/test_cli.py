"""The command line: numbers, names, devices and places that no command can use, and how they are answered."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.attacks import Attack, attacks, check

LONG = "9" * 5000
WIDE = "18,446,744,073,709,551,615"


def generate(*more: str, out: str = "out.png") -> Callable[[Path], list[str]]:
    return lambda place: ["generate", "--prompt=a red circle", "--steps=2", f"--out={out}", *more]


def prompts(*more: str, content: bytes = b"a red circle\n", out: str = "out") -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        (place / "p.txt").write_bytes(content)
        return ["generate", "--prompts=p.txt", f"--out={out}", "--steps=2", *more]

    return prepare


def parts(*more: str, folder: str | None = None) -> Callable[[Path], list[str]]:
    def prepare(place: Path) -> list[str]:
        if folder:
            (place / folder).mkdir()
        return ["recipe", "parts", "--count=9", "--steps=1", *more]

    return prepare


def at_a_pipe(place: Path) -> list[str]:
    os.mkfifo(place / "x")
    return parts("--json=x")(place)


def prompts_at_a_pipe(place: Path) -> list[str]:
    os.mkfifo(place / "pipe")
    return prompts("--prompts=pipe")(place)


def option(name: str, *values: str, says: str) -> list[Attack]:
    """Values of an option of `generate` that are refused alike; the answer names the option."""
    pattern = rf"^error: argument {name}: .*{says}"
    return [Attack(f"{name} {value[:30]!r}", generate(f"{name}={value}"), pattern) for value in values]


def refused(name: str, says: str, *values: str) -> list[Attack]:
    """Values of an option of `generate` that only the library refuses."""
    return [Attack(f"{name} {value[:30]!r}", generate(f"{name}={value}"), says) for value in values]


def place(name: str, out: str, says: str) -> Attack:
    return Attack(f"--out {name}", generate(out=out), says)


NUMBERS = [
    *option("--steps", "-1", "0", "1.5", "nan", "99999999999", str(2**70), "abc", "", LONG, says="from 1 to 10,000"),
    *option("--guidance", "nan", "inf", "-1", "1e308", "1e400", "abc", says="from 0 to 1,000,000"),
    *option("--top-k", "-1", str(2**70), "1.5", says="from 0 to 2,147,483,647"),
    *option("--top-p", "0", "-1", "nan", "2", says="above 0 and at most 1"),
    *option("--temperature", "-1", "nan", "inf", "1e308", says="from 0 to 1,000,000"),
    *option("--token-guidance", "0", "nan", "1e9", "-3", says="from 1 to 1000"),
    *option("--seed", "-1", str(2**64), str(-(2**70)), "nan", "1.0", "0x10", LONG, says=f"from 0 to {WIDE}"),
    *option("--noise-seed", "-1", str(2**64), says=f"from 0 to {WIDE}"),
    *option("--batch", "0", "-1", str(10**9), str(2**70), says="from 1 to 1,000,000"),
    *option("--num-processes", "0", "100000", str(2**70), says="from 1 to 256"),
    *option("--threads", "0", "-5", str(2**70), says="from 1 to 1,024"),
    *option("--size", "-64x64", "64", "axb", "64x64x64", "٤٤x64", "1e3x64", "0x0", "9" * 30 + "x64",
            says="is not a size; write width and height in pixels"),
    *refused("--size", r"The size is 63x64, but width and height must be multiples of 16 .* Nearest: 64x64", "63x64"),
    *refused("--size", r"The longer side may be at most \d+ times", "2147483x8", "999999992x64"),
    *refused("--size", r"needs about .* of memory, and .* free on cpu\. Make a smaller image\.",
             "1048576x1048576", "65536x65536"),
    *option("--guidance-interval", "0-2", "nan-1", "1-0", "-1-1", "a-b", "0.5", "0-1-2", "1e400-1e400", "0-inf",
            says="is not an interval"),
    *option("--dtype", "fp16", "fp8", "float16", "", says="choose from .?auto"),
]  # fmt: skip

DEVICES = [
    *refused("--device", r"--device 'cuda.* cannot be used: .+(for the CPU|no GPU|has .*cuda:0)", "cuda:99"),
    *refused("--device", r"--device '.* cannot be used: .+ Try cpu or cuda\.",
             "meta", "mps", "vulkan", "evil", "", "cuda:99999999999999", "privateuseone", "c\0pu", LONG),
    Attack("--device cpu:7", generate("--device=cpu:7"), None),
]  # fmt: skip

CANNOT = r"^error: Cannot write .*Choose another --out\.$"
PLACES = [
    place("a folder", "/tmp", r"must be the name of a \.png file"),
    place("without a suffix", "x", r"must be the name of a \.png file"),
    place("in /proc", "/proc/x/y.png", CANNOT),
    place("in /proc/self", "/proc/self/y.png", CANNOT),
    place("under a file", "/etc/passwd/x.png", CANNOT),
    place("under a device", "/dev/full/x.png", CANNOT),
    place("of 300 characters", "x" * 300 + ".png", CANNOT),
    place("of 5,000 characters", "x" * 5000 + ".png", CANNOT),
    place("deeper than the system goes", "x/" * 3000 + "x.png", CANNOT),
    place("with a zero byte", "a\0b.png", CANNOT),
    place("with a zero byte in the folder", "a\0b/c.png", CANNOT),
    Attack("--prompts into a folder with a zero byte", prompts(out="a\0b"), CANNOT),
    Attack("--prompts into a file", prompts(out="p.txt"), CANNOT),
    Attack("--prompts into /proc", prompts(out="/proc/self/task"), CANNOT),
    Attack("--out of 250 characters", generate(out="x" * 246 + ".png"), None),
    Attack("--out with half a character", generate(out="\udcff.png"), None),
    Attack("parts --json a folder", parts("--json=."), r"Cannot write .*it is a folder\. Choose another --json"),
    Attack("parts --json in /proc", parts("--json=/proc/x.json"), r"Cannot write .*Choose another --json"),
    Attack("parts --json at a pipe", at_a_pipe, r"Cannot write x: it is a pipe\. Choose another --json\."),
    Attack("parts --grid a folder", parts("--grid=x.png", folder="x.png"), r"argument --grid: x\.png must be"),
    Attack("parts --grid no image", parts("--grid=x.txt"), r"argument --grid: x\.txt must be the name of a \.png"),
    Attack("evaluate into a file", lambda _: ["evaluate", "tiny", "--out=/etc/passwd/x"], CANNOT),
    Attack("evaluate into /proc", lambda _: ["evaluate", "tiny", "--out=/proc/x"], CANNOT),
    Attack("sheet into a file", lambda _: ["recipe", "sheet", "--out=/etc/passwd/x.png"], CANNOT),
    Attack("bench --json a folder", lambda _: ["bench", "memory", "--json=."], r"Choose another --json"),
    Attack("reconstruct into /proc", lambda _: ["reconstruct", "--image=a.png", "--out=/proc/x.png"], r"^error: .*"),
]

NAMES = [
    *refused("--checkpoint", r"^error: .*(does not exist|cannot be (read|looked into)|no config\.json|is a file)",
             "/nonexistent", "/etc/passwd", "/", "/proc/self", "BLIP3o/BLIP3o-NEXT-GRPO-TexT-3B",
             "https://example.com/model", "a\0b", "x" * 5000),
    *refused("--diffusion-folder", r"^error: The diffusion folder .* must contain",
             "/nonexistent", "/", "a\0b", "x" * 300),
    Attack("inspect of a device folder", lambda _: ["inspect", "--checkpoint=/dev"], r"^error: "),
    Attack("a whole factor too large", generate("--enlarge=60", "--size=512x512"), r"Choose --enlarge 26 or less"),
    Attack("an empty --checkpoint", generate("--checkpoint="), r"^error: "),
    Attack("an unknown command", lambda _: ["paint"], r"unknown command 'paint'"),
    Attack("no command", lambda _: [], r"The command is missing"),
    Attack("an option cut short", generate("--temp=1"), r"unknown option --temp\. Did you mean --temperature\?"),
]  # fmt: skip

PROMPTS = [
    Attack("prompts in latin-1", prompts(content=b"a red \xff circle"), r"is not UTF-8 text: byte 6 is 0xff"),
    Attack("prompts in UTF-16", prompts(content="a".encode("utf-16")), r"it looks like UTF-16"),
    Attack("prompts of one mark", prompts(content=b"\xef\xbb\xbf"), r"--prompts p\.txt is empty"),
    Attack("a prompt that is too long", prompts(content=b"a\n" + b"red " * 5000), r"tokens"),
    Attack("a prompt with a zero byte", prompts(content=b"a\0b\n"), None),
    Attack("prompts at a pipe", prompts_at_a_pipe, r"is a pipe"),
    Attack("prompts at a device", prompts("--prompts=/dev/zero"), r"/dev/zero is a device, not a regular file"),
    Attack("a lone surrogate", generate("--prompt=red \ud800 circle"), r"^error: "),
    Attack("half a character", generate("--prompt=red \udcff circle"), r"^error: "),
    Attack("10 MB of words", generate("--prompt=" + "red " * 100_000), r"tokens"),
    Attack("a negative prompt that nobody uses", generate("--negative-prompt=\udcff"), None),
    Attack("half a negative prompt", generate("--negative-prompt=\udcff", "--token-guidance=2"), "^error: .*half a"),
]


WORK = {"--size '1048576x1048576'", "--device cpu:7", "--out of 250 characters", "a prompt with a zero byte"}
SAMPLE = [NUMBERS[0], NUMBERS[8], DEVICES[5], *PLACES[6:10], NAMES[0], PROMPTS[0]]
ALL = [*NUMBERS, *DEVICES, *PLACES, *NAMES, *PROMPTS]


@attacks(
    SAMPLE,
    slow=[attack for attack in ALL if attack not in SAMPLE and attack.name not in WORK],
    long=[attack for attack in ALL if attack.name in WORK],
)
def test_words_that_no_command_can_use_are_answered_in_a_sentence(attack, tmp_path):
    """Catches tracebacks, hangs, work that is done for nothing, and partial files for words of the command line."""
    check(attack, tmp_path)
