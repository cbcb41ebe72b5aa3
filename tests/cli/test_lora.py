"""`--lora`: the image of the merged model, stored so that it can be made again, and refused before a model loads."""

import shlex
import shutil

import pytest
from safetensors.torch import load_file, save_file

from blip3o_core.cli.main import main
from blip3o_core.images.png import read_settings
from tests.support.loras import merged_by_peft, write_lora


@pytest.fixture(scope="module")
def loras(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("loras")
    return [write_lora(place / f"lora{seed}", tiny, seed) for seed in range(2)]


@pytest.fixture
def run(tiny, tmp_path):
    def generate(*words, checkpoint=tiny, out="out.png"):
        small = ["--prompt=a red cube", "--steps=2", "--device=cpu", "--size=16x24", f"--out={tmp_path / out}"]
        status = main(["generate", f"--checkpoint={checkpoint}", *small, *map(str, words)])
        return (tmp_path / out).read_bytes(), read_settings(tmp_path / out) if status == 0 else status

    return generate


def pixels(data: bytes) -> bytes:
    return data[data.index(b"IDAT") :]


def test_the_image_is_the_merged_models(run, tiny, loras, tmp_path, capsys):
    """Catches a LoRA that the command reads and does not use, one of two that is lost, or one without a trace in the
    image's settings."""
    merged = shutil.copytree(tiny, tmp_path / "merged" / "model")
    pairs = [(loras[0], 1.0), (loras[1], -0.5)]
    tensors = load_file(tiny / "model.safetensors")
    changed = {name: tensor.contiguous() for name, tensor in merged_by_peft(tiny, pairs).items()}
    save_file(tensors | changed, merged / "model.safetensors")
    both, settings = run("--lora", loras[0], "--lora", f"{loras[1] / 'adapter_model.safetensors'}:-0.5")
    assert "scale 2 (lora_alpha in adapter_config.json), strength -0.5" in capsys.readouterr().err
    assert pixels(both) == pixels(run(checkpoint=merged)[0])
    plain, plain_settings = run()
    assert pixels(plain) != pixels(both) and "loras" not in plain_settings
    assert pixels(run("--lora", f"{loras[0]}:0")[0]) == pixels(plain)
    assert {"--lora=LORA1:1", "--lora=LORA2:-0.5"} <= set(shlex.split(settings["command"]))
    assert [name[32:] for name in settings["loras"]] == ["x1.0", "x-0.5"] and str(tmp_path) not in str(settings)


def test_an_edit_takes_a_lora(edit, editor, place, tmp_path, capsys):
    """Catches an option that only one of the two commands has."""
    lora = write_lora(tmp_path / "lora", editor, 3)
    words = ["--image={here}/a.png", "--instruction=red"]
    for number, more in enumerate(([], ["--lora", lora])):
        assert edit(*words, *more, f"--out={{here}}/out{number}.png") == 0
    assert pixels((place / "out0.png").read_bytes()) != pixels((place / "out1.png").read_bytes())


def test_images_of_another_strength_are_made_again(tiny, loras, tmp_path, capsys):
    """Catches a folder in which images of one strength pass for those of another."""
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    words = ["generate", f"--checkpoint={tiny}", f"--prompts={tmp_path / 'prompts.txt'}", f"--out={tmp_path / 'out'}",
             "--steps=1", "--device=cpu", "--size=16x16"]  # fmt: skip
    made = []
    for strength in ("0.5", "0.5", "0.6"):
        assert main([*words, "--lora", f"{loras[0]}:{strength}"]) == 0
        made.append(bool(capsys.readouterr().out))
    assert made == [True, False, True]


@pytest.mark.parametrize(
    "word, says",
    [("gone.safetensors", "does not exist"), ("{lora}:11", "from -10 to 10"), ("{lora}:nan", "from -10 to 10")],
)
def test_what_cannot_be_used_is_refused(word, says, tiny, loras, capsys):
    """Catches an image without the LoRA that was asked for."""
    word = word.format(lora=loras[0])
    try:
        status = main(["generate", f"--checkpoint={tiny}", "--prompt=x", "--out=never.png", "--lora", word])
    except SystemExit as end:
        status = end.code
    assert status != 0 and says in capsys.readouterr().err
