"""The page about a run of reinforcement learning."""

import json
import re
from pathlib import Path

import pytest
import torch

from blip3o_core.cli.main import main
from blip3o_core.errors import Blip3oError
from blip3o_core.reports.charts import Line, chart
from blip3o_core.training.rl.held_out import HeldOut, Look, save_samples
from blip3o_core.training.rl.report import write_report
from blip3o_core.training.rl.tasks import Task


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 40 updates with three looks; its prompts and problems try to be HTML."""
    folder = tmp_path / "run<1>"
    folder.mkdir()
    tasks = [Task("<script>alert(1)</script>"), Task('a "dog"')]
    entries, seconds = [], []
    for step in range(41):
        if step % 20 == 0:
            images = [torch.full((20, 30, 3), 0.2), torch.full((10, 12, 3), step / 40)]
            held_out = HeldOut(tasks, None, None, samples=2)
            samples = save_samples(folder, step, held_out, Look({}, images, [0.25 if step else None, step / 40]))
            entries.append({"step": step, "held_out_reward": step / 50, "held_out_passed": step / 40,
                            "held_out_passed/a": 0.5, "held_out_passed/b": 0.1, "samples": samples})  # fmt: skip
        if step == 10:
            entries.append({"step": step, "held_out_unjudged": 2})
        if step:
            entry = {"step": step, "reward": step / 40, "reward_spread": 0.1, "reward/text": 0.5, "reward/<b>": 1.0,
                     "passed": 0.5, "kl": 0.01 * step, "entropy": 2.0, "equal_groups": 0.0}  # fmt: skip
            if step > 30:
                entry |= {"alarms": [f"KL is {0.01 * step} nats"], "problems": ["Reward 'x' <failed>"]}
            entries.append(entry)
            seconds.append({"step": step, "rollout": 1.0, "update": 2.0})
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "seconds.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in seconds))
    return folder


def test_a_report_is_one_page_with_everything_in_it(run, capsys):
    """Catches a page that needs the network, text of prompts that becomes HTML, and a look that is left out."""
    assert main(["rl-report", str(run)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert (
        page.count("<svg") >= 10 and page.count('src="data:image/png;base64,') == 4
    )  # two looks: the best is the last
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "no reward" in page and "reward 0.25" in page
    assert "&lt;script&gt;" in page and "Reward &#x27;x&#x27; &lt;failed&gt;" in page
    assert "10 times, updates 31 to 40" in page
    assert "was best at update 40: 1" in page and "run&lt;1&gt;" in page
    for name in ("text", "&lt;b&gt;", "KL to the checkpoint", "Entropy", "Seconds of an update", "by group"):
        assert name in page
    # While a run writes its log the last line may be half there.
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 41, "rew')
    assert write_report(run, run / "other.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("count, parts", [(9, 1), (16, 2), (19, 3)])
def test_every_group_is_drawn_in_a_colour_of_its_own(run, count, parts):
    """Catches groups that are left out without a word, and two lines of one colour in a chart."""
    groups = {f"held_out_passed/group-{number:02d}": 0.5 for number in range(count)}
    log = [json.dumps({"step": step, "held_out_reward": 0.5, **groups}) + "\n" for step in (0, 20)]
    (run / "log.jsonl").write_text("".join(log))
    page = write_report(run).read_text(encoding="utf-8")
    charts = [part.split("</figure>")[0] for part in page.split("<figcaption>Share that passes, by group")[1:]]
    colours = [re.findall("color:(#[0-9a-f]+)", one) for one in charts]
    assert len(charts) == parts and all(len(own) == len(set(own)) for own in colours)
    assert sorted(name for one in charts for name in re.findall("</span> (group-[0-9]+)", one)) == [
        name.partition("/")[2] for name in sorted(groups)
    ]


def test_a_folder_without_a_run_is_a_sentence(tmp_path, run):
    """Catches an empty page for a mistyped folder, and a traceback for a damaged log."""
    with pytest.raises(Blip3oError, match="not the folder of a run"):
        write_report(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(Blip3oError, match="not the folder of a run"):
        write_report(tmp_path)
    (run / "log.jsonl").write_text("{\n" + (run / "log.jsonl").read_text())
    with pytest.raises(Blip3oError, match="log.jsonl, line 1"):
        write_report(run)


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0], [-1e9, 1e9], [1e-12, 2e-12], [float("nan"), 1.0]])
def test_every_run_of_numbers_can_be_drawn(values):
    """Catches a division by zero for constant numbers, and axes with thousands of marks."""
    drawn = chart("a", [Line("b", list(enumerate(values)))], limit=0.5)
    assert drawn.count("<text") < 40
    assert bool(drawn) == bool(values)
