"""A mix of rewards: what is learnt from it, and every fault of a reward that it must survive."""

import math
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards import asking
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.mix import Part, RewardMix, Scores
from tests.support.paths import TOP


class Fake:
    version = "1"

    def __init__(self, answer, name="fake", limits=(0.0, 1.0)):
        self.answer, self.name, self.range = answer, name, limits

    def __call__(self, images, prompts, references, masks, meta):
        return self.answer(images) if callable(self.answer) else self.answer


def batch(count=4):
    return Candidates([torch.full((8, 8, 3), k / 10) for k in range(count)], [f"a fox {k}" for k in range(count)])


def score(answer, count=4, **part):
    return RewardMix([Part(Fake(answer), **part)]).score(batch(count))


def fails(error):
    def answer(images):
        raise error

    return answer


FAULTS = {
    "nan": ([0.1, math.nan, 0.3, 0.4], ["nan", "image 2", "a fox 1", "finite"]),
    "infinite": ([0.1, 0.2, 0.3, -math.inf], ["-inf", "image 4", "a fox 3"]),
    "text": (["good", 0.2, 0.3, 0.4], ["'good'", "image 1", "a number or None"]),
    "a digit as text": (["1", 0.2, 0.3, 0.4], ["'1'", "image 1"]),
    "a pair": ([0.1, (0.2, 0.3), 0.3, 0.4], ["(0.2, 0.3)", "image 2"]),
    "a tensor of two": ([0.1, torch.zeros(2), 0.3, 0.4], ["tensor([0., 0.])", "image 2"]),
    "too large": ([0.1, 0.2, 1.5, 0.4], ["1.5", "image 3", "range is 0 to 1"]),
    "too small": ([0.1, 0.2, -0.5, 0.4], ["-0.5", "image 3"]),
    "huge": ([0.1, 0.2, 10**400, 0.4], ["image 3", "number"]),
    "too few": ([0.1, 0.2], ["2 values for 4 images", "a fox 0"]),
    "too many": ([0.1] * 5, ["5 values for 4 images"]),
    "none at all": (None, ["gave None", "4 images", "a list"]),
    "one number": (0.5, ["gave 0.5", "a list"]),
    "a generator": (lambda images: (0.5 for _ in images), ["generator", "a list"]),
    "only reasons": (lambda images: [OSError("odd"), None, OSError(), None], ["2 of 4", "image 1", "OSError: odd"]),
    "a fault": (fails(ZeroDivisionError("division by zero")), ["ZeroDivisionError: division by zero", "a fox 0"]),
    "its own message": (fails(Blip3oError("The server is away. Start it.")), ["could not judge", "Start it."]),
    "an exit": (fails(SystemExit(3)), ["SystemExit"]),
    "a stop": (fails(KeyboardInterrupt()), ["KeyboardInterrupt"]),
    "no memory": (fails(MemoryError()), ["MemoryError"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_or_is_skipped(name):
    """Catches a wrong number that something would learn from, and a fault whose message names no reward or prompt."""
    answer, words = FAULTS[name]
    with pytest.raises(Blip3oError) as stopped:
        score(answer)
    skipped = score(answer, on_error="skip")
    assert len(skipped.problems) == 1
    for message in (str(stopped.value), skipped.problems[0]):
        assert all(word in message for word in ["'fake'", *words]), message
    assert "on_error: skip" in str(stopped.value) and "on_error" not in skipped.problems[0]
    given = answer if isinstance(answer, list) and len(answer) == 4 else [None] * 4
    whole = [value if isinstance(value, float) and 0 <= value <= 1 else None for value in given]
    assert skipped.parts == {"fake": whole}


def test_many_wrong_values_are_one_problem():
    """Catches a log that a broken reward fills with thousands of lines."""
    (problem,) = score([math.nan] * 64, 64, on_error="skip").problems
    assert "64 values" in problem and "and 59 more" in problem and len(problem) < 2000


@pytest.mark.parametrize(
    "answer", [[0.25, None, 1, True], (0.25, None, 1.0000001, np.float32(1)), [torch.tensor(0.25), None, 1, 1]]
)
def test_numbers_of_every_kind_are_numbers(answer):
    """Catches a reward refused for numpy's numbers, or for the last bit of a division."""
    assert score(answer).parts["fake"] == pytest.approx([0.25, None, 1, 1])
    assert not score(answer).problems


def test_an_array_is_a_list():
    """Catches a reward refused because it answers with what it computed."""
    assert score(torch.tensor([0.0, 0.5, 1.0, 0.25])).parts["fake"] == [0, 0.5, 1, 0.25]
    assert score(np.array([0.0, 0.5, 1.0, 0.25])).parts["fake"] == [0, 0.5, 1, 0.25]


def test_a_reward_that_hangs_is_left():
    """Catches a run that waits for ever, and one that starts a new thread on every call."""
    free, calls = threading.Event(), []

    def answer(images):
        calls.append(1)
        free.wait(60)
        return [0.5] * len(images)

    mix = RewardMix([Part(Fake(answer), timeout=0.05, on_error="skip"), Part(Fake([0.5] * 4, "other"))])
    first, second = mix.score(batch()), mix.score(batch())
    assert "did not answer within 0.05 seconds" in first.problems[0] and "a fox 0" in first.problems[0]
    assert "earlier call" in second.problems[0] and calls == [1]
    assert first.parts == second.parts == {"fake": [None] * 4, "other": [0.5] * 4}
    free.set()
    while mix._asked["fake"].is_open:
        time.sleep(0.01)
    assert mix.score(batch()).parts["fake"] == [0.5] * 4  # it is asked again
    with pytest.raises(Blip3oError, match="did not answer within 0.05 seconds"):
        score(lambda images: threading.Event().wait(30), timeout=0.05)


@pytest.mark.parametrize(("count", "answers_at", "limit"), [(40, 700, 0), (40, 10**9, 750), (4, 350, 300)])
def test_more_images_have_more_time(monkeypatch, count, answers_at, limit):
    """Catches forty images that are lost to the time of sixteen, and a reward that hangs and is waited for."""
    now, free = [0], threading.Event()
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def answer(images):
        free.wait(60)
        return [0.5] * len(images)

    def hours_later():
        if now[0] >= answers_at:
            free.set()
        else:
            now[0] += 350

    part = Part(Fake(answer), timeout=300, on_error="skip")
    scores = RewardMix([part]).score(batch(count), hours_later)
    free.set()
    assert scores.parts == {"fake": [None if limit else 0.5] * count}
    assert [f"did not answer within {limit} seconds for {count} images" in one for one in scores.problems] == [True] * (
        limit > 0
    )


@pytest.mark.parametrize("last", ["far", "near"])
def test_other_programs_answer_while_this_machine_works(last):
    """Catches a server that is asked when all else is done, and a log or an error that depends on who was quicker."""
    began, ended = ({name: threading.Event() for name in ("far", "near")} for _ in range(2))

    def judge(name, other, then):
        def answer(images):
            began[name].set()
            assert (ended if name == last else began)[other].wait(60)
            ended[name].set()
            return then(images)

        return answer

    def mix(then):
        for event in (*began.values(), *ended.values()):
            event.clear()
        far, near = Fake(judge("far", "near", then), "far"), Fake(judge("near", "far", then), "near")
        return RewardMix([Part(far, elsewhere=True), Part(near)])

    scores = mix(lambda images: [0.5, 0.5, 0.5, ValueError("odd")]).score(batch())
    assert list(scores.parts.items()) == [("far", [0.5, 0.5, 0.5, None]), ("near", [0.5, 0.5, 0.5, None])]
    assert [problem.split()[1] for problem in scores.problems] == ["'far'", "'near'"]
    with pytest.raises(Blip3oError, match="Reward 'near' failed.*is out"):
        mix(fails(OSError("is out"))).score(batch())


def test_a_reason_in_place_of_a_number_costs_one_image():
    """Catches an image without a number of which nobody learns why, and a run that ends because of it."""
    found = score([0.1, ValueError("odd"), None, Blip3oError("Too small.")])
    assert found.parts == {"fake": [0.1, None, None, None]} and not found.failed
    assert found.problems == [
        "Reward 'fake' could not judge 2 of 4 images; the first is image 2 with the prompt 'a fox 1': ValueError: odd"
    ]
    both = score([0.1, ValueError("odd"), math.nan, 0.4], on_error="skip")
    assert both.failed == ["fake"] and both.parts == {"fake": [0.1, None, None, 0.4]}
    assert ["nan" in both.problems[0], "odd" in both.problems[1]] == [True, True]


def test_waiting_can_be_ended():
    """Catches a cancel that is heard only when the slowest reward has answered."""
    free, began = threading.Event(), threading.Event()

    def answer(images):
        began.set()
        free.wait(60)
        return [0.5] * len(images)

    def cancelled():
        if began.is_set():
            raise KeyboardInterrupt

    mix = RewardMix([Part(Fake(answer))])
    with pytest.raises(KeyboardInterrupt):
        mix.score(batch(), cancelled)
    with pytest.raises(Blip3oError, match="earlier call"):
        mix.score(batch())
    free.set()


def test_a_reward_that_hangs_does_not_keep_the_process():
    """Catches a command that never ends after it has said why it stopped."""
    code = """
import torch, time
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.mix import Part, RewardMix
class Hangs:
    name, version, range = "hangs", "1", (0, 1)
    def __call__(self, *judged_by): time.sleep(1000)
try:
    RewardMix([Part(Hangs(), timeout=0.1)]).score(Candidates([torch.zeros(8, 8, 3)], ["a fox"]))
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=120)
    assert "'hangs' did not answer within 0.1 seconds" in done.stdout and done.returncode == 0


def test_gradients_are_off_in_a_reward():
    """Catches the memory of a graph that nobody needs: a thread does not inherit `no_grad`."""
    weight = torch.nn.Parameter(torch.ones(1))
    seen = []

    def answer(images):
        seen.append((weight * 2).requires_grad)
        return [0.5] * len(images)

    score(answer)
    assert seen == [False]


def two_rewards(one, other, weights=(1.0, 2.0)):
    parts = [Part(Fake([], "one"), weights[0]), Part(Fake([], "other"), weights[1])]
    return RewardMix(parts), Scores({"one": one, "other": other})


def test_rewards_are_weighed_in_groups():
    """Catches a group that learns from the mean of another, and an image that is paid for not being judged."""
    mix, scores = two_rewards([1.0, 0.0, None, None, 0.5, 0.5], [0.5, None, 0.25, 0.25, None, None])
    assert mix.combine(scores, 2) == [1 + 1, 0 + 1, 0.5, 0.5, 0.5, 0.5]
    assert mix.combine(scores, 6) == pytest.approx([2.0, 0.0 + 2 / 3, 0.5 + 0.5, 0.5 + 0.5, 0.5 + 2 / 3, 0.5 + 2 / 3])
    assert RewardMix([Part(Fake([], "one"), -3)]).combine(Scores({"one": [1.0, None]}), 1) == [-3, 0]


def test_only_what_can_be_compared_has_a_total():
    """Catches an image chosen as the best because the reward that would have found it bad failed on it."""
    mix, scores = two_rewards([1.0, 0.0, None, None], [0.5, None, 0.25, 0.75])
    assert mix.totals(scores) == [2.0, None, None, None]
    assert mix.totals(scores, 2) == [2.0, None, 0.5, 1.5]
    assert mix.totals(Scores({"one": [None] * 4, "other": [None] * 4})) == [None] * 4
    assert mix.totals(Scores({"one": [], "other": []})) == []


def test_what_cannot_be_mixed_is_refused():
    """Catches two rewards in one column, and groups that are no groups of the images."""
    with pytest.raises(Blip3oError, match="empty"):
        RewardMix([])
    with pytest.raises(Blip3oError, match="Two rewards have the name 'fake'"):
        RewardMix([Part(Fake([])), Part(Fake([]))])
    assert RewardMix([Part(Fake([])), Part(Fake([]), name="again")]).versions == {"fake": "1", "again": "1"}
    mix, scores = two_rewards([1.0] * 3, [1.0] * 3)
    with pytest.raises(Blip3oError, match="3 images cannot be split into groups of 2"):
        mix.combine(scores, 2)
    with pytest.raises(Blip3oError, match="lack the reward 'other'"):
        mix.totals(Scores({"one": [1.0]}))


def test_no_images_are_no_question():
    """Catches a reward that is called with nothing, which few are written for."""
    assert score(fails(ValueError("nothing")), 0).parts == {"fake": []}


def test_an_image_with_nan_is_named():
    """Catches a number for an image that a broken model made."""
    images = [torch.zeros(8, 8, 3), torch.full((8, 8, 3), math.nan)]
    with pytest.raises(Blip3oError, match="Image 2 of 2, with the prompt 'b', contains NaN"):
        RewardMix([Part(Fake([0.5, 0.5]))]).score(Candidates(images, ["a", "b"]))
