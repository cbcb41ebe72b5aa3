"""Reinforcement learning through TRL's own trainer: it sees what our decoder writes, and what it learns is kept."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.cli.main import main
from blip3o_core.decoding.prefill import Prompts, encode_tokens
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.tiny import rasterize
from blip3o_core.tiny.recipe.grpo import TinyGrpoSettings
from blip3o_core.tiny.scenes.world import make_scene
from blip3o_core.tiny.tasks import WORLD, image_tasks
from blip3o_core.training.grpo import train as grpo
from blip3o_core.training.run_folder import RunFolder
from blip3o_core.training.watch import Watch
from tests.support import held_out, ranks, rl
from tests.support.rl import TASKS, low_codes, mix_of, trained, updates, weights_after
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

pytest.importorskip("trl", reason="the `rl` extra is not installed")
from blip3o_core.training.grpo import trainer as grpo_trainer

LANGUAGE = ("model.embed_tokens.", "model.layers.", "model.norm.")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Images of 9 tokens and 24 px: most of the time goes into rollouts. Its reference connector is not trained."""
    return rl.small_checkpoint(tmp_path_factory.mktemp("grpo") / "model")


@pytest.fixture
def settings(source, tmp_path):
    return rl.small_settings(source, tmp_path / "run")


@pytest.fixture
def codes_as_images(monkeypatch):
    rl.make_images_of_codes(monkeypatch)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """(settings, log) of a run that nothing interrupts."""
    settings = rl.small_settings(source, tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as patch:
        rl.make_images_of_codes(patch)
        _, log = trained(settings)
    return settings, log


@pytest.fixture
def trainer(settings):
    return rl.make_trainer(settings)


def test_trl_sees_the_prompts_and_tokens_of_our_decoder(trainer, source):
    """Catches a second tokenizer, a template, an end token or padding between what is sampled and what is scored."""
    rows = [{"prompt": str(number)} for number in (0, 1) for _ in range(4)]
    seen = trainer._generate_and_score_completions(rows)
    checkpoint = open_checkpoint(source)
    ids = checkpoint.vocabulary
    for row, prompt, keep in zip(rows, seen["prompt_ids"], seen["prompt_mask"], strict=True):
        assert prompt[keep.bool()].tolist() == checkpoint.prompt_encoder.encode(TASKS[int(row["prompt"])].prompt)
    assert seen["completion_ids"].shape == (8, 9)
    assert bool(seen["completion_mask"].all())
    assert ids.image_start <= int(seen["completion_ids"].min())
    assert int(seen["completion_ids"].max()) < ids.image_start + ids.num_codes


def test_trl_scores_the_distribution_that_is_sampled_from(trainer, source):
    """Catches log-probabilities over text tokens too, of padded rows at other places, or of other weights."""
    lm = Pipeline.load(source, dtype=torch.float32).language
    prompts = [open_checkpoint(source).prompt_encoder.encode(task.prompt) for task in TASKS[:2]]
    ids = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0)) + lm.vocabulary.image_start
    states = encode_tokens(lm, Prompts(prompts), ids)[:, :-1]
    wanted = (states @ lm.head_weight(states, image_tokens_only=True).T).log_softmax(-1)
    entropy = -(wanted.exp() * wanted).sum(-1)
    wanted = wanted.gather(-1, (ids - lm.vocabulary.image_start)[..., None])[..., 0]

    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(p)) + p + image for p, image in zip(prompts, ids.tolist(), strict=True)]
    mask = [[0] * (longest - len(p)) + [1] * (len(p) + 9) for p in prompts]
    for model in (trainer.model, trainer.ref_model):
        scored, entropies, _ = trainer._get_per_token_logps_and_entropies(
            model, torch.tensor(rows), torch.tensor(mask), 9, compute_entropy=model is trainer.model
        )
        assert torch.allclose(scored, wanted, atol=1e-4)
        assert entropies is None or torch.allclose(entropies, entropy, atol=1e-4)


def test_images_that_are_scored_are_those_of_inference(source, settings, monkeypatch, tmp_path):
    """Catches stale hidden states, another schedule or another noise: a reward for images that nobody will get."""
    seen, make = [], Pipeline.render

    def remember(self, tokens, seeds, **how):
        images = make(self, tokens, seeds, **how)
        seen.append((tokens, seeds, images))
        return images

    monkeypatch.setattr(Pipeline, "render", remember)
    settings = settings.replace(updates=1, batch=4)
    trained(settings)
    passes = seen[1:3]  # behind a look at held-out images, before another one
    assert [len(tokens) for tokens, _, _ in passes] == [4, 4]
    fresh = Pipeline.load(source, dtype=torch.float32)
    for tokens, seeds, images in passes:
        anew = dataclasses.replace(tokens, hidden=None, hidden_source=None)
        assert torch.allclose(make(fresh, anew, seeds, steps=2, guidance=1.0), images, atol=1e-5)


def test_images_of_one_prompt_share_their_noise_alone(settings, codes_as_images, monkeypatch):
    """Catches advantages that come from the renderer's noise, and groups whose rows are all the same image."""
    seen = rl.remember_rollouts(monkeypatch)
    trained(settings.replace(updates=2))
    rows, noises = [], []
    for prompts, seeds, noise in seen:
        assert prompts[:4] == prompts[:1] * 4 and prompts[4:] == prompts[4:5] * 4
        assert len(set(noise[:4])) == len(set(noise[4:])) == 1
        rows, noises = rows + list(seeds), noises + noise[::4]
    assert [prompts[::4] for prompts, _, _ in seen] == [["a cat", TASKS[1].prompt], ["a tree", "two owls"]]
    assert len(set(rows)) == 16 and len(set(noises)) == 4


@pytest.mark.slow
def test_what_is_rewarded_becomes_likelier(settings, codes_as_images):
    """Catches a wrong sign, an advantage that does not reach the weights, and a KL against something else.

    Half of the codes are rewarded, so 0.5 is chance and one standard error of 72 codes is 0.06: 0.75 is luck once in
    a hundred thousand.
    """
    settings = settings.replace(updates=20, kl=0.01, held_out_every=10, seed=1)
    best, log = trained(settings)
    rewards = updates(log, "reward")
    assert sum(rewards[:2]) / 2 < 0.65
    assert sum(rewards[-3:]) / 3 > 0.75
    assert updates(log, "kl")[0] == pytest.approx(0, abs=1e-6)  # the reference is the policy's start
    assert updates(log, "kl")[-1] > 1e-3
    passed = updates(log, "held_out_passed")
    assert passed[-1] > passed[0]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_differs_in_the_language_model_alone(settings, source, codes_as_images):
    """Catches the last weights saved instead of the best, trained weights that are lost, and others that move."""
    looks = iter([0.1, 0.9, 0.4])

    def reward(images):
        return [next(looks)] * len(images) if len(images) == len(TASKS) else low_codes(images)  # an update has eight

    best, log = trained(settings, reward)
    assert best.name == "step-00000002"
    assert updates(log, "held_out_reward") == pytest.approx([0.1, 0.9, 0.4])
    assert {path.name for path in Path(settings.out).glob("step-*")} == {best.name}
    saved, before = load_file(best / "model.safetensors"), load_file(source / "model.safetensors")
    assert saved.keys() == before.keys()
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert changed == {name for name in before if name.startswith(LANGUAGE)}
    state = weights_after(settings, 2)
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())
    assert len(Pipeline.load(best).generate_tokens(["a cat"], [0])) == 1


@pytest.mark.slow
def test_an_interrupted_run_resumes_as_if_it_had_not_been(settings, whole, codes_as_images, monkeypatch):
    """Catches random numbers, learning rates, prompts or optimizer states that a resumed run does not have."""
    whole, wanted = whole
    rl.interrupt_rollout(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        trained(settings)
    monkeypatch.undo()
    rl.make_images_of_codes(monkeypatch)
    best, log = trained(settings, resume=True)
    assert log == wanted
    assert best.name == RunFolder(Path(whole.out)).last.name
    mine, theirs = weights_after(settings, 4), weights_after(whole, 4)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    with pytest.raises(Blip3oError, match="kl 0.04"):
        trained(settings.replace(kl=0.5), resume=True)
    with pytest.raises(Blip3oError, match="already contains a run"):
        trained(settings)


@pytest.mark.slow
def test_a_run_that_is_stopped_saves_and_continues(settings, whole, codes_as_images):
    """Catches updates that are lost between two states, log lines twice, and a state that a kill cut short."""
    whole, wanted = whole
    seen = []
    trained(settings, watch=Watch(stop=lambda: seen.append(1) or len(seen) == 1))
    states = Path(settings.out) / "trainer"
    assert [path.name for path in states.glob("checkpoint-*")] == ["checkpoint-1"]
    shutil.copytree(states / "checkpoint-1", states / "checkpoint-2")  # of a process that was killed while it wrote
    (states / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2, "ep')
    best, log = trained(settings, resume=True)
    assert log == wanted
    assert best.name == RunFolder(Path(whole.out)).last.name
    mine, theirs = weights_after(settings, 4), weights_after(whole, 4)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    other = settings.replace(updates=5)
    with pytest.raises(Blip3oError, match="data has other images or captions"):
        grpo.train_on(other, rl.task_set(TASKS[::-1]), mix_of(low_codes), resume=True)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence(settings, codes_as_images, monkeypatch):
    """Catches a traceback of TRL's."""
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(grpo_trainer.GRPOTrainer, "save_model", lambda *given, **named: (_ for _ in ()).throw(full))
    with pytest.raises(Blip3oError, match="Cannot write .*run: No space left on device"):
        trained(settings)


def test_two_processes_share_the_look_at_held_out_images(settings, tmp_path):
    """Catches one process that makes all the images while the others wait until their patience ends."""
    alone, _, means = held_out.look(settings)
    results = [tmp_path / f"{rank}.json" for rank in range(2)]
    meeting = str(tmp_path / "meeting")
    processes = [
        ranks.context.Process(target=held_out.look_together, args=(settings, rank, meeting, str(results[rank])))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    (one, mine, kept), (other, theirs, kept_too) = (json.loads(result.read_text()) for result in results)
    # A batch of another size may round otherwise.
    assert one == other == pytest.approx(alone, rel=1e-4)
    assert kept == kept_too == pytest.approx(means, rel=1e-4) and len(means) == 3
    assert [len(mine), len(theirs)] == [3, 2]
    assert sorted(mine + theirs) == sorted(held_out.PROMPTS)


def test_a_gradient_that_is_not_finite_changes_nothing(settings, codes_as_images, monkeypatch):
    """Catches weights of NaN, found hours later."""
    policies = []

    def broken(language):
        policies.append(make_policy(language))
        policies[0].model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
        return policies[0]

    make_policy = grpo_trainer.make_policy
    monkeypatch.setattr(grpo_trainer, "make_policy", broken)
    with pytest.raises(Blip3oError, match="Update 1 stopped"):
        trained(settings)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in policies[0].parameters())


def test_frozen_weights_keep_their_values(settings, codes_as_images):
    """Catches weights that learn although they are named as frozen, a name that means nothing, and an idle run."""
    best, _ = trained(settings.replace(frozen=("model.embed_tokens", "model.layers.0"), updates=2, save_every=2))
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (settings.checkpoint, best))
    assert best.name != "step-00000000"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not [name for name in changed if name.startswith(("model.embed_tokens", "model.layers.0."))]
    for wrong in ("model.layers.77", "model"):
        with pytest.raises(Blip3oError, match="frozen names"):
            trained(settings.replace(frozen=(wrong,), out=f"{settings.out}-{wrong}"))
    adapted = rl.make_trainer(settings.replace(frozen=("model.layers.0",), lora={"targets": ["q_proj"]}))
    names = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    assert names and not [name for name in names if "layers.0." in name]


@pytest.mark.parametrize(
    "wrong",
    [
        {"group": 1},
        {"lr": float("nan")},
        {"top_p": 0.0},
        {"device": "gpu"},
        {"batch": 3},
        {"kl": -1.0},
        {"adapter_only": True},
    ],
)
def test_settings_that_cannot_be_trained_with_are_refused(settings, wrong):
    """Catches a mistake that shows only after the model was loaded, or never."""
    with pytest.raises(Blip3oError, match=next(iter(wrong))):
        trained(settings.replace(**wrong))


def test_without_trl_the_message_names_the_extra(settings, monkeypatch):
    """Catches a bare ImportError for people who installed what training needs, but not this."""
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "blip3o_core.training.grpo.trainer")
    with pytest.raises(Blip3oError, match="`rl` extra"):
        trained(settings)


def test_the_tiny_stage_rewards_what_is_right(settings):
    """Catches images and tasks in different orders, another range of colours, and a judge of other scenes."""
    stage = TinyGrpoSettings(checkpoint="tiny", out="run")
    scenes = [make_scene(61, "train", k, WORLD, category) for k, category in enumerate(WORLD.categories)]
    images = [torch.from_numpy(rasterize(scene, 128)).float() / 255 for scene in scenes]
    mix, meta = load_rewards(stage.rewards), [task.meta for task in image_tasks(9, "train", 0)]
    for candidates, right in ((images, True), ([torch.full_like(one, 0.5) for one in images], False)):
        found = mix.combine(mix.score(Candidates(candidates, ["a prompt"] * 9, meta=meta)), 9)
        assert all((one >= stage.pass_at) == right and 0 <= one <= 1 for one in found)


@pytest.mark.long
def test_the_tiny_stage_is_one_command(tmp_path, capsys):
    """Catches settings that do not reach the run, a checkpoint that cannot be found afterwards, and a traceback."""
    sizes = Sizes(codes=32, grid=8, latent_side=8, prompt_limit=300)
    source = make_checkpoint(tmp_path / "model", sizes=sizes)
    (tmp_path / "grpo.yaml").write_text(
        f"checkpoint: {source}\ntasks: tiny\nout: {tmp_path / 'run'}\nprompts: 2\ngroup: 2\n"
    )
    small = "updates=1 held_out=8 steps=1 held_out_steps=1 bf16=false".split()
    command = ["grpo", str(tmp_path / "grpo.yaml"), *small]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(RunFolder(tmp_path / "run").last)
    assert any("held_out_passed" in line and "size" in line for line in lines)
    assert main(command) == 1
    assert "--resume" in capsys.readouterr().err
    assert open_checkpoint(RunFolder(tmp_path / "run").last).grid == (8, 8)
