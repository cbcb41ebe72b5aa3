"""The reward `vlm` against a stand-in for a chat endpoint: what is asked, how often, and what an answer is worth."""

import base64
import io
import json
import threading

import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.answers import AnswerFile
from blip3o_core.rewards.chat import Chat, key_from_environment, text_part, user
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.rewards.rubric import BUILT_IN, Rubric, load_rubric
from blip3o_core.rewards.vlm import VlmReward
from blip3o_core.rewards.web import BadAnswer, NoAnswer, Refused
from tests.support.stand_in import ENOUGH, StandIn, chat, cut, hangs, says

RUBRIC = {
    "instruction": "Judge it.",
    "fields": {
        "good": {"meaning": "10: good.", "range": [0, 10], "weight": 3},
        "clean": {"meaning": "1: clean.", "range": [-1, 1]},
    },
}
SECRET = "key-0123456789"


@pytest.fixture
def rubric(tmp_path):
    path = tmp_path / "rubric.json"
    path.write_text(json.dumps(RUBRIC))
    return str(path)


def numbers(good, clean=1.0) -> str:
    return json.dumps({"reason": "So it is.", "good": good, "clean": clean})


GOOD = chat(numbers(10))


def judge(server, rubric, **more) -> VlmReward:
    options = {"retries": 1, "wait": 0.0, "timeout": ENOUGH, "at_once": 1, "rubric": rubric}
    return VlmReward(url=server.url + "/v1", model="seer", **options | more)


def shade(value: float) -> torch.Tensor:
    return torch.full((4, 6, 3), value)


def asked(*values, prompt="a red circle") -> Candidates:
    return Candidates([shade(value) for value in values], [prompt] * len(values))


def test_what_is_sent_and_what_an_answer_is_worth(rubric, monkeypatch):
    """Catches an image, a reference or a prompt that the judge does not see, and wrong weights or ranges."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with StandIn(chat(numbers(5, 0))) as server:
        one = judge(server, rubric, key_variable="JUDGE_KEY", fields={"top_p": 1}, seed=7)
        given = Candidates([shade(1.0)], ['red "\n'], [[shade(0.0)]])
        assert given.judged_by(one) == [0.5]
        assert one.range == (0, 1) and one.name == "vlm" and one.version.startswith("seer ")
        (body,) = server.bodies
        _, path, headers, _ = server.asked[0]
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", f"Bearer {SECRET}")
    (message,) = body.pop("messages")
    assert body == {"model": "seer", "temperature": 0, "seed": 7, "max_tokens": 512, "top_p": 1}
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    images = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert message["role"] == "user" and texts[1:] == [
        "Reference image 1:",
        "The image to judge:",
        r'The text, as a JSON string: "red \"\n"',
    ]
    assert texts[0].startswith("Judge it.\n") and '"good": a number from 0 to 10. 10: good.' in texts[0]
    seen = []
    for url in images:
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
        seen.append(Image.open(io.BytesIO(data)).getpixel((5, 3)))
    assert seen == [(0, 0, 0), (255, 255, 255)]


VALUES = {
    "plain": (numbers(10, 1), 1.0),
    "least": (numbers(0, -1), 0.0),
    "weights": ('{"good": 10, "clean": -1}', 0.75),
    "fence": (f"```json\n{numbers(5, 1)}\n```", 0.625),
    "bare fence": (f"\n```\n{numbers(5, 1)}```\n", 0.625),
}
UNUSABLE = {
    "words": "The image is good: 10",
    "words around": f"Here it is: {numbers(5)}",
    "two": f"{numbers(5)}\n{numbers(6)}",
    "missing": '{"good": 10}',
    "more": '{"good": 10, "clean": 1, "nice": 5}',
    "twice": '{"good": 10, "good": 1, "clean": 1}',
    "text": '{"good": "10", "clean": 1}',
    "true": '{"good": true, "clean": 1}',
    "nan": '{"good": NaN, "clean": 1}',
    "beyond": '{"good": 11, "clean": 1}',
    "cut": '{"good": 10, "cle',
    "list": "[10, 1]",
    "empty": "",
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    """Catches a weight or the start of a range that is forgotten, and a fence that loses a good answer."""
    text, value = VALUES[name]
    assert Rubric(**RUBRIC).value(text) == value


@pytest.mark.parametrize("name", UNUSABLE)
def test_answers_that_are_no_values(name):
    """Catches a number that the judge did not give for what it was asked."""
    with pytest.raises(Blip3oError):
        Rubric(**RUBRIC).value(UNUSABLE[name])


def test_an_answer_that_cannot_be_read_is_asked_for_once_more(rubric, tmp_path):
    """Catches a judge that is asked for ever, and an answer whose text is lost."""
    answers = tmp_path / "answers.jsonl"
    with StandIn(chat("I like it"), GOOD, chat("no"), chat(None), GOOD) as server:
        scores = RewardMix([Part(judge(server, rubric, answers=str(answers)))]).score(asked(0.0, 0.5, 1.0))
        assert scores.parts == {"vlm": [1, None, 1]} and not scores.failed
        again = server.bodies[1]["messages"]
        assert [each["role"] for each in again] == ["user", "assistant", "user"]
        assert again[1]["content"] == "I like it" and len(server.bodies) == 5
    assert [json.loads(line)["text"] for line in answers.read_text().splitlines()][:4] == [
        "I like it",
        numbers(10),
        "no",
        "",
    ]
    (problem,) = scores.problems
    assert "could not judge 1 of 3 images; image 2 with the prompt 'a red circle': " in problem
    assert f"{server.url}/v1 gave no usable answer" in problem and "Check the model and the rubric." in problem
    # Nothing is asked again, not even what could not be read.
    with StandIn(says("", 500)) as server:
        mix = RewardMix([Part(judge(server, rubric, answers=str(answers)))])
        assert mix.score(asked(0.0, 0.5, 1.0)).parts == scores.parts
        assert server.asked == []
        with pytest.raises(Blip3oError, match="could not judge 1 of 1 images.*JSON"):
            mix.score(asked(0.5))


def test_the_file_says_what_was_asked(rubric, tmp_path, monkeypatch):
    """Catches answers of which nobody can say what they answer, and a key in the file."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    path = tmp_path / "new" / "answers.jsonl"
    text = json.dumps({"reason": f"You sent {SECRET}", "good": 1, "clean": 1})
    with StandIn(chat(text)) as server:
        one = judge(server, rubric, answers=str(path), key_variable="JUDGE_KEY")
        asked(0.0).judged_by(one)
    (entry,) = map(json.loads, path.read_text().splitlines())
    assert {"key", "text", "prompt_hash", "image_hash", "model", "answered_by", "rubric", "ended", "time"} == set(entry)
    assert (entry["model"], entry["answered_by"], entry["rubric"]) == ("seer", "seer-1", one.rubric.identity)
    assert SECRET not in path.read_text() and SECRET not in repr(vars(one))


def test_nothing_is_asked_twice(rubric, tmp_path):
    """Catches money spent on an answer that is there, and an answer used for another image, prompt, rubric or seed."""
    answers = str(tmp_path / "answers.jsonl")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**RUBRIC, "instruction": "Judge it well."}))
    with StandIn(GOOD) as server:
        assert asked(*[0.0] * 6, 1.0).judged_by(judge(server, rubric, answers=answers, at_once=7)) == [1] * 7
        assert len(server.asked) == 2
        asked(1.0, 0.0).judged_by(judge(server, rubric, answers=answers))
        assert len(server.asked) == 2
        one = judge(server, rubric, answers=answers)
        asked(0.0, prompt="b").judged_by(one)
        Candidates([shade(0.0)], ["a red circle"], [[shade(0.0)]]).judged_by(one)
        Candidates([torch.zeros(6, 4, 3)], ["a red circle"]).judged_by(one)
        asked(0.0).judged_by(judge(server, str(other), answers=answers))
        asked(0.0).judged_by(judge(server, rubric, answers=answers, seed=1))
        assert len(server.asked) == 7


def test_a_run_that_was_killed_while_it_wrote(rubric, tmp_path):
    """Catches a file that cannot be read after a kill, or loses the answer behind the line that was cut off."""
    answers = tmp_path / "answers.jsonl"
    with StandIn(GOOD) as server:
        asked(0.0, 1.0).judged_by(judge(server, rubric, answers=str(answers)))
        whole = answers.read_bytes()
        answers.write_bytes(whole[:-20])
        asked(1.0).judged_by(judge(server, rubric, answers=str(answers)))
        assert len(server.asked) == 3
        asked(0.0, 1.0).judged_by(judge(server, rubric, answers=str(answers)))
        assert len(server.asked) == 3
    answers.write_text("a\nb\nc\n")
    with pytest.raises(Blip3oError, match="holds other lines than answers"):
        judge(server, rubric, answers=str(answers))
    assert answers.read_text() == "a\nb\nc\n"


def test_two_runs_write_to_one_file(tmp_path):
    """Catches lines of two processes that are mixed, and answers that are lost to it."""
    path = tmp_path / "answers.jsonl"
    files = [AnswerFile(path), AnswerFile(path)]

    def write(which):
        for number in range(50):
            files[which].add(f"{which} {number}", "text " * 2000, {})

    threads = [threading.Thread(target=write, args=(which,)) for which in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    again = AnswerFile(path)
    assert all(again.texts(f"{which} {number}") == ["text " * 2000] for which in range(2) for number in range(50))


FAULTS = {
    "429": (says({"error": {"message": "slow down"}}, 429, Retry_After=0), NoAnswer, "status 429: slow down"),
    "500": (says("oops", 500), NoAnswer, "status 500: oops"),
    "cut": (cut, NoAnswer, "broke off"),
    "hangs": (hangs, NoAnswer, "did not answer within 0.2 seconds"),
    "html": (says("<html>"), BadAnswer, "cannot be read as JSON"),
    "no choices": (says({"choices": []}), BadAnswer, "choices.0..message.content"),
    "odd content": (chat({"text": "a"}), BadAnswer, "choices.0..message.content"),
    "401": (says({"error": {"message": "no key"}}, 401), Refused, "status 401: no key. Check the key"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_fails_loses_no_answer(rubric, tmp_path, name):
    """Catches answers that are paid for and asked again because a later one failed."""
    step, kind, words = FAULTS[name]
    answers = str(tmp_path / "answers.jsonl")
    with StandIn(GOOD, GOOD, step) as server:
        one = judge(server, rubric, answers=answers, timeout=0.2 if step is hangs else ENOUGH)
        with pytest.raises(kind, match=words):
            asked(0.0, 0.5, 1.0).judged_by(one)
    with StandIn(GOOD) as server:
        assert asked(0.0, 0.5, 1.0).judged_by(judge(server, rubric, answers=answers)) == [1, 1, 1]
        assert len(server.asked) == 1


def test_faults_of_a_moment_are_waited_for(rubric):
    """Catches a rate limit that ends a run."""
    busy = says("", 429, Retry_After=0)
    with StandIn(busy, GOOD, cut, GOOD) as server:
        assert asked(0.0, 1.0).judged_by(judge(server, rubric)) == [1, 1]
        assert len(server.asked) == 4


def test_an_image_that_the_server_refuses_costs_only_itself(rubric, tmp_path):
    """Catches a group that is lost because one image is not allowed, and a refusal that is kept as an answer."""
    answers = str(tmp_path / "answers.jsonl")
    refusal = says({"error": {"message": "not allowed"}}, 400)
    with StandIn(GOOD, refusal, GOOD) as server:
        first, refused, last = asked(0.0, 0.5, 1.0).judged_by(judge(server, rubric, answers=answers))
        assert (first, last) == (1, 1) and "status 400: not allowed" in str(refused)
        assert asked(0.0, 0.5, 1.0).judged_by(judge(server, rubric, answers=answers)) == [1, 1, 1]
    with StandIn(refusal) as server, pytest.raises(Blip3oError, match="status 400: not allowed"):
        RewardMix([Part(judge(server, rubric))]).score(asked(0.0, 0.5))


def test_several_questions_at_once(rubric):
    """Catches questions that wait for each other, more at once than allowed, and numbers that change places."""
    inside, most, lock, all_in = [0], [0], threading.Lock(), threading.Barrier(3)

    def step(handler):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        all_in.wait(ENOUGH)
        with lock:
            inside[0] -= 1
        url = json.loads(handler.body)["messages"][0]["content"][-2]["image_url"]["url"]
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        chat(numbers(image.getpixel((0, 0))[0] / 10))(handler)

    with StandIn(step) as server:
        shades = [shade(level * 10 / 255) for level in range(6)]
        values = Candidates(shades, ["a"] * 6).judged_by(judge(server, rubric, at_once=3))
    assert values == pytest.approx([(3 * level / 10 + 1) / 4 for level in range(6)])
    assert most == [3]


def test_built_in_rubrics():
    """Catches a rubric that is not in the package, or an edit that is judged without what was edited."""
    with StandIn(chat('{"change": 10, "preserved": 0, "defects": 10}')) as server:
        given = Candidates([shade(0.0)] * 2, ["a", "a"], [[], [shade(1.0)]])
        assert given.judged_by(judge(server, "edit")) == [None, 0.75]
        assert len(server.asked) == 1
    assert len({load_rubric(name).identity for name in BUILT_IN}) == 2


WRONG = {
    "field": ({"fields": {"a b": {"meaning": "x", "range": [0, 1]}}}, "'a b'"),
    "reason": ({"fields": {"reason": {"meaning": "x", "range": [0, 1]}}}, "'reason'"),
    "range": ({"fields": {"a": {"meaning": "x", "range": [1, 1]}}}, "fields.a.range is .1.0, 1.0."),
    "weight": ({"fields": {"a": {"meaning": "x", "range": [0, 1], "weight": 0}}}, "weight is 0; it must be above 0"),
    "none": ({"fields": {}}, "fields"),
    "unknown": ({"instructions": "x"}, "Did you mean instruction?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rubrics_are_named(name, tmp_path):
    """Catches a rubric that says something else than its writer meant."""
    changes, words = WRONG[name]
    path = tmp_path / "rubric.json"
    path.write_text(json.dumps({**RUBRIC, **changes}))
    with pytest.raises(Blip3oError, match=words) as error:
        load_rubric(str(path))
    assert str(path) in str(error.value)


def test_wrong_options(rubric, monkeypatch):
    """Catches a run that begins without a key, a model or a rubric, and a key that a message shows."""
    monkeypatch.setenv("JUDGE_KEY", f"{SECRET}\nX-Other: 1")
    monkeypatch.delenv("NO_KEY", raising=False)
    right = {"url": "http://127.0.0.1:1/v1", "model": "seer", "rubric": rubric}
    for changes, words in (
        ({"url": None}, "url is None; it must be text. It is the address before /chat/completions"),
        ({"rubric": "alignement"}, "does not exist. Give a JSON file, or one of alignment, edit"),
        ({"key_variable": "NO_KEY"}, "environment variable NO_KEY is empty"),
        ({"key_variable": "JUDGE_KEY"}, "JUDGE_KEY has characters that no key has"),
        ({"tempreature": 0}, "Did you mean temperature"),
        ({"fields": {"a": {1, 2}}}, "fields cannot be sent as JSON"),
    ):
        with pytest.raises(Blip3oError, match=words) as error:
            VlmReward(**{**right, **changes})
        assert SECRET not in str(error.value)


def test_the_client_alone():
    """Catches a chat client that needs rewards, or an address that is written with its whole path and asked wrongly."""
    assert key_from_environment(None) == ""
    parts = says(
        {"choices": [{"message": {"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}}]}
    )
    with StandIn(parts, says({"choices": [{"message": {"content": None, "refusal": "No."}}]})) as server:
        asker = Chat(f"{server.url}/v1/chat/completions/", "seer")
        answer = asker.ask([user(text_part("6 x 7?"))])
        assert (answer.text, answer.ended, answer.model) == ("42", "", "seer")
        assert asker.ask([]).text == "No."
        assert [path for _, path, _, _ in server.asked] == ["/v1/chat/completions"] * 2
