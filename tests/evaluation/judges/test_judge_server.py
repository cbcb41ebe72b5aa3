"""Judges against a stand-in for a chat endpoint that fails in every way: nothing is lost, nothing is asked twice."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.judges.find import open_judge
from tests.support.judges import asked, write_prompts
from tests.support.paths import TOP
from tests.support.stand_in import ENOUGH, StandIn, chat, cut, hangs, says, trickles

SECRET = "key-0123456789"


def scores(*three: int) -> str:
    return "Brief reasoning: so it is.\n" + "\n".join(f"Criterion: {one}" for one in three)


GOOD = chat(scores(5, 4, 3))
FOUND = {"score": 4.0, "first": 5.0, "second": 4.0, "third": 3.0}


def settings(tmp_path, server, **more) -> Path:
    prompts = tmp_path / "prompts"
    given = {
        "url": server.url,
        "model": "gpt-4o",
        "prompts": str(prompts if prompts.exists() else write_prompts(prompts)),
    }
    path = tmp_path / "judge.yaml"
    path.write_text(json.dumps(given | {"retries": 1, "wait": 0, "timeout": ENOUGH, "at_once": 1} | more))
    return path


def judge(tmp_path, server, **more):
    one = open_judge("imgedit", settings(tmp_path, server, **more))
    one.keep_in(tmp_path / "kept")
    return one


def kept(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "kept" / "answers.jsonl").read_text().splitlines()]


def test_nothing_is_asked_twice(tmp_path):
    """Catches money spent on an answer that is there, in one call, a later one or a later run."""
    with StandIn(GOOD) as server:
        one = judge(tmp_path, server, at_once=6)
        assert one(*asked(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)) == [FOUND] * 6
        assert len(server.asked) == 2
        assert one(*asked(1.0, 0.0)) == [FOUND] * 2
        assert judge(tmp_path, server)(*asked(1.0, 0.0)) == [FOUND] * 2
        assert len(server.asked) == 2
        # What decides an answer is asked anew: the image, the instruction, the source, the model, what else is sent.
        one(*asked(0.5))
        one(*asked(0.5, prompt="Add a dog."))
        one(*asked(0.5, shade=9))
        judge(tmp_path, server, model="other")(*asked(0.5))
        judge(tmp_path, server, temperature=0.5)(*asked(0.5))
        assert len(server.asked) == 7


def test_answers_are_kept_as_they_came(tmp_path, monkeypatch):
    """Catches answers of which nobody can say what they answer, words that are lost, and a key in the file."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    text = f"<think>{SECRET}: 5: 5</think>\n{scores(5, 4, 3)} "
    with StandIn(chat(text)) as server:
        one = judge(tmp_path, server, key_variable="JUDGE_KEY")
        assert one(*asked(0.0)) == [FOUND]
        assert server.asked[0][2]["Authorization"] == f"Bearer {SECRET}"
    (entry,) = kept(tmp_path)
    assert entry["text"] == text.replace(SECRET, "***")
    assert (entry["model"], entry["answered_by"], entry["question"]) == ("gpt-4o", "seer-1", "scores")
    assert len(entry["images"]) == 2 and {"key", "time", "ended", "texts"} <= set(entry)
    assert SECRET not in repr(vars(one))


FAULTS = {
    "429": (says({"error": {"message": "slow down"}}, 429), "status 429: slow down"),
    "429 with a wait": (says("", 429, Retry_After=0), "status 429"),
    "429 with a long wait": (says("", 429, Retry_After=100_000), "asks to wait 100,000 seconds"),
    "500": (says("oops", 500), "status 500: oops"),
    "cut": (cut, "broke off"),
    "hangs": (hangs, "did not answer within 0.2 seconds"),
    "trickles": (trickles, "did not"),
    "html": (says("<html>"), "cannot be read as JSON"),
    "half of a JSON": (says('{"choices": [{"message": {"con'), "cannot be read as JSON"),
    "no choices": (says({"choices": []}), "choices.0..message.content"),
    "400": (says({"error": {"message": "content policy"}}, 400), "status 400: content policy"),
    "refusal": (chat("I'm sorry, I can't help with that."), "gave no usable answer"),
    "empty": (chat(None, "content_filter"), "gave no usable answer"),
    "half an answer": (chat(scores(5, 4), "length"), "gave no usable answer"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_its_own_image_alone(tmp_path, name):
    """Catches a fault that ends a run, or that costs what was answered before and after it."""
    fault, words = FAULTS[name]
    timeout = 0.2 if fault in (hangs, trickles) else ENOUGH

    def by_image(handler):
        """The third image is the one that goes wrong."""
        seen = json.loads(handler.body)["messages"][0]["content"][2]["image_url"]["url"]
        (fault if seen == wrong else GOOD)(handler)

    with StandIn(GOOD) as server:
        judge(tmp_path / "first", server)(*asked(0.5))
        wrong = server.bodies[0]["messages"][0]["content"][2]["image_url"]["url"]
    with StandIn(by_image) as server:
        first, second, third, last = judge(tmp_path, server, timeout=timeout)(*asked(0.0, 0.2, 0.5, 1.0))
        assert [first, second, last] == [FOUND] * 3
        with pytest.raises(Blip3oError, match=words):
            raise third
    with StandIn(GOOD) as server:
        again = judge(tmp_path, server)(*asked(0.0, 0.2, 0.5, 1.0))
        assert [again[0], again[1], again[3]] == [FOUND] * 3
        # An answer that cannot be used is an answer: it is kept, and not paid for again.
        unusable = "no usable answer" in words
        assert len(server.asked) == (0 if unusable else 1)
        assert isinstance(again[2], Exception) if unusable else again[2] == FOUND


def test_faults_of_a_moment_are_waited_for(tmp_path):
    """Catches a rate limit that costs an image."""
    with StandIn(says("", 429, Retry_After=0), GOOD, says("", 503), GOOD, cut, GOOD) as server:
        assert judge(tmp_path, server)(*asked(0.0, 0.5, 1.0)) == [FOUND] * 3
        assert len(server.asked) == 6


def test_a_server_that_is_down_is_left_alone(tmp_path):
    """Catches hours of questions to a server that is down, and a server that is never asked again."""
    with StandIn(says("", 500)) as server:
        one = judge(tmp_path, server, retries=0)
        found = one(*asked(*[number / 20 for number in range(12)]))
        assert len(server.asked) == 5 and all(isinstance(each, Exception) for each in found)
        assert "It was not asked, because the server failed before" in str(found[-1]) and "status 500" in str(found[-1])
        one(*asked(0.0, 1.0))
        assert len(server.asked) == 6  # one question tries whether it is back
        server.script[:] = [GOOD]
        assert one(*asked(0.0, 1.0)) == [FOUND] * 2


def test_faults_between_answers_do_not_add_up(tmp_path):
    """Catches a server that is left alone because it failed five times in a day."""
    with StandIn(*[says("", 500), GOOD] * 6) as server:
        found = judge(tmp_path, server, retries=0)(*asked(*[number / 20 for number in range(12)]))
        assert len(server.asked) == 12 and found[1::2] == [FOUND] * 6


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_wrong_for_all_is_asked_once(tmp_path, status):
    """Catches a thousand requests with a key that the first one showed to be wrong."""
    with StandIn(says({"error": "no"}, status)) as server:
        found = judge(tmp_path, server)(*asked(0.0, 0.5, 1.0))
        assert len(server.asked) == 1 and all(f"status {status}" in str(each) for each in found)


def test_several_questions_at_once(tmp_path):
    """Catches questions that wait for each other, more at once than allowed, and numbers that change places."""
    inside, most, lock, all_in = [0], [0], threading.Lock(), threading.Barrier(3)

    def step(handler):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        all_in.wait(ENOUGH)
        with lock:
            inside[0] -= 1
        text = json.loads(handler.body)["messages"][0]["content"][0]["text"]
        chat(scores(int(text[-3]), 1, 1))(handler)

    with StandIn(step) as server:
        items, candidates = asked(*[0.5] * 6)
        items = [type(item)(item.id, f"Add {n % 5 + 1}", "add", item.references) for n, item in enumerate(items)]
        items[5] = type(items[5])("5", "Add a 1", "add", items[5].references)
        found = judge(tmp_path, server, at_once=3)(items, candidates)
    assert [each["first"] for each in found] == [1, 2, 3, 4, 5, 1] and most == [3]


def test_a_call_has_images_that_fit_into_memory(tmp_path):
    """Catches a thousand images and their sources in memory, 25 GB of them, because many are asked about at once."""
    with StandIn(GOOD) as server:
        assert [judge(tmp_path, server, at_once=count).together for count in (1, 4, 16, 100, 256)] == [
            4,
            16,
            64,
            100,
            256,
        ]


_RUN = """
import sys
from pathlib import Path
from blip3o_core.evaluation.judges.find import open_judge
from tests.support.judges import asked
judge = open_judge("imgedit", Path(sys.argv[1]))
judge.keep_in(Path(sys.argv[2]))
judge(*asked(*[number / 20 for number in range(12)]))
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(tmp_path):
    """Catches a kill that loses an answer or asks for one again."""
    seventh = threading.Event()

    def step(handler):
        if len(server.asked) <= 6:
            GOOD(handler)
        else:
            seventh.set()
            hangs(handler)

    with StandIn(step) as server:
        path = settings(tmp_path, server, at_once=1)
        process = subprocess.Popen([sys.executable, "-c", _RUN, str(path), str(tmp_path / "kept")], cwd=TOP)
        try:
            assert seventh.wait(60)
        finally:
            process.kill()
            process.wait()
    # The line that it was about to write when it was killed.
    answers = tmp_path / "kept" / "answers.jsonl"
    assert len(kept(tmp_path)) == 6
    with answers.open("ab") as file:
        file.write(b'{"key": "0123", "te')
    with StandIn(GOOD) as server:
        found = judge(tmp_path, server)(*asked(*[number / 20 for number in range(12)]))
        assert found == [FOUND] * 12 and len(server.asked) == 6
        assert judge(tmp_path, server)(*asked(*[number / 20 for number in range(12)])) == found
        assert len(server.asked) == 6
