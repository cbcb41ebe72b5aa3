"""`blip3o generate --best-of`: the best of several images is kept, and it can be made again alone."""

import pytest

from blip3o_core.cli.main import main
from blip3o_core.images.png import read_settings
from blip3o_core.rewards.best_of import ranking
from tests.cli.test_generate import assert_same, pixels

OWN = """
def red(images, prompts, references, masks, meta):
    return [None if "nothing" in prompt else float(image[..., 0].mean()) for image, prompt in zip(images, prompts)]
"""


@pytest.fixture
def reward(tmp_path):
    """A settings file with a reward for red."""
    (tmp_path / "own.py").write_text(OWN)
    path = tmp_path / "red.yaml"
    path.write_text(f"rewards:\n- {{name: red, use: '{tmp_path}/own.py:red', weight: 2}}\n")
    return path


@pytest.fixture
def run(tiny, reward):
    def generate(*arguments) -> int:
        small = [f"--checkpoint={tiny}", "--steps=2", "--device=cpu", "--size=16x24", "--dtype=fp32"]
        return main(["generate", *small, f"--reward={reward}", *map(str, arguments)])

    return generate


def test_the_best_is_kept_and_is_what_its_seed_makes_alone(run, tiny, tmp_path, capsys):
    """Catches another image than the best, scores of other images, and a best image that its seed does not make."""
    out = tmp_path / "best.png"
    assert run("--prompt=a", "--best-of=4", "--seed=7", "--keep-all", "--out", out) == 0
    settings = read_settings(out)
    choice, scores = settings["choice"], settings["choice"]["scores"]
    assert choice["seeds"] == [7, 8, 9, 10] and choice["rewards"] == {"red": [score / 2 for score in scores]}
    best = scores.index(max(scores))
    assert choice["score"] == scores[best] and settings["seed"] == 7 + best
    assert settings["best_of"]["rewards"] == {"red": {"version": "own", "weight": 2}}
    files = {place: out if place == best else tmp_path / f"best.{place + 1}.png" for place in range(4)}
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(map(str, files.values()))
    for place, file in files.items():
        assert pixels(file)[..., 0].double().mean() / 255 == pytest.approx(scores[place] / 2, abs=1e-2)
        assert read_settings(file)["choice"]["score"] == scores[place]
    alone = tmp_path / "alone.png"
    small = [f"--checkpoint={tiny}", "--steps=2", "--device=cpu", "--size=16x24", "--dtype=fp32", f"--out={alone}"]
    assert main(["generate", "--prompt=a", f"--seed={settings['seed']}", *small]) == 0
    assert_same(alone, out, exactly=False)


def test_a_list_keeps_one_image_a_prompt_and_skips_those_that_are_there(run, tmp_path, capsys):
    """Catches candidates of one prompt that compete with those of another, and images that are made again."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a\nnothing to score\nb\n")
    words = ["--prompts", prompts, "--best-of=2", "--out", out]
    assert run(*words) == 0
    names = [out / f"0000{k}.png" for k in range(3)]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == list(map(str, names)) and "no reward scored an image" in captured.err
    stored = list(map(read_settings, names))
    assert [one["choice"]["seeds"] for one in stored] == [[0, 1], [2, 3], [4, 5]]
    assert stored[1]["choice"]["score"] is None and stored[1]["seed"] == 2
    names[2].unlink()
    assert run(*words) == 0 and capsys.readouterr().out == f"{names[2]}\n"
    assert run(*words, "--batch=2") == 0 and capsys.readouterr().out == ""
    assert run(*words[:2], "--best-of=3", *words[3:]) == 0 and len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--reward=text"], "--reward changes nothing for a single image. Say how many with --best-of N."),
        (["--keep-all"], "--keep-all changes nothing for a single image."),
        (["--best-of=2"], "--best-of is 2, but nothing says which image is the best. Give --reward NAME"),
        (["--best-of=0", "--reward=text"], "0 is out of range; it must be from 1 to 1,024"),
        (["--best-of=2", "--reward=texts"], "'texts' is not a built-in reward."),
        (["--best-of=2", "--reward=os:system"], "reward"),
        (["--best-of=2", "--reward=missing.yaml"], "missing.yaml"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_made(words, sentence, tmp_path, capsys):
    """Catches an option that is taken and does nothing, and a fault that shows only after the images are made."""
    assert main(["generate", "--prompt=a", f"--out={tmp_path / 'a.png'}", *words]) != 0
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_of_equal_scores_the_first_is_the_best_and_none_loses():
    """Catches a later image of the same score, and an image without a score that wins."""
    assert ranking([0.5, None, 0.9, -1.0, 0.9]) == [2, 4, 0, 3]
    assert ranking([None, None]) == []
