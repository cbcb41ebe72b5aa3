"""What a look of a run of reinforcement learning finds, and which checkpoint is the best."""

import json

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.training.rl.held_out import HeldOut, Look, is_better, look, was_seen
from blip3o_core.training.rl.judging import judge, summary
from blip3o_core.training.rl.tasks import Task, open_task
from tests.support.rl import Judge


def look_with(*parts: tuple[float, list[float | None]], pass_at=None) -> Look:
    """A look at four tasks of two groups. Each part: the weight of a reward and what it gives."""
    rewards = [Part(Judge(lambda images, own=own: own, f"part{k}"), weight) for k, (weight, own) in enumerate(parts)]
    tasks = [Task(prompt, prompt[0]) for prompt in ("a cat", "a dog", "two owls", "two cats")]
    held_out = HeldOut(tasks, RewardMix(rewards), open_task, pass_at, samples=4)
    return look(held_out, lambda tasks, seeds: [torch.zeros(2, 2, 3) for _ in tasks])


def test_an_image_without_a_reward_is_left_out_and_counted():
    """Catches an image that no reward judged and that counts as 0: it lowers the mean and the share that passes."""
    seen = look_with((1.0, [0.8, None, 0.4, None]), pass_at=0.5)
    assert seen.entry["reward"] == pytest.approx(0.6) and seen.entry["reward_spread"] == pytest.approx(0.2)
    assert seen.entry["unjudged"] == 2 and seen.entry["judged/part0"] == 0.5
    assert [seen.entry[name] for name in ("passed", "passed/a", "passed/t")] == [0.5, 1.0, 0.0]
    assert seen.rewards == [0.8, None, 0.4, None]


def test_a_number_that_one_of_two_rewards_left_out_is_its_mean():
    """Catches a sum that lacks a part, so that a checkpoint looks worse where a judge did not answer."""
    seen = look_with((1.0, [1.0, 1.0, 0.0, 0.0]), (2.0, [0.5, None, 0.1, None]))
    assert seen.rewards == pytest.approx([2.0, 1.6, 0.2, 0.6])
    assert seen.entry["reward"] == pytest.approx(0.5 + 2 * 0.3) and seen.score == seen.entry["reward"]
    assert "unjudged" not in seen.entry and seen.entry["judged/part1"] == 0.5


def test_a_look_without_any_number_has_no_mean(tmp_path):
    """Catches a 0 that nothing gave, division by zero, and a resumed run that looks again for want of the mean."""
    seen = look_with((1.0, [None] * 4), pass_at=0.5)
    assert seen.entry == {"judged/part0": 0.0, "unjudged": 4} and seen.score is None
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"step": 0, **{f"held_out_{name}": value for name, value in seen.entry.items()}}) + "\n")
    assert was_seen(log, 0) and not was_seen(log, 2)


@pytest.mark.parametrize(
    "before, now, better",
    [
        ({"score": -2.0}, {"reward": -1.0}, True),
        ({"score": -2.0}, {"reward": -2.0}, False),
        # The reward that failed had given numbers below 0: without it the sum is larger.
        ({"score": -2.0}, {"reward": 0.0, "failed": ["judge"]}, False),
        ({"score": 0.0, "held_out_failed": ["judge"]}, {"reward": -2.0}, True),
        ({"score": -9.0, "held_out_failed": ["judge"]}, {"reward": 0.0, "failed": ["judge"]}, False),
        # One image in many that a judge has not judged is no reason to keep the first look for ever.
        ({"score": 0.5, "held_out_problems": ["one image"]}, {"reward": 0.6, "problems": ["one image"]}, True),
        ({"score": -2.0}, {"unjudged": 4}, False),
        ({"score": None}, {"reward": -2.0}, True),
        ({"score": None}, {"unjudged": 4}, False),
    ],
)
def test_a_look_without_a_reward_is_never_the_best(tmp_path, before, now, better):
    """Catches a checkpoint that is kept because a reward failed, and one that none can replace for that."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "held_out.json").write_text(json.dumps(before))
    assert is_better(Look(now, [], []), tmp_path) == better
    assert is_better(Look(now, [], []), None)


def test_the_log_says_why_images_have_no_number():
    """Catches a judge whose answers cannot be read, of which a run's log says nothing."""

    def some(images):
        return [0.5, Blip3oError("The answer has no number."), None, 0.7]

    def out(images):
        raise OSError("is out")

    mix = RewardMix([Part(Judge(some, "some")), Part(Judge(out, "other"), on_error="skip")])
    tasks = [Task(f"a cat {number}") for number in range(4)]
    judged = judge(mix, Candidates([torch.zeros(8, 8, 3)] * 4, [task.prompt for task in tasks]), 2)
    entry = summary(tasks, judged, None)
    assert entry["judged/some"] == 0.5 and entry["failed"] == ["other"]
    assert entry["problems"][0].startswith(
        "Reward 'some' could not judge 1 of 4 images; image 2 with the prompt 'a cat 1'"
    )
    assert "The answer has no number." in entry["problems"][0] and "is out" in entry["problems"][1]
