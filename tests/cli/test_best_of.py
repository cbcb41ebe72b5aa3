"""--best-of of `generate` and `edit`: the best of several images is kept, and it can be made again alone."""

import json

import pytest
import torch

from blip3o_core.cli.main import main
from blip3o_core.images.png import read_settings
from blip3o_core.rewards.best_of import ranking
from tests.cli.test_generate import assert_same, pixels
from tests.support.pictures import made_again, noise

OWN = """
def red(images, prompts, references, masks, meta):
    return [None if "nothing" in prompt else float(image[..., 0].mean()) for image, prompt in zip(images, prompts)]

def redder(images, prompts, references, masks, meta):
    assert all(prompt == "red" for prompt in prompts)
    places = [mask > 0 for mask in masks]
    return [float((image - shown[0])[place][:, 0].mean()) for image, shown, place in zip(images, references, places)]
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
    red = settings["best_of"]["rewards"]["red"]
    assert red["weight"] == 2 and red["version"].startswith("source ")
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


@pytest.mark.slow
def test_the_best_edit_is_judged_by_its_reference_and_mask(reward, edit, editor, place, capsys):
    """Catches rewards of an edit that see other images, no reference, or a mask of another place."""
    rewards = place / "both.yaml"
    rewards.write_text(
        f"rewards:\n- {{name: redder, use: '{place}/own.py:redder'}}\n- {{name: consistency, weight: 0}}\n"
    )
    out, inputs = place / "best.png", {"IMAGE1": place / "a.png", "MASK": place / "hole.png"}
    words = ["--image={here}/a.png", "--mask={here}/hole.png", "--instruction=red", f"--out={out}", "--seed=7"]
    assert edit(*words, "--best-of=3", f"--reward={rewards}", "--keep-all", "--dtype=fp32") == 0
    settings = read_settings(out)
    scores, best = settings["choice"]["scores"], settings["seed"] - 7
    assert settings["choice"]["seeds"] == [7, 8, 9] and scores[best] == max(scores) and len(set(scores)) == 3
    assert all(0 < one <= 1 for one in settings["choice"]["rewards"]["consistency"])
    named = [out if number == best else place / f"best.{number + 1}.png" for number in range(3)]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(map(str, named))
    before, inside = pixels(place / "a.png").float(), (slice(8, 20), slice(10, 30))
    for file, score in zip(named, scores, strict=True):
        made = pixels(file).float()
        assert ((made - before)[inside][..., 0].mean() / 255) == pytest.approx(score, abs=5e-3)
        assert torch.equal(made[:8], before[:8])
    alone = made_again(out, editor, inputs)
    assert (alone.int() - pixels(out).int()).abs().max() <= 1


@pytest.mark.slow
def test_a_list_of_edits_keeps_one_image_a_line(reward, edit, place, capsys):
    """Catches lines that share seeds, a line's own seed left out, and edits that are made again."""
    line = {"image": "a.png", "instruction": "red"}
    lines = [line, line | {"seed": 40}, line]
    (place / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--list={here}/list.jsonl", "--out={here}/made", "--best-of=2", f"--reward={reward}", "--noise-seed=3"]
    assert edit(*words) == 0
    names = [place / "made" / f"0000{number}.png" for number in range(3)]
    assert capsys.readouterr().out.splitlines() == list(map(str, names))
    stored = list(map(read_settings, names))
    assert [one["choice"]["seeds"] for one in stored] == [[0, 1], [40, 41], [4, 5]]
    assert [one["best_of"]["first_noise_seed"] for one in stored] == [3, 5, 7]
    assert all(one["noise_seed"] - noise_seed in (0, 1) for one, noise_seed in zip(stored, (3, 5, 7), strict=True))
    names[1].unlink()
    assert edit(*words) == 0 and capsys.readouterr().out == f"{names[1]}\n"


def test_other_images_of_an_edit_are_written_over_nothing(edit, place, capsys):
    """Catches --keep-all that writes over the image it started from, or over the result of another line."""
    noise(40, 30).save(place / "out.2.png")
    before = (place / "out.2.png").read_bytes()
    words = ["--best-of=2", "--reward=text", "--keep-all"]
    assert edit("--image={here}/out.2.png", "--instruction=red", "--out={here}/out.png", *words) == 1
    assert "out.2.png is also an input and would be overwritten" in capsys.readouterr().err
    line = {"image": "a.png", "instruction": "red"}
    lines = [line | {"out": "b.png"}, line | {"out": "B.1.png"}]
    (place / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert edit("--list={here}/list.jsonl", "--out={here}/made", *words) == 1
    assert 'line 2: line 1 writes B.1.png, too. Give it another "out".' in capsys.readouterr().err
    assert (place / "out.2.png").read_bytes() == before and not (place / "made").exists()


@pytest.mark.parametrize("command", [["generate", "--prompt=a"], ["edit", "--image=a.png", "--instruction=a"]])
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
def test_what_does_not_fit_is_told_before_anything_is_made(command, words, sentence, tmp_path, capsys):
    """Catches an option that is taken and does nothing, and a fault that shows only after the images are made."""
    assert main([*command, f"--out={tmp_path / 'a.png'}", *words]) != 0
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_of_equal_scores_the_first_is_the_best_and_none_loses():
    """Catches a later image of the same score, and an image without a score that wins."""
    assert ranking([0.5, None, 0.9, -1.0, 0.9]) == [2, 4, 0, 3]
    assert ranking([None, None]) == []
