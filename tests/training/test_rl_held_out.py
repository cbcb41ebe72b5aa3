"""Which checkpoint of a run of reinforcement learning is the best."""

import json

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.training.rl.held_out import Look, is_better
from blip3o_core.training.rl.judging import judge, summary
from blip3o_core.training.rl.tasks import Task
from tests.support.rl import Judge


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
