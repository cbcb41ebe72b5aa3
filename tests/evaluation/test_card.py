"""What a run says of itself on a model card."""

from dataclasses import dataclass, replace

import pytest
import yaml
from huggingface_hub import ModelCard

from blip3o_core.evaluation import results, scoring
from blip3o_core.evaluation.card import card
from blip3o_core.evaluation.plan import rows_of
from blip3o_core.evaluation.reward_scorer import RewardScorer
from blip3o_core.evaluation.run_folder import RunFolder
from blip3o_core.evaluation.tasks import prompts
from blip3o_core.rewards.mix import Part
from tests.support.evaluation_runs import Known, Task, items, make_run

TASK = Task(items(8))
HALF = {f"{k:03d}": [k % 2] for k in range(10)}


class Reward:
    name, version, range = "known", "1", (0.0, 1.0)

    def __call__(self, images, *_):
        return [0.5] * len(images)


@dataclass(frozen=True)
class Published(Task):
    """Of which ten items are published."""

    published = prompts.Published("a/b", "0" * 40, 10, "0" * 16)


def written(tmp_path, scorer, asked=TASK, made=TASK, samples=1) -> str:
    """The card of a run over the items of `made`, of a benchmark that has those of `asked`."""
    folder = RunFolder(make_run(tmp_path / "run", made, scorer, samples=samples))
    rows = rows_of(made, made.items, samples)
    scored = [results.Scored(scorer, scoring.score(folder, scorer, rows))]
    return card(asked, results.summarise(made, folder, rows, scored), [scorer])


def test_the_hub_reads_it(tmp_path):
    """Catches a card that the hub's own reader refuses, and a number that is not that of the results."""
    read = ModelCard(written(tmp_path, Known(HALF)))
    [one] = read.data.eval_results
    assert (read.data.model_name, one.task_type, one.dataset_type) == ("toy", "text-to-image", "colours")
    assert (one.dataset_name, one.metric_type, one.metric_value) == ("colours", "right", 0.5)
    assert one.metric_name.startswith("known: right (95 % interval 0.125 to 0.875, 8 items)")
    assert "| colours | right | 0.500 (0.125 to 0.875) | 8 | known 1 |" in read.text and "steps 30" in read.text


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ({"scorer": RewardScorer(Part(Reward()))}, "prompts of colours"),
        ({"scorer": Known(HALF, decisive={"notes": ["judged by b-9"]})}, "prompts of colours"),
        ({"asked": Task(items(20))}, "prompts of colours (8 of 20 items)"),
        ({"asked": Published(items(8))}, "prompts of colours (8 of 10 prompts)"),
        ({"asked": Published(items(10)), "made": Published(items(10))}, "prompts of colours (changed prompts)"),
        ({"asked": replace(TASK, samples=4)}, "prompts of colours (1 of 4 samples)"),
        ({"scorer": Known({**HALF, "003": [OSError()]})}, "prompts of colours (1 of 8 images not judged)"),
    ],
)
def test_only_the_benchmarks_own_number_has_its_name(tmp_path, case, name):
    """Catches a reward's number, another judge's, and one over a part of the items, published as the benchmark's."""
    text = written(tmp_path, **{"scorer": Known(HALF), **case})
    [one] = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"]
    assert one["dataset"] == {"type": "colours-prompts", "name": name}
    assert ("Note: judged by b-9." in text) == bool(getattr(case.get("scorer"), "decisive", {}))
