"""What judges are asked and what their answers mean, by the rules of the benchmarks' own scripts."""

import base64
import io
import json
import math

import pytest
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.interface import Item
from blip3o_core.evaluation.judges.find import open_judge
from blip3o_core.evaluation.judges.gedit import smallest_score
from blip3o_core.evaluation.judges.imgedit import scores_of
from blip3o_core.evaluation.judges.query import Unusable
from blip3o_core.evaluation.judges.wise import WiseOriginalQuestions, WiseQuestions
from tests.support.judges import WISE, asked, edit, encoded, write_prompts
from tests.support.stand_in import ENOUGH, StandIn, chat


def judged(tmp_path, task, *steps, **more):
    """The bodies of the questions about one image, and what the judge found."""
    with StandIn(*map(chat, steps)) as server:
        given = {"url": server.url + "/v1", "model": "gpt-4o", "prompts": str(write_prompts(tmp_path / task))}
        path = tmp_path / "judge.yaml"
        path.write_text(json.dumps(given | {"retries": 0, "timeout": ENOUGH} | more))
        judge = open_judge(task, path)
        items, candidates = asked(1.0)
        (found,) = judge(items, candidates)
        return server.bodies, found, judge


def parts(body) -> list:
    """Texts as they are; an image as (kind, decoded image)."""
    found = []
    for message in body["messages"]:
        for part in message["content"]:
            if part["type"] == "text":
                found.append(part["text"])
            else:
                kind, _, data = part["image_url"]["url"].partition(";base64,")
                data = base64.b64decode(data)
                found.append((kind, data, Image.open(io.BytesIO(data))))
    return found


def test_imgedit(tmp_path):
    """Catches another order of the images, a source that is packed anew, and settings that its script does not send."""
    (body,), found, judge = judged(tmp_path, "imgedit", "Brief reasoning: ok\nA: 5\nB: 4\nC: 4")
    text, before, after = parts(body)
    assert text == "Grade the addition.\nediting instruction is : Add a tree..\n"
    assert before[:2] == ("data:image/jpeg", encoded(0, "JPEG"))
    assert after[0] == "data:image/png" and after[2].size == (8, 8) and after[2].getpixel((0, 0)) == (255, 255, 255)
    assert set(body) == {"model", "messages"}
    assert found == {"score": 4.33, "first": 5, "second": 4, "third": 4}
    assert judge.name == "imgedit-gpt-4o" and judge.decisive["notes"] == []


def test_gedit(tmp_path):
    """Catches another order or size of the images, a larger score that is taken, and a mean that is not the root."""
    bodies, found, judge = judged(
        tmp_path, "gedit", '{"score": [9, 4]}', '{"score": [8, 9]}', model="gpt-4.1-2025-04-14"
    )
    sc, before, after = parts(bodies[0])
    assert sc == (
        'You grade images.\nAnswer as {"score" : [...]}\nRULES:\nTwo images.\n'
        "From 0 to 10.\nEditing instruction: Add a tree.\n"
    )
    assert [before[0], after[0]] == ["data:image/jpeg"] * 2
    assert before[2].size == after[2].size == (6, 4) and before[2].getpixel((0, 0)) < (9, 9, 9)
    assert after[2].getpixel((0, 0)) > (246, 246, 246)
    pq, alone = parts(bodies[1])
    assert pq == 'You grade images.\nAnswer as {"score" : [...]}\nRULES: one image.' and alone[:2] == after[:2]
    assert bodies[0]["max_tokens"] == 1400 and set(bodies[0]) == {"model", "messages", "max_tokens"}
    overall = math.sqrt(4 * 8)
    assert found == {"overall": overall, "SC": 4, "PQ": 8, "overall_intersection": overall}
    assert judge.decisive["notes"] == [] and judge.decisive["backbone"] == "gpt4o"


def test_gedit_by_qwen(tmp_path):
    """Catches GPT's settings and files for the benchmark's other judge, and numbers that pass for those of GPT-4.1."""
    answers = ['{"score": [9, 4]}', '{"score": [8, 9]}']
    bodies, _, judge = judged(
        tmp_path, "gedit", *answers, backbone="qwen25vl", model="Qwen/Qwen2.5-VL-72B-Instruct-AWQ"
    )
    before, after, text = parts(bodies[0])
    assert [before[0], after[0]] == ["data:image/png"] * 2 and text.endswith("Add a tree.\n")
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"]) == (0, 512)
    assert judge.decisive["notes"] == []


def test_wise(tmp_path):
    """Catches messages that are not those of the benchmark's function, and code of its file that is run."""
    (body,), found, judge = judged(tmp_path, "wise", "<think>Score: 1</think>\n**Score: 0**", model="Qwen3.5-35B-A3B")
    made: dict = {}
    exec(WISE.replace("os._exit(1)", ""), made)
    (_, image) = parts(body)[1:]
    messages = made["build_evaluation_messages"](
        {"Prompt": "Add a tree.", "Explanation": "It is a tree."}, base64.b64encode(image[1]).decode()
    )
    assert body["messages"] == messages and found == {"score": 0}
    assert (body["temperature"], body["max_tokens"]) == (0, 500)
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and judge.decisive["notes"] == []


def test_wise_original(tmp_path):
    """Catches the weights of the three scores."""
    answer = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
    (body,), found, _ = judged(tmp_path, "wise-original", answer, model="gpt-4o-2024-05-13")
    assert found == pytest.approx({"wiscore": 0.8, "consistency": 2, "realism": 1, "aesthetic_quality": 0})
    assert body["max_tokens"] == 2000 and "chat_template_kwargs" not in body


def test_an_answer_is_asked_for_as_often_as_the_benchmark_does(tmp_path):
    """Catches a judge that is asked for ever, and one that gives up before the benchmark's script does."""
    bodies, found, _ = judged(tmp_path, "wise", "Hm.", "Well.", "Score: 1")
    assert len(bodies) == 3 and bodies[0] == bodies[2] and found == {"score": 1}
    bodies, found, _ = judged(tmp_path / "again", "wise", "Hm.", "Well.", "No.", "Score: 1")
    assert len(bodies) == 3 and "gave no usable answer to score" in str(found)
    bodies, found, _ = judged(tmp_path / "gedit", "gedit", "Hm.", "Well.", '{"score": [1, 2]}')
    assert len(bodies) == 2 and isinstance(found, Exception)  # never a number that is guessed


READ = {
    scores_of: {
        "Brief: x\nA: 1\nB: 5\nC: 3": {"score": 3.0, "first": 1, "second": 5, "third": 3},
        "A: 1\n B: 5 \nC: 4\nBelow: this": {"score": 3.33, "first": 1, "second": 5, "third": 4},
        "A: 1\nB: 5": None,
        "A: 1\nB: 5\nC: 3\nD: 2": None,
        "A: 1\nB: 6\nC: 3": None,
        "A: 0\nB: 5\nC: 3": None,
        "**A: 1**\n**B: 5**\n**C: 3**": None,
        "A: 1.5\nB: 5\nC: 3": None,
        "": None,
    },
    smallest_score: {
        '{"score": [5, 8], "reasoning": "ok"}': 5,
        'x\n||V^=^V||\n{"score": [9,\n 8]}\n||V^=^V||': 8,
        '```json\n{"score" : [7, 3],\n"reasoning" : "a {b} c"}\n```': 3,
        "[6, 0]": 0,
        "Output: [6, 10]": 6,
        "7": 7,
        '{"score": 4.5}': 4.5,
        "11": None,
        "[6,0] and [1, 2]": None,
        '{"score": [5, 11]}': None,
        '{"score": []}': None,
        '{"score": ["5", 1]}': None,
        '{"score": [true, 1]}': None,
        '{"score": [NaN, 1]}': None,
        '{"score": [5, 8], "reasoning": "a "b" c"}': None,
        '{"score": [5, 8': None,
        '{"reasoning": "x"}': None,
        "I cannot help with that.": None,
    },
    WiseQuestions.read: {
        "Score: 1": {"score": 1},
        "**Score**: 0\nScore: 1": {"score": 0},
        "1": {"score": 1},
        "Score: 2": None,
        "Score: 10": None,
        "1\n0": None,
        "right": None,
    },
    WiseOriginalQuestions.read: {
        "2\n1\n0": {"wiscore": 0.8, "consistency": 2, "realism": 1, "aesthetic_quality": 0},
        "**Consistency:** 1": None,
        "Consistency: 2\nRealism: 1\nAesthetic Quality: 3": None,
        "Consistency: 2\nRealism: 1": None,
        "2\n1": None,
    },
}


@pytest.mark.parametrize(("read", "text"), [(read, text) for read, texts in READ.items() for text in texts])
def test_what_an_answer_means(read, text):
    """Catches a number that the judge did not give, and an answer that the benchmark's own script can read."""
    value = READ[read][text]
    if value is None:
        with pytest.raises(Unusable):
            read(text)
    else:
        assert read(text) == pytest.approx(value)


def test_another_judge_is_named(tmp_path):
    """Catches numbers of another model or other settings that pass for those of the benchmark's own."""
    answers = ["A: 1\nB: 1\nC: 1"]
    _, _, other = judged(tmp_path, "imgedit", *answers, model="qwen3-vl", temperature=0, fields={"top_p": 1})
    assert other.name == "imgedit-qwen3-vl" and other.decisive["notes"] == [
        "judged by qwen3-vl, not comparable with published GPT-4o numbers",
        "temperature is 0.0; the benchmark's own script has None",
        "fields is {'top_p': 1}; the benchmark's own script has {}",
    ]
    assert other.decisive["sent"] == {"temperature": 0, "top_p": 1}
    own = judged(tmp_path / "own", "imgedit", *answers, model="openai/gpt-4o-2024-11-20")[2]
    assert own.decisive["notes"] == [] and own.version != other.version


def test_items_that_cannot_be_asked_about_cost_only_themselves(tmp_path):
    """Catches an edit of an unknown kind, or a source that is not an image, that ends the judging of all."""
    path = tmp_path / "judge.yaml"
    with StandIn(chat("A: 1\nB: 1\nC: 1"), chat("5"), chat("5")) as server:
        given = {"url": server.url, "model": "m", "prompts": str(write_prompts(tmp_path / "p")), "at_once": 1}
        path.write_text(json.dumps(given))
        _, candidates = asked(0.0, 1.0)
        unknown, right = open_judge("imgedit", path)([edit("a", category="odd"), edit("b")], candidates)
        assert "has no prompt for edits of the kind 'odd'" in str(unknown) and right["score"] == 1
        broken = Item("a", "Add.", "add", (), {"Intersection_exist": False}, {"source": lambda: b"\x89PNG"})
        wrong, right = open_judge("gedit", path)([broken, edit("b")], candidates)
        assert "Cannot read the source of item a" in str(wrong) and right["overall"] == 5


WRONG = {
    "no prompts": ({"prompts": None}, "prompts is None; it must be text. It is the benchmark's file"),
    "empty folder": ({"prompts": "."}, "has none of prompts.json"),
    "missing": ({"prompts": "nowhere.json"}, "nowhere.json does not exist. It is Benchmark/Basic/prompts.json"),
    "other form": ({"prompts": "list.json"}, "list.json.*must contain a JSON object of texts"),
    "unknown": ({"promt": "x"}, "Did you mean prompts?"),
    "tries": ({"tries": 11}, "tries is 11"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings(name, tmp_path, monkeypatch):
    """Catches a run that begins with a judge that cannot work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    changes, words = WRONG[name]
    given = {"url": "http://127.0.0.1:1", "model": "m", "prompts": str(write_prompts(tmp_path / "p")), **changes}
    (tmp_path / "judge.yaml").write_text(json.dumps(given))
    with pytest.raises(Blip3oError, match=words):
        open_judge("imgedit", tmp_path / "judge.yaml")
    with pytest.raises(Blip3oError, match="geneval has no judge behind an address. --judge is for imgedit, gedit"):
        open_judge("geneval", tmp_path / "judge.yaml")


CODE = {
    "no function": "x = 1",
    "computed": "def build_evaluation_messages(p, i):\n    return [f(x)]",
    "format": "def build_evaluation_messages(p, i):\n    return [{'role': 'user', 'content': "
    "[{'type': 'text', 'text': f'{p[0]:>3}'}]}]",
    "unknown hole": "def build_evaluation_messages(p, i):\n    return [{'role': 'user', 'content': "
    "[{'type': 'text', 'text': f\"{p['Secret']}\"}]}]",
    "other form": "def build_evaluation_messages(p, i):\n    return ['a']",
    "not a list": "def build_evaluation_messages(p, i):\n    return 'a'",
    "not Python": "def (",
    "deep": "x = " + "(" * 5000,
    "zero byte": "x = '\0'",
}


@pytest.mark.parametrize("name", CODE)
def test_python_files_of_another_form(name, tmp_path):
    """Catches a file that is understood half, and one that ends the program."""
    (tmp_path / "vllm_eval.py").write_text(CODE[name])
    given = {"url": "http://127.0.0.1:1", "model": "m", "prompts": str(tmp_path)}
    (tmp_path / "judge.yaml").write_text(json.dumps(given))
    with pytest.raises(Blip3oError, match="It is vllm_eval.py of github.com/PKU-YuanGroup/WISE"):
        open_judge("wise", tmp_path / "judge.yaml")
    (tmp_path / "vie_prompts.py").write_text(CODE[name])
    with pytest.raises(Blip3oError, match=r"It is GEdit-Bench/viescore/vie_prompts.py"):
        open_judge("gedit", tmp_path / "judge.yaml")
