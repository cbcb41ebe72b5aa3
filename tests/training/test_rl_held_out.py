"""Which checkpoint of a run of reinforcement learning is the best."""

import json

import pytest

from blip3o_core.training.rl.held_out import Look, is_better


@pytest.mark.parametrize(
    "before, now, better",
    [
        ({"score": -2.0}, {"reward": -1.0}, True),
        ({"score": -2.0}, {"reward": -2.0}, False),
        # The reward that failed had given numbers below 0: without it the sum is larger.
        ({"score": -2.0}, {"reward": 0.0, "problems": ["the judge is out"]}, False),
        ({"score": 0.0, "held_out_problems": ["the judge is out"]}, {"reward": -2.0}, True),
        ({"score": -9.0, "held_out_problems": ["out"]}, {"reward": 0.0, "problems": ["out"]}, False),
    ],
)
def test_a_look_without_a_reward_is_never_the_best(tmp_path, before, now, better):
    """Catches a checkpoint that is kept because a reward failed, and one that none can replace for that."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "held_out.json").write_text(json.dumps(before))
    assert is_better(Look(now, [], []), tmp_path) == better
    assert is_better(Look(now, [], []), None)
