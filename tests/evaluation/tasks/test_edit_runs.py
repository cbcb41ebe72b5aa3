"""Edit benchmarks from their files to a table: the folder that the official scorer reads, and what the judge said."""

import json

import pytest

from blip3o_core.cli.main import main
from blip3o_core.images.reader import open_image
from tests.support.edit_benchmarks import imgedit, write
from tests.support.evaluation import words
from tests.support.judges import write_prompts
from tests.support.stand_in import ENOUGH, StandIn, chat, says


def judge(tmp_path, server, model):
    given = {"url": server.url, "model": model, "prompts": str(tmp_path / "prompts"), "at_once": 1, "retries": 0}
    if not (tmp_path / "prompts").exists():
        write_prompts(tmp_path / "prompts")
    path = tmp_path / f"{model}.yaml"
    path.write_text(json.dumps(given | {"timeout": ENOUGH}))
    return f"--judge={path}"


def by_text(handler):
    """An answer for each kind of edit; the boot's image is refused at first."""
    text = json.loads(handler.body)["messages"][0]["content"][0]["text"]
    answers = {"shell": "A: 5\nB: 5\nC: 4", "woodcut": "A: 2\nB: 2\nC: 2", "boot": "A: 1\nB: 1\nC: 1"}
    chat(next(answer for word, answer in answers.items() if word in text))(handler)


def test_imgedit_from_its_files_to_a_table(tiny, tmp_path, capsys):
    """Catches images that its scorer does not find, a failure that costs the others, and answers that are paid for
    again; and an overall number that is not the mean of the kinds."""
    data, out = imgedit(tmp_path), tmp_path / "out"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "prompts.json").write_text(
        json.dumps({"adjust": "Grade <edit_prompt>", "replace": "Look: <edit_prompt>"})
    )
    with StandIn(by_text, says("", 400), by_text) as server:
        run = words(tiny, out, f"--data={data}", judge(tmp_path, server, "seer"), task="imgedit")
        assert main(run) == 1
        assert sorted(path.name for path in (out / "images").iterdir()) == ["1082.png", "628.png", "673.png"]
        assert open_image(out / "images" / "628.png").size == (72, 48)  # the shape of its original, 6x4
        (found,) = json.loads((out / "results.json").read_text())["scorers"]
        assert (found["name"], found["n"], found["failures"]) == ("imgedit-seer", 2, 1)
        assert main(run) == 0
        assert len(server.asked) == 4
        (found,) = json.loads((out / "results.json").read_text())["scorers"]
        measures = found["measures"]["score"]
        assert measures["overall"]["mean"] == pytest.approx(((4.67 + 2) / 2 + 1) / 2)
        assert measures["categories"]["adjust"]["mean"] == pytest.approx((4.67 + 2) / 2)
        assert (found["n"], found["failures"]) == (3, 0)
        assert main(run) == 0 and len(server.asked) == 4
    note = "Note: judged by seer, not comparable with published GPT-4o numbers."
    assert note in (out / "results.md").read_text() and note in capsys.readouterr().out
    kept = (out / "scores" / "imgedit-seer" / "answers.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["text"][:4] for line in kept) == ["A: 1", "A: 2", "A: 5"]
    assert "python step2_typescore.py" in (out / "results.md").read_text()


def test_gedit_from_its_files_to_a_table(tiny, tmp_path):
    """Catches a folder that test_gedit_score.py skips, and numbers of the smaller set that are those of all."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write(data, "list")
    lines = (data / "metadata.jsonl").read_text().splitlines()
    (data / "metadata.jsonl").write_text("\n".join([*lines[:2], lines[2].replace("true", "false")]))
    answers = ["[9, 4]", "[10, 9]", "[1, 4]", "[9, 9]"]
    with StandIn(*map(chat, answers)) as server:
        run = words(tiny, out, f"--data={data}", judge(tmp_path, server, "gpt-4.1"), task="gedit")
        assert main(run) == 0 and len(server.asked) == 4
    place = out / "images" / "blip3o" / "fullset"
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*.png")) == [
        "color_alter/en/ab12.png",
        "color_alter/en/ab12_SRCIMG.png",
        "text_change/en/ef56.png",
        "text_change/en/ef56_SRCIMG.png",
    ]
    (found,) = json.loads((out / "results.json").read_text())["scorers"]
    means = {name: one["overall"]["mean"] for name, one in found["measures"].items()}
    assert means == pytest.approx({"overall": (6 + 3) / 2, "SC": 2.5, "PQ": 9, "overall_intersection": 6})
    assert found["decisive"]["notes"] == [] and "Note" not in (out / "results.md").read_text()
    with StandIn(*map(chat, answers)) as server:
        other = judge(tmp_path, server, "other")
        assert main([*run[:-1], other]) == 0
    assert {path.name for path in (out / "scores").iterdir()} >= {"gedit-gpt-4.1", "gedit-other"}


def test_wise_by_its_judge(tiny, tmp_path):
    """Catches a judge that is not asked with the explanation, and categories that do not have their weights."""
    out, prompts = tmp_path / "out", tmp_path / "prompts.json"
    kinds = {1: "Cultural knowledge", 401: "time"}
    about = {"Explanation": "It is round.", "Subcategory": "Festival"}
    rows = [{"prompt_id": id, "Prompt": "A cake", "Category": kind, **about} for id, kind in kinds.items()]
    prompts.write_text(json.dumps(rows))
    with StandIn(chat("Score: 1"), chat("Score: 0")) as server:
        run = words(tiny, out, f"--data={prompts}", judge(tmp_path, server, "Qwen3.5-35B-A3B"), task="wise")
        assert main(run) == 0
        texts = [body["messages"][1]["content"][0]["text"] for body in server.bodies]
    assert len(texts) == 2 and all('PROMPT: "A cake"\nEXPLANATION: "It is round."' in text for text in texts)
    (found,) = json.loads((out / "results.json").read_text())["scorers"]
    assert found["measures"]["score"]["overall"]["mean"] == pytest.approx(0.4 / 0.52)
    assert found["decisive"]["notes"] == [] and (out / "images" / "401.png").is_file()
