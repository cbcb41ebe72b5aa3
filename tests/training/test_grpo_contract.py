"""What GRPO takes from TRL and peft, and the mathematics that it must then have.

Without a training: when a release moves one of these places, these tests name it in seconds.
"""

import inspect
from pathlib import Path

import pytest
import torch

from blip3o_core.decoding.prefill import Prompts, encode_tokens
from tests.support import rl

pytest.importorskip("trl", reason="the `rl` extra is not installed")
from trl.trainer.grpo_trainer import GRPOTrainer

from blip3o_core.training.grpo.callback import LOGGED
from blip3o_core.training.grpo.policy import MASKED_LOGIT

LORA = {"rank": 2, "alpha": 2, "targets": ("q_proj",)}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return rl.small_checkpoint(tmp_path_factory.mktemp("grpo") / "model")


@pytest.fixture
def settings(source, tmp_path):
    return rl.small_settings(source, tmp_path / "run")


@pytest.fixture
def trainer(settings):
    return rl.make_trainer(settings)


def batch_of(trainer, **more) -> dict:
    """A rollout of two prompts, as TRL hands it to its loss."""
    rows = [{"prompt": str(number)} for number in (0, 1) for _ in range(4)]
    return {**trainer._generate_and_score_completions(rows), **more}


def scores(trainer, model, batch) -> torch.Tensor:
    ids, keep = (
        torch.cat([batch[f"{part}_{kind}"] for part in ("prompt", "completion")], 1) for kind in ("ids", "mask")
    )
    return trainer._get_per_token_logps_and_entropies(model, ids, keep, batch["completion_ids"].shape[1])[0]


def test_trl_still_calls_what_we_give_it():
    """Catches a release of TRL in which the rollout's answer, the reward's call or the reference moved."""
    generate = inspect.getsource(GRPOTrainer._generate)
    assert "self.rollout_func(prompts, self)" in generate
    assert 'required_keys = {"prompt_ids", "completion_ids", "logprobs"}' in generate
    rewards = inspect.getsource(GRPOTrainer._calculate_rewards)
    assert "prompts=prompts, completions=completions, completion_ids=completion_ids_list, **reward_kwargs" in rewards
    scored = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "extra_fields.items()" in scored  # `rendered` reaches the reward
    assert 'use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None)' in scored
    named = inspect.signature(GRPOTrainer.__init__).parameters
    assert {"rollout_func", "peft_config", "reward_funcs", "processing_class", "callbacks"} <= set(named)
    assert "_buffered_inputs" in inspect.getsource(GRPOTrainer._prepare_inputs)  # why states are saved between rollouts
    assert list(inspect.signature(GRPOTrainer._save_checkpoint).parameters) == ["self", "model", "trial"]


def test_trl_logs_the_names_that_we_read(settings):
    """Catches numbers that silently leave the log because TRL calls them otherwise."""
    trainer = rl.make_trainer(settings)
    batch = batch_of(trainer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer._compute_loss(trainer.model, batch)
    found = set(trainer._metrics["train"]) | {"grad_norm", "learning_rate", "loss"}  # these are transformers'
    assert set(LOGGED) - found == {"cispo_clip_ratio"}
    assert "cispo_clip_ratio" in inspect.getsource(GRPOTrainer._compute_loss)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_head_of_trl_reads_our_mask(settings, lora):
    """Catches text tokens that get probability, in the loss or in the entropy, and a mask that a state would keep."""
    trainer = rl.make_trainer(settings.replace(lora=lora))
    vocabulary = trainer.rollout_func.__self__.roller.pipeline.language.vocabulary
    batch, image = batch_of(trainer), vocabulary.image_start
    head = trainer.accelerator.unwrap_model(trainer.model).get_output_embeddings()
    assert head.bias.shape == (vocabulary.size,) and int((head.bias == 0).sum()) == vocabulary.num_codes
    with torch.no_grad():
        inside = scores(trainer, trainer.model, batch)
        text = {**batch, "completion_ids": torch.full_like(batch["completion_ids"], image - 1)}
        assert bool((scores(trainer, trainer.model, text)[:, :1] < MASKED_LOGIT / 2).all())
        total = torch.zeros(len(inside))
        for code in range(vocabulary.num_codes):
            ids = batch["completion_ids"].clone()
            ids[:, 0] = image + code
            total += scores(trainer, trainer.model, {**batch, "completion_ids": ids})[:, 0].exp()
    assert torch.allclose(total, torch.ones(len(inside)), atol=1e-4)
    assert not any("lm_head.bias" in name for name in trainer.model.state_dict())


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_before_any_update_the_ratio_is_one_and_the_kl_zero(settings, lora):
    """Catches old probabilities of other weights, rows or masks, and a reference that is not the start."""
    trainer = rl.make_trainer(settings.replace(lora=lora, iterations=2, kl=0.1))
    batch = batch_of(trainer)
    with torch.no_grad():
        now = scores(trainer, trainer.model, batch)
    assert torch.equal(batch["old_per_token_logps"], now)
    assert torch.allclose(batch["ref_per_token_logps"], now, atol=1e-6)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, batch)
    assert trainer._metrics["train"]["kl"][-1] == pytest.approx(0, abs=1e-6)
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] == 0
    assert float(loss) == pytest.approx(-float(batch["advantages"].mean()), abs=1e-5)


def test_the_probability_of_a_rewarded_token_rises(settings):
    """Catches a wrong sign, advantages that go to other rows, and a gradient that misses the rollout's weights."""
    trainer = rl.make_trainer(settings.replace(kl=0.0))
    batch = batch_of(trainer, advantages=torch.tensor([1.0, -1.0, 0, 0, 0, 0, 0, 0]))
    trainer.current_gradient_accumulation_steps = 1
    before = scores(trainer, trainer.model, batch)
    trainer._compute_loss(trainer.model, batch).backward()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-2 * parameter.grad
        change = (scores(trainer, trainer.model, batch) - before).sum(1)
    assert change[0] > 0 > change[1]
    assert change[0] - change[1] > 2 * change[2:].abs().max()
    # Our decoder sees the step: it is made of the same parameters.
    exchange = trainer.rollout_func.__self__
    language = exchange.roller.pipeline.language
    assert language.model.norm.weight is trainer.model.model.norm.weight


def test_the_rollouts_probabilities_are_those_of_the_policy(trainer):
    """Catches images that are drawn from another distribution than the one that learns from them."""
    language = trainer.rollout_func.__self__.roller.pipeline.language
    batch = batch_of(trainer)
    with torch.no_grad():
        scored = scores(trainer, trainer.model, batch)
    prompts = [ids[keep.bool()].tolist() for ids, keep in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
    states = encode_tokens(language, Prompts(prompts), batch["completion_ids"])[:, :-1]
    wanted = (states @ language.head_weight(states, image_tokens_only=True).T).log_softmax(-1)
    codes = batch["completion_ids"] - language.vocabulary.image_start
    assert torch.allclose(scored, wanted.gather(-1, codes[..., None])[..., 0], atol=1e-4)
