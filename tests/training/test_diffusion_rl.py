"""Runs of reinforcement learning on the diffusion of the smallest model: what changes, what does not, what is kept."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.cli.main import main
from blip3o_core.diffusion.sampler import sigmas
from blip3o_core.editing.references import EditInputs
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.training.diffusion_rl import adapter
from blip3o_core.training.diffusion_rl.conditions import make_conditions
from blip3o_core.training.diffusion_rl.learner import Learner, Plan
from blip3o_core.training.diffusion_rl.policy import Velocity
from blip3o_core.training.diffusion_rl.rollout import passes, roll_out
from blip3o_core.training.diffusion_rl.settings import DiffusionRlSettings
from blip3o_core.training.rl.tasks import Task, open_task
from blip3o_core.training.run_folder import RunFolder
from blip3o_core.training.watch import Watch
from tests.support import diffusion_rl, ranks, rl
from tests.support.pictures import noise
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Images of 9 tokens and 24 px; references reach it in cross-attention."""
    return rl.small_checkpoint(tmp_path_factory.mktemp("diffusion_rl") / "model")


@pytest.fixture
def settings(source, tmp_path) -> DiffusionRlSettings:
    return diffusion_rl.small_settings(source, tmp_path / "run")


@pytest.fixture
def network(source):
    pipeline = Pipeline.load(source, dtype=torch.float32)
    adapter.add_adapters(pipeline.transformer, 4, 8.0, TARGETS, 0)
    with torch.no_grad():  # an adapter that changes something
        for parameter in adapter.adapter_parameters(pipeline.transformer).values():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return pipeline


def conditions_of(pipeline, tasks) -> list:
    return make_conditions(pipeline, tasks, [open_task(task) for task in tasks], list(range(len(tasks))), 8)


def log_of(settings) -> list[dict]:
    return [json.loads(line) for line in RunFolder(Path(settings.out)).log.read_text().splitlines()]


def test_images_are_those_of_inference(network):
    """Catches another schedule, noise or condition in training: rewards for images that nobody will get."""
    image = noise(24, 24)
    tasks = [Task("a cat"), Task("make it red", references=(image,))]
    plain, edit = conditions_of(network, tasks)
    velocity = Velocity(network.transformer, 2.0, False)
    made = roll_out(velocity, [plain, plain, edit], [5, 6, 7], sigmas(3, network.checkpoint.shift), (), 0.7, 8)
    assert [one.rows for one in made] == [slice(0, 2), slice(2, 3)]  # an edit takes a pass of its own
    tokens = network.generate_tokens(["a cat"], [0])
    wanted = network.latents(tokens, [5, 6], steps=3, guidance=2.0)
    assert torch.allclose(made[0].latents, wanted, atol=1e-5)
    references = network.references([image])
    tokens = network.generate_tokens(["make it red"], [1], references=references)
    wanted = network.latents(tokens, [7], steps=3, guidance=2.0, edit=EditInputs(references))
    assert torch.allclose(made[1].latents, wanted, atol=1e-5)
    assert not torch.allclose(made[0].latents[0], made[0].latents[1], atol=0.1)  # of one prompt, in other noise


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_replay_has_the_probabilities_of_its_rollout_to_the_last_bit(network, guidance):
    """Catches a replay with other rows, another guidance or rounded latents: ratios that are not 1 before an update."""
    rows = [one for one in conditions_of(network, [Task("a cat"), Task("a very long tree")]) for _ in range(3)]
    velocity = Velocity(network.transformer, guidance, False)
    settings = DiffusionRlSettings(checkpoint="x", out="x", tasks="x", rewards="tiny", method="flow_grpo", kl=0.1)
    plan = Plan(sigmas(4).tolist(), [0, 2], list(range(6)))
    made = roll_out(velocity, rows, plan.seeds, sigmas(4), plan.window, settings.noise, 4)
    assert [len(one.moments) for one in made] == [2, 2]
    advantage = torch.tensor([1.0, -1, 0, 2, -2, 0])
    learner = Learner(velocity, settings, None)
    for one in made:
        for loss, kl, clipped, ratio in learner._flow_grpo(one, advantage[one.rows], plan):
            assert bool((ratio == 1).all()) and not bool(clipped.any())
            assert torch.equal(loss, -advantage[one.rows])
            assert bool((kl > 0).all())  # the adapters are not the checkpoint
    with torch.no_grad():
        for name, parameter in adapter.adapter_parameters(network.transformer).items():
            if "lora_B" in name:
                parameter.zero_()
    made = roll_out(velocity, rows, plan.seeds, sigmas(4), plan.window, settings.noise, 4)
    assert all(
        bool((kl == 0).all()) for one in made for _, kl, _, _ in learner._flow_grpo(one, advantage[one.rows], plan)
    )


@pytest.mark.parametrize("method", ["nft", "flow_grpo"])
def test_passes_do_not_change_the_gradient(network, method):
    """Catches a mean over passes in the place of one over images."""
    rows = [one for one in conditions_of(network, [Task("a cat"), Task("an owl")]) for _ in range(3)]
    settings = DiffusionRlSettings(checkpoint="x", out="x", tasks="x", rewards="tiny", method=method, kl=0.1, noise=0.4)
    velocity, advantage = Velocity(network.transformer, 1.0, False), torch.tensor([1.0, -1, 0, 2, -2, 0])
    parameters = adapter.adapter_parameters(network.transformer)
    old = None if settings.flow_grpo else diffusion_rl.average_of(parameters)
    plan, found = Plan(sigmas(3).tolist(), [0, 1], list(range(6))), []
    for batch in (6, 2):
        window = plan.window if settings.flow_grpo else ()
        made = roll_out(velocity, rows, plan.seeds, sigmas(3), window, settings.noise, batch)
        for parameter in parameters.values():
            parameter.grad = None
        totals = Learner(velocity, settings, old).add_gradients(made, advantage, 6, plan)
        found.append((totals, torch.cat([parameter.grad.flatten() for parameter in parameters.values()])))
    (one, mine), (other, theirs) = found
    assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6 * float(mine.abs().max()) + 1e-9)
    assert float(mine.abs().max()) > 0


def test_rows_of_one_shape_share_a_pass(network):
    """Catches conditions of different sizes in one tensor, and edits rendered one by one."""
    small, large = noise(24, 24), noise(48, 24)
    tasks = [Task("a"), Task("b"), Task("c", references=(small,)), Task("d", references=(small,)),
             Task("e", references=(large,))]  # fmt: skip
    found = passes(conditions_of(network, tasks), 8)
    assert [(one.start, one.stop) for one in found] == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("method", ["nft", "flow_grpo"])
def test_only_the_adapted_layers_change_and_the_adapter_is_apart(settings, source, method):
    """Catches a frozen part that moves, a LoRA that is merged with another scale, and names that hosts do not know."""
    settings = settings.replace(method=method, updates=2)
    best = diffusion_rl.trained(settings, diffusion_rl.rising())
    assert best.name == "step-00000002"
    saved, before = load_file(best / "model.safetensors"), load_file(source / "model.safetensors")
    assert saved.keys() == before.keys()
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    layers = {name for name in before if name.startswith("model.sana.transformer_blocks.")}
    assert changed == {name for name in layers if name.endswith(tuple(f"{one}.weight" for one in TARGETS))}
    lora = load_file(best / "adapter" / adapter.FILE)
    for name in changed:
        layer = "diffusion_model." + name.removeprefix("model.sana.").removesuffix(".weight")
        scale = lora[layer + ".alpha"] / len(lora[layer + ".lora_A.weight"])
        delta = scale * (lora[layer + ".lora_B.weight"] @ lora[layer + ".lora_A.weight"])
        assert torch.allclose(saved[name], before[name] + delta, atol=1e-6)
    assert len(lora) == 3 * len(changed)
    assert Pipeline.load(best).checkpoint.grid == (3, 3)


@pytest.mark.parametrize("method", ["nft", pytest.param("flow_grpo", marks=pytest.mark.long)])
def test_an_interrupted_run_resumes_as_if_it_had_not_been(settings, tmp_path, method):
    """Catches random numbers, rates, moments or an old policy that a resumed run does not have, and log lines twice."""
    # Four tasks: the rollout behind the interruption takes some for the second time, with other neighbours.
    settings = settings.replace(method=method, window="random", window_size=1, prompts=3)
    whole = settings.replace(out=str(tmp_path / "whole"))
    diffusion_rl.trained(whole)
    asked = []
    diffusion_rl.trained(settings, watch=Watch(stop=lambda: asked.append(1) or len(asked) == 3))
    assert log_of(settings)[-1]["step"] == 2
    diffusion_rl.trained(settings, resume=True)
    assert log_of(settings) == log_of(whole)
    mine, theirs = (torch.load(Path(one.out) / "state.pt") for one in (settings, whole))
    assert all(torch.equal(mine["parameters"][name], theirs["parameters"][name]) for name in mine["parameters"])
    with pytest.raises(Blip3oError, match="kl 0.05"):
        diffusion_rl.trained(settings.replace(kl=0.5), resume=True)
    with pytest.raises(Blip3oError, match="already contains a run"):
        diffusion_rl.trained(settings)


@pytest.mark.parametrize("images, call", [(8, 3), (4, 2)], ids=["in an update", "in a look"])
def test_a_reward_that_fails_loses_no_update(settings, images, call):
    """Catches hours of work that are gone because a server of rewards was, and a look that is left out."""
    calls = []

    def failing(judged):
        calls.append(len(judged))
        if len(judged) == images and calls.count(images) == call:
            raise Blip3oError("the server is away.")
        return diffusion_rl.brightness(judged)

    with pytest.raises(Blip3oError, match="server is away.*Update 2 was saved"):
        diffusion_rl.trained(settings.replace(save_every=50), failing)
    diffusion_rl.trained(settings.replace(save_every=50), failing, resume=True)
    assert [one["step"] for one in log_of(settings) if "loss" in one] == [1, 2, 3, 4]
    assert [one["step"] for one in log_of(settings) if "held_out_reward" in one] == [0, 2, 4]


def test_a_gradient_that_is_not_finite_saves_nothing(settings, monkeypatch):
    """Catches a state of the middle of a rollout, and advice to resume towards the same fault."""
    calls, add = [], Learner.add_gradients

    def broken(self, *given):
        found = add(self, *given)
        calls.append(1)
        if len(calls) == 2:
            next(iter(adapter.adapter_parameters(self.velocity.transformer).values())).grad.fill_(float("nan"))
        return found

    monkeypatch.setattr(Learner, "add_gradients", broken)
    with pytest.raises(Blip3oError, match="Update 2 stopped") as stopped:
        diffusion_rl.trained(settings.replace(method="flow_grpo", iterations=2))
    assert "--resume" not in str(stopped.value) and not (Path(settings.out) / "state.pt").exists()


def test_the_command_trains_and_writes_its_report(source, tmp_path, capsys):
    """Catches settings that do not reach the run, an own reward that is refused, and a checkpoint that nobody finds."""
    (tmp_path / "prompts.txt").write_text("a cat\na tree\ntwo owls\n")
    judge = "def bright(images, *_):\n    return [float(image.mean()) for image in images]\n"
    (tmp_path / "judge.py").write_text(judge)
    (tmp_path / "rl.yaml").write_text(
        f"checkpoint: {source}\nout: {tmp_path / 'run'}\ntasks: {tmp_path / 'prompts.txt'}\nheld_out: 1\n"
        f"rewards: {{name: bright, use: '{tmp_path / 'judge.py'}:bright'}}\ndevice: cpu\n"
    )
    small = "updates=1 prompts=2 group=2 steps=2 held_out_steps=1 method=flow_grpo".split()
    assert main(["diffusion-rl", str(tmp_path / "rl.yaml"), *small]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(RunFolder(tmp_path / "run").last)
    assert any("held_out_reward/bright" in line for line in lines) and any("seconds/update" in line for line in lines)
    assert {"report.html", "seconds.jsonl", "state.pt", "samples"} < {one.name for one in (tmp_path / "run").iterdir()}
    assert main(["diffusion-rl", str(tmp_path / "rl.yaml"), *small]) == 1
    assert "--resume" in capsys.readouterr().err
    (tmp_path / "judge.py").write_text(f"{judge}\n# another\n")
    assert main(["diffusion-rl", str(tmp_path / "rl.yaml"), *small, "--resume"]) == 1
    assert "Restore the version of reward 'bright'" in capsys.readouterr().err


def test_an_alarm_is_told_once_and_can_stop_a_run(settings):
    """Catches a terminal full of one warning, and a run that leaves its checkpoint behind without a word."""
    told, settings = [], settings.replace(kl=1e-4, kl_alarm=1e-12, held_out_every=4)
    diffusion_rl.trained(settings, watch=Watch(tell=told.append))
    alarmed = [one["step"] for one in log_of(settings) if "alarms" in one]
    assert len(alarmed) > 1 and len(told) == 1 and "above kl_alarm 1e-12" in told[0]
    stopped = settings.replace(stop_on_alarm=True, out=f"{settings.out}-stopped")
    diffusion_rl.trained(stopped)
    assert max(one["step"] for one in log_of(stopped)) == alarmed[0]


@pytest.mark.long
def test_two_processes_make_the_gradient_of_one(settings, tmp_path):
    """Catches gradients that are averaged twice, advantages of half of the images, and images that both make."""
    settings = settings.replace(updates=2)
    diffusion_rl.trained(settings)
    both, meeting = settings.replace(out=str(tmp_path / "both")), tmp_path / "meeting"
    processes = [
        ranks.context.Process(target=diffusion_rl.train_together, args=(both, rank, str(meeting))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for mine, theirs in zip(log_of(settings), log_of(both), strict=True):
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, mine["step"])


@pytest.mark.parametrize("method", ["nft", pytest.param("flow_grpo", marks=pytest.mark.long)])
@pytest.mark.slow
def test_images_become_what_is_rewarded(settings, method):
    """Catches a wrong sign, and a loss that does not reach the weights that make images."""
    settings = settings.replace(method=method, updates=24, group=6, lr=1e-2, kl=0.0, save_every=24, held_out_every=24)
    diffusion_rl.trained(settings)
    first, last = (one["held_out_reward"] for one in log_of(settings) if "held_out_reward" in one)
    assert last > first + 0.01


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"method": "ppo"}, "method"),
        ({"iterations": 2}, "iterations"),
        ({"steps": 1, "method": "flow_grpo"}, "steps"),
        ({"beta": 0}, "beta"),
        ({"lora": {"targets": ["q_proj"]}}, "lora"),
        ({"epsilon": 1.0}, "epsilon"),
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused(settings, wrong, message):
    """Catches a mistake that shows only after the model was loaded, or never."""
    with pytest.raises(Blip3oError, match=message):
        settings.replace(**wrong)


def test_few_step_checkpoints_are_refused(settings, tmp_path):
    """Catches training on a velocity that is none."""
    source = make_checkpoint(tmp_path / "few", sizes=Sizes(codes=32, grid=3, latent_side=3), meanflow=True)
    with pytest.raises(Blip3oError, match="mean flow"):
        diffusion_rl.trained(settings.replace(checkpoint=str(source)))
    assert not Path(settings.out).exists()
