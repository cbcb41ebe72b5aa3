"""GRPO runs where something happens: edits, rewards that fail, alarms, a look that fails."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.decoding.prefill import Prompts, encode_tokens
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.training.grpo import train as grpo
from blip3o_core.training.grpo.rollout import Roller
from blip3o_core.training.rl.clock import Clock
from blip3o_core.training.rl.looks import Looks
from blip3o_core.training.rl.tasks import Task
from blip3o_core.training.run_folder import RunFolder
from blip3o_core.training.watch import Watch
from tests.support import rl
from tests.support.rl import TASKS, Judge, low_codes, mix_of, read_log, task_set, trained, weights_after
from tests.support.tiny_checkpoint import make_checkpoint

pytest.importorskip("trl", reason="the `rl` extra is not installed")
from blip3o_core.training.grpo import callback as grpo_callback
from blip3o_core.training.grpo.callback import GrpoCallback


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return rl.small_checkpoint(tmp_path_factory.mktemp("grpo") / "model")


@pytest.fixture
def settings(source, tmp_path):
    return rl.small_settings(source, tmp_path / "run")


@pytest.fixture
def codes_as_images(monkeypatch):
    rl.make_images_of_codes(monkeypatch)


class Failing:
    """A reward that works for some calls and then does what it is told."""

    name, version, range = "failing", "1", (0.0, 1.0)

    def __init__(self, calls: int, then):
        self.calls, self.then = calls, then

    def __call__(self, images, prompts, references, masks, meta):
        self.calls -= 1
        return low_codes(images) if self.calls >= 0 else self.then(images)


def raises(images):
    raise RuntimeError("the judge is out")


# Three looks and updates: 0, u1, u2, 2, u3, ... so that the fifth call is the third update, the fourth a look.
@pytest.mark.long
@pytest.mark.parametrize("calls, saved", [(4, 2), (3, 2)], ids=["in an update", "in a look"])
def test_a_reward_that_fails_stops_behind_a_saved_update(settings, codes_as_images, tmp_path, calls, saved):
    """Catches updates that are lost with the reward, a resumed run that is another one, and a look that is skipped."""
    settings = settings.replace(save_every=100, updates=4)
    whole = settings.replace(out=str(tmp_path / "whole"))
    _, wanted = trained(whole)
    mix = RewardMix([Part(Failing(calls, raises), name="low_codes")])
    with pytest.raises(Blip3oError, match=rf"the judge is out.*Update {saved} was saved.*--resume"):
        grpo.train_on(settings, task_set(), mix)
    assert (Path(settings.out) / "report.html").is_file()
    _, log = trained(settings, resume=True)
    assert sorted(log, key=str) == sorted(wanted, key=str)
    mine, theirs = weights_after(settings, 4), weights_after(whole, 4)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@pytest.mark.parametrize(
    "then, message",
    [(lambda images: [math.nan] * len(images), "nan"), (lambda images: [0.5], "1 values for 4 images"),
     (raises, "the judge is out")],
    ids=["NaN", "too few", "raises"],
)  # fmt: skip
def test_a_reward_that_fails_at_once_says_so(settings, codes_as_images, then, message):
    """Catches numbers that are no reward reaching TRL, which counts NaN as 'not scored'."""
    with pytest.raises(Blip3oError, match=f"(?s){message}.*No update was made yet"):
        grpo.train_on(settings, task_set(), RewardMix([Part(Failing(0, then))]))
    assert not list(Path(settings.out).glob("step-*"))


@pytest.mark.slow
def test_rewards_are_logged_apart_and_problems_too(settings, codes_as_images):
    """Catches a log from which nobody can tell which reward was learnt, and a skipped reward that nobody sees."""

    def half(images):
        return [None if number % 2 else 0.25 for number in range(len(images))]

    good, bad = Part(Judge(low_codes, "low")), Part(Failing(1, raises), weight=2.0, on_error="skip")
    mix = RewardMix([good, bad, Part(Judge(half, "half"), weight=4.0)])
    grpo.train_on(settings.replace(updates=1, held_out_every=5), task_set(), mix)
    first, last, update = read_log(settings)
    assert first["held_out_reward/failing"] == pytest.approx(first["held_out_reward/low"])
    assert "reward/failing" not in update and update["judged/failing"] == 0 and update["judged/half"] == 0.5
    assert update["reward"] == pytest.approx(update["reward/low"] + 1.0)  # a missing number is the group's mean
    assert update["reward_spread"] == pytest.approx(update["reward/low_spread"])
    assert "the judge is out" in update["problems"][0] and "the judge is out" in last["held_out_problems"][0]
    seconds = [json.loads(line) for line in RunFolder(Path(settings.out)).seconds.read_text().splitlines()]
    assert set(seconds[0]) == {"step", "rollout", "render", "score", "update"}


@pytest.mark.slow
def test_alarms_warn_and_can_stop_a_run(settings, codes_as_images):
    """Catches a model that runs away from its checkpoint without a word, and an alarm whose run cannot be resumed."""
    settings = settings.replace(kl=1e-4, kl_alarm=1e-6, stop_on_alarm=True, held_out_every=50, iterations=2, updates=6)
    told = []
    trained(settings, watch=Watch(tell=told.append))
    log = read_log(settings)
    assert (
        max(entry["step"] for entry in log) == 4
    )  # the alarm was in the third update, the first behind one with a learning rate
    assert len(told) == 1 and "above kl_alarm 1e-06" in told[0]
    assert "Raise kl" in next(entry["alarms"] for entry in log if "alarms" in entry)[0]
    _, log = trained(settings.replace(stop_on_alarm=False), resume=True)
    assert max(entry["step"] for entry in log) == 6


@pytest.mark.slow
def test_edits_are_rolled_out_as_inference_makes_them(source, settings, tmp_path):
    """Catches references that do not reach the prompt, the renderer or the reward, or are another row's."""
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path, colour in zip(files, ("red", "blue"), strict=True):
        Image.new("RGB", (96, 48), colour).save(path)
    tasks = [Task("make it green", "edits", (path,)) for path in files] + TASKS[:1]
    seen = []

    def judge(images, prompts, references, masks, meta):
        seen.append(
            [(prompt, [one[0, 0].tolist() for one in each]) for prompt, each in zip(prompts, references, strict=True)]
        )
        return [float(image.mean()) for image in images]

    reward = Judge(None, "mean")
    reward.__class__ = type("Whole", (Judge,), {"__call__": lambda self, *judged_by: judge(*judged_by)})
    settings = settings.replace(updates=1, prompts=3, batch=3)
    grpo.train_on(settings, task_set(tasks, 3), RewardMix([Part(reward)]))
    update = seen[1]
    assert [len(one) for one in seen] == [3, 12, 3]
    assert update[:4] == [("make it green", [[1.0, 0.0, 0.0]])] * 4 and update[8:] == [("a cat", [])] * 4

    pipeline = Pipeline(open_checkpoint(source), dtype=torch.float32)
    roller = Roller(pipeline, settings)
    rolled = roller([tasks[0]] * 2 + [tasks[2]] * 2, [1, 2, 3, 4], [5] * 4, Sampling(), 2)
    references = pipeline.references(list(roller.open_task(tasks[0]).references))
    ids = pipeline.encoder.encode_edit("make it green", references.codes)
    assert rolled.prompt_ids[:2] == [ids] * 2 and rolled.images[0].shape != rolled.images[2].shape
    # What TRL is given is what its policy scores: prompt ids through the same embedding.
    trainer = rl.make_trainer(settings.replace(out=str(tmp_path / "other")), tasks)
    scored = trainer._generate_and_score_completions([{"prompt": str(k)} for k in (0, 1, 2) for _ in range(4)])
    rows = [scored[name] for name in ("prompt_ids", "completion_ids", "prompt_mask", "completion_mask")]
    found, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, torch.cat(rows[:2], 1), torch.cat(rows[2:], 1), 9
    )
    prompts = [row[keep.bool()].tolist() for row, keep in zip(rows[0], rows[2], strict=True)]
    assert prompts[0] == ids
    states = encode_tokens(pipeline.language, Prompts(prompts), rows[1])[:, :-1]
    wanted = (states @ pipeline.language.head_weight(states, True).T).log_softmax(-1)
    wanted = wanted.gather(-1, (rows[1] - pipeline.language.vocabulary.image_start)[..., None])[..., 0]
    assert torch.allclose(found, wanted, atol=1e-4)


def test_tasks_that_the_checkpoint_cannot_do_are_refused_first(settings, tmp_path):
    """Catches a run that ends after an hour at a prompt that is too long, or at references that cannot be trained."""
    with pytest.raises(Blip3oError, match="list.txt, line 3: The prompt is"):
        trained(settings, tasks=task_set([*TASKS, Task("cat " * 400, place="list.txt, line 3")]))
    assert not Path(settings.out).exists()
    image = Image.new("RGB", (48, 48))
    features = make_checkpoint(tmp_path / "features", edit=("use_tar_siglip_features",))
    with pytest.raises(Blip3oError, match="features of the image tokenizer"):
        trained(settings.replace(checkpoint=str(features)), tasks=task_set([Task("a", references=(image,))] * 2))


def test_a_damaged_reference_is_named_with_its_line(settings, tmp_path):
    """Catches a fault that nobody finds in a list of thousands, and a line that is named twice."""
    (tmp_path / "a.png").write_bytes(b"no image")
    roller = Roller(Pipeline(open_checkpoint(settings.checkpoint)), settings)
    with pytest.raises(Blip3oError) as error:
        roller.held_out([Task("a", references=(tmp_path / "a.png",), place="list.jsonl, line 3")], [0])
    assert str(error.value).count("list.jsonl, line 3") == 1 and "a.png" in str(error.value)


def test_all_tasks_have_their_turn(settings):
    """Catches tasks behind the last whole rollout of a list, which TRL leaves out."""
    trainer = rl.make_trainer(settings, TASKS[:3])
    rows = [trainer.train_dataset[place]["prompt"] for place in trainer._get_train_sampler()]
    assert rows == [number for number in "012012" for _ in range(settings.group)]


def test_one_process_that_fails_stops_all(settings, monkeypatch, tmp_path):
    """Catches a process whose disk is full, which no longer asks the others whether to stop: they wait for ever."""
    asked = []
    monkeypatch.setattr(grpo_callback, "share", lambda value: asked.append(value) or [value])
    exchange = SimpleNamespace(clock=Clock(), settings=settings)
    callback = GrpoCallback(exchange, Looks(settings, None, RunFolder(tmp_path), {}, None, Watch()))

    def full(state, policy):
        raise Blip3oError("The disk is full.")

    monkeypatch.setattr(callback, "_look", full)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    callback.on_step_end(SimpleNamespace(max_steps=4), SimpleNamespace(global_step=2), control)
    assert asked == [True] and control.should_save and control.should_training_stop


def test_a_reward_may_be_served_elsewhere(settings):
    """Catches a run that cannot go on because its server has another address, and options of own code that change."""

    def of(use, **options):
        return settings.replace(rewards=[{"name": "a", "use": use, "options": options}]).resume_fingerprint

    assert of("http", url="http://a") == of("http", url="http://b") != of("vlm", url="http://a")
    assert of("judge.py:Judge", limit=1) != of("judge.py:Judge", limit=2)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_divided_weights_are_refused_before_work(settings, monkeypatch, variable):
    """Catches a launcher that divides the weights, under which every image would be made by a part of the model."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(Blip3oError, match="needs whole weights.*torchrun"):
        grpo.train_on(settings, task_set(), mix_of(low_codes))
    assert not Path(settings.out).exists()


def test_settings_that_do_not_fit_together_are_named(settings):
    """Catches a state that is saved in the middle of a rollout, from which no run could resume exactly."""
    for wrong, words in (
        ({"iterations": 3}, "updates is 4"), ({"iterations": 2, "save_every": 5}, "save_every is 5"),
        ({"held_out": 0}, "held_out"), ({"held_out": 2.5}, "held_out"), ({"loss_type": "ppo"}, "loss_type"),
        ({"rewards": []}, "rewards"), ({"samples": 300}, "samples"),
    ):  # fmt: skip
        with pytest.raises(Blip3oError, match=words):
            settings.replace(**wrong)
    assert settings.replace(held_out="4").held_out == 4
