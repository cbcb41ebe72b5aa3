"""`blip3o generate` and `inspect`: what they write, that an image can be made again, and how they fail."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint import bundled
from blip3o_core.cli.main import main
from blip3o_core.images import png
from blip3o_core.images.enlarge import enlarge
from blip3o_core.images.png import read_settings

LINES = ["a red cube", "", "two dogs, one longer prompt than the other", "   ", "日本の城 {0} --seed 9"]
PROMPTS = [line for line in LINES if line.strip()]


@pytest.fixture
def run(tiny):
    """generate with the tiny model, a small size and few steps -> exit status."""
    small = [f"--checkpoint={tiny}", "--steps=2", "--device=cpu", "--size=16x24"]

    def generate(*arguments) -> int:
        return main(["generate", *small, *map(str, arguments)])

    return generate


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(*picture.size[::-1], 3)


def assert_same(one: Path, other: Path, exactly: bool = True) -> None:
    """Not `exactly`: sums over a batch run in another order, which rounds a value in thousands to its neighbour."""
    off = (pixels(one).int() - pixels(other).int()).abs()
    assert off.max() <= (0 if exactly else 1) and (off > 0).float().mean() < 0.005, (one, off.max())


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_one_prompt_makes_one_picture(run, tmp_path, capsys):
    """Catches a picture of the wrong size or place; standard output is the path and nothing else."""
    out = tmp_path / "new" / "cube.png"
    assert run("--prompt", "a red cube", "--out", out, "--size", "48x32") == 0
    assert pixels(out).shape == (32, 48, 3)
    assert list(out.parent.iterdir()) == [out]
    assert capsys.readouterr().out == f"{out}\n"


def test_without_a_name_the_next_free_number_is_taken(run, tmp_path, monkeypatch, capsys):
    """Catches an image that takes the place of another one, also of one that another command wrote in the meantime."""
    monkeypatch.chdir(tmp_path)
    assert run("--prompt=a") == 0 and capsys.readouterr().out == f"{Path('output/00001.png')}\n"
    (tmp_path / "output" / "00007.png").write_bytes(b"mine")
    real = png.save_png

    def late(path, *args, **kwargs):
        if not path.exists() and path.name == "00008.png":
            path.write_bytes(b"theirs")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(png, "save_png", late)
    assert run("--prompt=a") == 0 and capsys.readouterr().out == f"{Path('output/00009.png')}\n"
    assert (tmp_path / "output" / "00008.png").read_bytes() == b"theirs"
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [f"0000{k}.png" for k in (1, 7, 8, 9)]
    assert torch.equal(pixels(tmp_path / "output" / "00009.png"), pixels(tmp_path / "output" / "00001.png"))


def test_a_run_says_with_what_and_how_long(run, tmp_path, capsys):
    """Catches a run of which nobody knows which model made the images, where, and what took the time."""
    assert run("--prompt=a", "--out", tmp_path / "a.png") == 0
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    assert lines[0] == "model: model; device: cpu"
    assert re.fullmatch(r"1 image in .* s: loading .* s, tokens .* s \([\d,]+ a second\), diffusion .* s", lines[-1])


def test_an_enlarged_image_keeps_its_pixels(run, tmp_path):
    """Catches an image of few pixels that is blurred when it is enlarged."""
    for name, more in (("a.png", ()), ("b.png", ("--enlarge=3",))):
        assert run("--prompt=a", "--out", tmp_path / name, *more) == 0
    small, large = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    assert torch.equal(large, small.repeat_interleave(3, 0).repeat_interleave(3, 1))
    smooth = enlarge((torch.arange(256) % 2).float().repeat(256, 1)[..., None].expand(-1, -1, 3), 2)
    assert smooth.shape == (512, 512, 3) and not torch.equal(smooth[:, ::2], smooth[:, 1::2])


def test_the_default_size_is_the_models(tiny, tmp_path):
    """Catches the published 1024 built in."""
    assert main(["generate", f"--checkpoint={tiny}", "--steps=1", "--prompt=a", f"--out={tmp_path / 'a.png'}"]) == 0
    assert pixels(tmp_path / "a.png").shape == (64, 64, 3)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_file_of_prompts_fills_a_folder_with_the_single_runs(batch, run, prompts, tmp_path):
    """Catches rows that share a seed or depend on the batch: picture k is the single run with seed + k."""
    out = tmp_path / "out"
    assert run("--prompts", prompts, "--out", out, "--seed", 5, "--batch", batch) == 0
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    for k, prompt in enumerate(PROMPTS):
        assert run(f"--prompt={prompt}", "--out", tmp_path / "one.png", "--seed", 5 + k) == 0
        assert_same(out / f"{k:05d}.png", tmp_path / "one.png", exactly=batch == 1)
        assert read_settings(out / f"{k:05d}.png")["prompt"] == prompt


CHANGES = [
    ["--seed=1"], ["--noise-seed=1"], ["--steps=3"], ["--guidance=4"], ["--size=64x72"], ["--top-k=1"], ["--top-p=0.1"],
    ["--temperature=3"], ["--enlarge=2"], ["--token-guidance=9", "--negative-prompt=b"], ["--token-guidance=9"],
    ["--dtype=bf16"],
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory) -> torch.Tensor:
    out = tmp_path_factory.mktemp("plain") / "plain.png"
    small = [f"--checkpoint={tiny}", "--steps=2", "--size=16x24", "--device=cpu"]
    main(["generate", *small, "--prompt=a", f"--out={out}"])
    return pixels(out)


def assert_repeatable(path: Path, checkpoint: Path, exactly: bool = True) -> None:
    """The command stored in the image makes the same image."""
    words = shlex.split(read_settings(path)["command"])
    assert words[:2] == ["blip3o", "generate"]
    again = path.with_name("again.png")
    filled = {"--checkpoint=DIR": f"--checkpoint={checkpoint}", "--out=OUT.png": f"--out={again}"}
    assert main([filled.get(word, word) for word in words[1:]]) == 0
    assert_same(again, path, exactly)


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_a_setting_changes_the_image_and_is_stored(change, run, plain, tmp_path, tiny):
    """Catches an option that is read and then ignored, and one that decides the image and is not stored."""
    assert run("--prompt=a", f"--out={tmp_path / 'other.png'}", *change) == 0
    other = pixels(tmp_path / "other.png")
    assert other.shape != plain.shape or not torch.equal(plain, other)
    assert_repeatable(tmp_path / "other.png", tiny)


@pytest.mark.parametrize(
    "arguments",
    [["--prompt=--out=x.png 'quoted\" $HOME \\ 日本\n-", "--seed=0"], ["--prompt=a", f"--seed={2**64 - 1}"]],
    ids=["quoting", "last seed"],
)
def test_the_command_in_the_image_makes_it_again(arguments, run, tmp_path, tiny):
    """Catches a setting that is stored rounded or unquoted."""
    assert run(*arguments, "--out", tmp_path / "one.png") == 0
    assert_repeatable(tmp_path / "one.png", tiny)


def test_the_command_in_each_image_of_a_file_makes_it_again(run, prompts, tmp_path, tiny):
    """Catches an image whose command has the settings of its batch's first row."""
    words = ["--batch=2", f"--seed={2**64 - 1}", "--noise-seed=3"]
    assert run(f"--prompts={prompts}", *words, "--out", tmp_path / "out") == 0
    for path in sorted((tmp_path / "out").iterdir()):
        assert_repeatable(path, tiny, exactly=False)


def test_the_settings_hold_nothing_of_this_machine(run, tmp_path, tiny):
    """Catches a user's folder names in a picture that is given away."""
    run("--prompt", "a", "--out", tmp_path / "a.png")
    assert str(tiny.parent) not in str(read_settings(tmp_path / "a.png"))
    assert str(tmp_path) not in str(read_settings(tmp_path / "a.png"))


MISTAKES = {
    "size not a multiple": (["--size=65x64"], 1, "65x64"),
    "size of zero": (["--size=0x64"], 2, "0x64"),
    "size not a size": (["--size=big"], 2, "big"),
    "size with odd digits": (["--size=²x64"], 2, "²"),
    "no steps": (["--steps=0"], 2, "--steps"),
    "steps not a number": (["--steps=many"], 2, "--steps: 'many'"),
    "no batch": (["--batch=0"], 2, "--batch"),
    "no processes": (["--num-processes=0"], 2, "--num-processes"),
    "empty prompt": (["--prompt="], 2, "--prompt"),
    "blank prompt": (["--prompt=  "], 2, "--prompt"),
    "over-long prompt": (["--prompt=" + "word " * 100], 1, "200"),
    "over-long negative prompt": (["--negative-prompt=" + "word " * 100, "--token-guidance=2"], 1, "200"),
    "temperature below zero": (["--temperature=-1"], 2, "--temperature"),
    "top-p of zero": (["--top-p=0"], 2, "--top-p"),
    "top-p above one": (["--top-p=1.1"], 2, "--top-p"),
    "top-k below zero": (["--top-k=-1"], 2, "--top-k"),
    "token guidance below one": (["--token-guidance=0.5"], 2, "--token-guidance"),
    "guidance not a number": (["--guidance=nan"], 2, "--guidance"),
    "enlarged too much": (["--enlarge=64", "--size=480x480"], 1, "Choose --enlarge 27 or less"),
    "not enlarged": (["--enlarge=0"], 2, "--enlarge"),
    "unknown format": (["--dtype=fp8"], 2, "fp8"),
    "unknown option": (["--sed=1"], 2, "--sed. Did you mean --seed?"),
    "no such device": (["--device=toaster"], 1, "toaster"),
    "absent device": (["--device=cuda:99"], 1, "cuda:99"),
    "absent checkpoint": (["--checkpoint=/nowhere/model"], 1, "/nowhere/model"),
    "absent diffusion folder": (["--diffusion-folder=/nowhere/diffusion"], 1, "/nowhere/diffusion"),
    "folder for one image": (["--out={tmp}"], 2, ".png"),
    "other format": (["--out={tmp}/a.jpg"], 2, ".png"),
    "below a file": (["--out={tmp}/prompts.txt/a.png"], 1, "prompts.txt"),
}


@pytest.mark.parametrize("arguments, status, shown", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said_and_leaves_no_file(arguments, status, shown, run, prompts, tmp_path, capsys):
    """Catches a traceback, a wrong exit status, a message on standard output, and half-made results."""
    before = sorted(tmp_path.rglob("*"))
    defaults = ["--prompt=a", f"--out={tmp_path / 'a.png'}"]
    assert run(*defaults, *[argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == status
    said = capsys.readouterr()
    assert said.out == ""
    [line] = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert shown in line
    assert sorted(tmp_path.rglob("*")) == before


def test_mistakes_with_a_file_of_prompts(run, prompts, tmp_path, capsys):
    """Catches a file that is absent, empty or not text, a picture's name for the folder, and a late refusal."""
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "late.txt").write_text("a\n" + "word " * 100)
    (tmp_path / "taken.png").touch()
    for file, out, shown in (
        ("absent.txt", "out", "absent.txt"), ("empty.txt", "out", "empty.txt"), ("binary.txt", "out", "binary.txt"),
        ("late.txt", "out", "200"), ("prompts.txt", "taken.png", "taken.png"), (".", "out", "prompts"),
    ):  # fmt: skip
        assert run("--prompts", tmp_path / file, "--out", tmp_path / out) == 1
        assert shown in capsys.readouterr().err
        assert not list(tmp_path.rglob("0*.png"))


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(run, tmp_path):
    """Catches a first prompt that differs from the others because an editor marked the file as UTF-8."""
    (tmp_path / "marked.txt").write_text("a red cube\n", encoding="utf-8-sig")
    assert run("--prompts", tmp_path / "marked.txt", "--out", tmp_path / "out") == 0
    assert read_settings(tmp_path / "out" / "00000.png")["prompt"] == "a red cube"


def test_only_line_feeds_part_prompts(run, tmp_path):
    """Catches a prompt cut in two at a character that is no end of line in a text file."""
    (tmp_path / "odd.txt").write_bytes("a\u2028b\x0cc\r\nd\u0085e\n".encode())
    assert run("--prompts", tmp_path / "odd.txt", "--out", tmp_path / "out") == 0
    found = [read_settings(path)["prompt"] for path in sorted((tmp_path / "out").iterdir())]
    assert found == ["a\u2028b\x0cc", "d\u0085e"]


def test_an_interrupt_leaves_whole_pictures_only(run, prompts, tmp_path, monkeypatch, capsys):
    """Catches a partial file where a run over many prompts is stopped in the middle."""
    from blip3o_core import pipeline

    real, calls = pipeline.Pipeline.render, []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pipeline.Pipeline, "render", stop)
    assert run("--prompts", prompts, "--out", tmp_path / "out") == 130
    assert "complete" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00000.png"]
    assert pixels(tmp_path / "out" / "00000.png").shape == (24, 16, 3)


def test_inspect_prints_what_a_folder_holds(tiny, tmp_path, capsys):
    """Catches an inspection that prints nothing, or fails with a traceback on a folder that is no checkpoint."""
    assert main(["inspect", f"--checkpoint={tiny}"]) == 0
    assert "text-to-image" in capsys.readouterr().out
    assert main(["inspect", f"--checkpoint={tmp_path}"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_without_a_model_the_bundled_one_draws(tiny, tmp_path, capsys, monkeypatch):
    """Catches a newcomer who must name a model, and a picture whose command asks for one that it was not made with."""
    monkeypatch.setattr(bundled, "BUNDLED", tiny)
    out, again = tmp_path / "a.png", tmp_path / "again.png"
    assert main(["generate", "--prompt=a", f"--out={out}", "--steps=1", "--device=cpu"]) == 0
    settings = read_settings(out)
    assert settings["checkpoint"] == bundled.NAME and "--checkpoint" not in settings["command"]
    assert main(shlex.split(settings["command"].replace("OUT.png", str(again)))[1:]) == 0
    assert_same(out, again)
    capsys.readouterr()
    assert main(["inspect"]) == 0
    assert "text-to-image" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["generate", "--prompt=a", "--out={tmp}/a.png"], ["inspect"], ["evaluate", "tiny", "--out={tmp}/e"]]
)
def test_a_copy_without_the_bundled_model_says_so(command, tmp_path, capsys, monkeypatch):
    """Catches a traceback where files were left out of an installation."""
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path / "absent")
    assert main([word.replace("{tmp}", str(tmp_path)) for word in command]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "absent" in said.err and "incomplete" in said.err
