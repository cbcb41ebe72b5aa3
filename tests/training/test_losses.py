"""The joint loss on a tiny random model. Its numbers against the authors' are the parity tier's."""

import pytest
import torch

from blip3o_core.compat import AUTHORS_TRAINING, TrainingQuirks
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import condition
from blip3o_core.training.data.collate import IGNORED, collate
from blip3o_core.training.data.encoded import EncodedItem
from blip3o_core.training.losses import Noising, add_noise, joint_loss, timesteps_from

NO_QUIRKS = TrainingQuirks()
PROMPTS = ["a red cube", "two small green balls on a grey shelf"]


@pytest.fixture(scope="module")
def generated(pipeline):
    """Images as the model generated them: tokens, and latents in the place of their own."""
    tokens = pipeline.generate_tokens(PROMPTS, [1, 2])
    generator = torch.Generator().manual_seed(0)
    return tokens, torch.randn(2, 8, 4, 4, generator=generator)


def batch_of(pipeline, generated, rows=slice(2), quirks=NO_QUIRKS):
    tokens, latents = generated
    items = [EncodedItem(*item) for item in zip(tokens.codes[rows], latents[rows], strict=True)]
    return collate(pipeline.encoder, PROMPTS[rows], items, quirks)


def losses_of(pipeline, batch, rows=slice(2), dropped=(False, False)):
    """Both losses of the batch; `rows` are those of it among all."""
    noise = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    noising = Noising(noise[rows], torch.tensor([700.0, 20.0])[rows], torch.tensor(dropped)[rows])
    return joint_loss(pipeline.language, pipeline.transformer, batch, noising)


def test_the_condition_is_the_one_of_inference(pipeline, generated):
    """Catches training on states that inference never uses: the authors' slice is three positions off."""
    tokens, _ = generated
    batch = batch_of(pipeline, generated)
    seen = []
    hook = pipeline.language.connector.register_forward_hook(lambda _, args, out: seen.append(out))
    losses_of(pipeline, batch)
    hook.remove()
    expected = condition(pipeline.language, tokens, pipeline.source).positive
    assert (seen[0] - expected).abs().max() < 1e-4
    assert (batch.ids.gather(1, batch.scale_positions[:, None]) == pipeline.language.vocabulary.scale_start).all()


def test_a_dropped_row_sees_the_null_condition_of_inference(pipeline, generated):
    """Catches dropout behind the connector, which trains a null condition that guidance never uses."""
    tokens, _ = generated
    batch = batch_of(pipeline, generated)
    seen = []
    hook = pipeline.language.connector.register_forward_hook(lambda _, args, out: seen.append(out))
    losses_of(pipeline, batch, dropped=(False, True))
    hook.remove()
    expected = condition(pipeline.language, tokens, pipeline.source).negative
    assert (seen[0][1] - expected[1]).abs().max() < 1e-5
    assert (seen[0][0] - expected[0]).abs().max() > 1e-2


def test_labels_are_the_image_tokens_alone(pipeline, generated):
    """Catches a loss that learns prompts, or misses the first or last token of the image."""
    tokens, _ = generated
    start = pipeline.language.vocabulary.image_start
    batch = batch_of(pipeline, generated)
    for labels, codes in zip(batch.labels, tokens.codes, strict=True):
        assert torch.equal(labels[labels != IGNORED], codes + start)
    everything = batch_of(pipeline, generated, quirks=AUTHORS_TRAINING)
    assert torch.equal(everything.labels != IGNORED, everything.attention_mask)


def test_neighbours_in_a_batch_change_nothing(pipeline, generated):
    """Catches padding that is attended to: a row's loss must not depend on the longest prompt of the batch."""
    together = losses_of(pipeline, batch_of(pipeline, generated))
    singles = [slice(k, k + 1) for k in range(2)]
    alone = [losses_of(pipeline, batch_of(pipeline, generated, row), row) for row in singles]
    for name in ("tokens", "diffusion", "total"):
        mean = sum(getattr(losses, name) for losses in alone) / 2
        assert abs(getattr(together, name) - mean) < 1e-4 * mean


def test_the_token_loss_is_that_of_guessing_the_next_token(pipeline, generated):
    """Catches a shift by one, and a softmax over image tokens only."""
    tokens, _ = generated
    batch = batch_of(pipeline, generated)
    likelihood = torch.log_softmax(
        tokens.hidden[:, :-1] @ pipeline.language.head_weight(tokens.hidden, image_tokens_only=False).T, -1
    )
    ids = tokens.codes + pipeline.language.vocabulary.image_start
    expected = -likelihood.gather(-1, ids[..., None]).mean()
    assert abs(losses_of(pipeline, batch).tokens - expected) < 1e-4


def test_a_perfect_prediction_costs_nothing():
    """Catches a velocity of the wrong sign, or noise mixed in the wrong proportion."""
    latents, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    x, velocity = add_noise(latents, noise, torch.tensor([1000.0, 250.0]))
    assert torch.allclose(x[0], noise[0], atol=1e-6)
    assert torch.allclose(x - torch.tensor([1.0, 0.25]).view(-1, 1, 1, 1) * velocity, latents, atol=1e-5)


def test_timesteps_run_from_1000_to_1():
    """Catches a timestep 0, at which there is nothing to learn, and one that never occurs."""
    assert timesteps_from(torch.tensor([0.0, 0.0005, 0.001, 0.9999])).tolist() == [1000.0, 1000.0, 999.0, 1.0]


def test_uneven_batches_are_refused(pipeline, generated):
    """Catches prompts paired with other images."""
    with pytest.raises(Blip3oError, match="2 prompts for 1 images"):
        collate(pipeline.encoder, PROMPTS, [EncodedItem(generated[0].codes[0], generated[1][0])])
