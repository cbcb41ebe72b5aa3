"""Mean-flow checkpoints: recognised by their tensors, given both ends of a step, and otherwise ordinary SANA."""

import copy as copying
import json

import pytest
import torch
from diffusers import SanaTransformer2DModel
from diffusers.models.normalization import AdaLayerNormSingle
from PIL import Image
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.describe import describe
from blip3o_core.cli.main import main
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.errors import Blip3oError
from blip3o_core.models import meanflow
from blip3o_core.weights.names import SANA
from tests.conftest import Copy
from tests.support.tiny_checkpoint import make_checkpoint

TIME, LENGTH, OLD = (f"{SANA}time_embed{end}." for end in ("_t", "_r", ""))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("few") / "model", meanflow=True)


@pytest.fixture
def few_copy(few, tmp_path) -> Copy:
    return Copy(few, tmp_path)


@pytest.fixture(scope="module")
def transformer(few):
    return open_checkpoint(few).load_transformer()


@pytest.fixture(scope="module")
def average_velocity(few):
    """(z, tokens, t, r) -> u, put together from the file by diffusers alone; nothing of the library in it."""
    file = load_file(few / "model.safetensors")

    def loaded(network, prefix):
        network.load_state_dict({name: file[prefix + name] for name in network.state_dict()})
        return network.eval()

    ordinary = SanaTransformer2DModel.from_config(json.loads((few / "diffusion/transformer/config.json").read_text()))
    ordinary = loaded(ordinary, SANA)
    width = ordinary.scale_shift_table.shape[1]
    of_time, of_length = (loaded(AdaLayerNormSingle(width), prefix) for prefix in (TIME, LENGTH))

    @torch.no_grad()
    def run(z, tokens, t, r):
        times, lengths = torch.full((len(z),), t), torch.full((len(z),), t - r)
        pairs = [
            embed(time, batch_size=len(z), hidden_dtype=z.dtype)
            for embed, time in ((of_time, times), (of_length, lengths))
        ]
        ordinary.time_embed.forward = lambda *_, **__: tuple(a + b for a, b in zip(*pairs, strict=True))
        return ordinary(z, encoder_hidden_states=tokens, timestep=times, return_dict=False)[0]

    return run


def inputs(rows: int = 2):
    generator = torch.Generator().manual_seed(3)
    positive, negative = (torch.randn(rows, 7, 40, generator=generator) for _ in range(2))
    return diffusion.initial_noise((8, 4, 6), list(range(rows))), positive, negative


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sampling_is_the_mean_flow_sampler(steps, guidance, transformer, average_velocity):
    """Catches times swapped, times 1000, r instead of t - r, the last step's end, and guidance from the wrong half."""
    noise, positive, negative = inputs()
    z, times = noise, [1 - k / steps for k in range(steps + 1)]
    for t, r in zip(times[:-1], times[1:], strict=True):
        null = average_velocity(z, negative, t, r)
        u = null + guidance * (average_velocity(z, positive, t, r) - null)
        z = z - (t - r) * u
    conditioning = diffusion.Conditioning(positive, negative)
    schedule = diffusion.sigmas(steps)
    ours = diffusion.sample(transformer, noise, conditioning, schedule, diffusion.GuidanceSchedule(guidance))
    torch.testing.assert_close(ours, z, rtol=1e-4, atol=1e-5)
    # Otherwise the comparison would show nothing: where the step ends must matter here.
    instant = average_velocity(noise, positive, 1.0, 1.0) - average_velocity(noise, positive, 1.0, 0.0)
    assert instant.abs().max() > 1e-2


def test_but_for_the_embedding_it_is_ordinary_sana(few_copy):
    """Catches anything else that differs: with time_embed for t and zeros for r, it is SANA at timestep t."""

    def alike(tensors):
        for name in [name for name in tensors if name.startswith(OLD)]:
            tensors[TIME + name.removeprefix(OLD)] = tensors[name].clone()
            tensors[LENGTH + name.removeprefix(OLD)] = torch.zeros_like(tensors[name])

    def ordinary(tensors):
        for name in [name for name in tensors if name.startswith((TIME, LENGTH))]:
            del tensors[name]

    x, tokens, _ = inputs()
    times = torch.tensor([0.7, 0.3])
    few_copy.edit_tensors(alike)
    ours = open_checkpoint(few_copy.folder).load_transformer()
    few_copy.edit_tensors(ordinary)
    theirs = open_checkpoint(few_copy.folder).load_transformer()
    assert meanflow.is_meanflow(ours) and not meanflow.is_meanflow(theirs)
    both = torch.stack([times, torch.tensor([0.2, 0.0])], dim=1)
    with torch.no_grad():
        one, two = (
            network(x, encoder_hidden_states=tokens, timestep=time, return_dict=False)[0]
            for network, time in ((ours, both), (theirs, times))
        )
    assert torch.equal(one, two)


def test_weights_keep_their_names_and_the_unused_ones_are_left(few, few_copy, transformer):
    """Catches an embedding held twice, LoRA names that change, and a checkpoint refused for what nobody reads."""
    file = load_file(few / "model.safetensors")
    names = {name for name in file if name.startswith(SANA) and not name.startswith(OLD)}
    assert {SANA + name for name in transformer.state_dict()} == names
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(tensor, file[SANA + name]), name
    few_copy.edit_tensors(lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(OLD)])
    assert open_checkpoint(few_copy.folder).load_transformer().state_dict().keys() == transformer.state_dict().keys()


def test_a_copy_and_a_cast_take_the_embeddings_along(transformer):
    """Catches a copied or moved network that still reads the embeddings of the one it came from."""
    x, tokens, _ = inputs()
    both = torch.tensor([[0.5, 0.25]] * 2)
    with torch.no_grad():
        before = transformer(x, encoder_hidden_states=tokens, timestep=both, return_dict=False)[0]
        other = copying.deepcopy(transformer)
        for parameter in other.time_embed_r.parameters():
            parameter.add_(1.0)
        after = transformer(x, encoder_hidden_states=tokens, timestep=both, return_dict=False)[0]
        changed = other(x, encoder_hidden_states=tokens, timestep=both, return_dict=False)[0]
        half = copying.deepcopy(transformer).to(torch.bfloat16)
        cast = half(x.bfloat16(), encoder_hidden_states=tokens.bfloat16(), timestep=both, return_dict=False)[0]
    assert torch.equal(before, after) and (changed - before).abs().max() > 1e-2
    assert cast.dtype == torch.bfloat16 and (cast - before).abs().max() < 0.05 * before.abs().max()


@pytest.mark.parametrize(
    "gone, said",
    [
        (LENGTH, "time_embed_t.* without time_embed_r.*"),
        (TIME, "time_embed_r.* without time_embed_t.*"),
        (LENGTH + "linear.bias", "missing: time_embed_r.linear.bias"),
        (TIME + "emb.timestep_embedder.linear_1.weight", "missing: time_embed_t.emb.timestep_embedder.linear_1.weight"),
    ],
)
def test_half_a_pair_is_refused(gone, said, few_copy):
    """Catches a transformer with a random embedding, and images made by the ordinary rule from these weights."""
    few_copy.edit_tensors(lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(gone)])
    with pytest.raises(Blip3oError) as caught:
        open_checkpoint(few_copy.folder).load_transformer()
    assert said in str(caught.value) and str(few_copy.folder) in str(caught.value)


def test_what_neither_kind_has_is_refused(few_copy):
    """Catches a third embedding, or another layout of the two, silently dropped with the unused one."""

    def edit(tensors):
        tensors[SANA + "time_embed_s.linear.bias"] = tensors[TIME + "linear.bias"].clone()
        tensors[LENGTH + "linear.bias"] = tensors[LENGTH + "linear.bias"][:-1].clone()

    few_copy.edit_tensors(edit)
    with pytest.raises(Blip3oError) as caught:
        open_checkpoint(few_copy.folder).load_transformer()
    assert "unexpected: time_embed_s.linear.bias" in str(caught.value)
    assert "shape: time_embed_r.linear.bias" in str(caught.value)


def test_inspect_says_which_kind_it_is(few, checkpoint):
    """Catches 30 steps advised for weights that are meant for four."""
    lines = describe(open_checkpoint(few)).splitlines()
    assert [line for line in lines if line.startswith("mean flow") and "few-step" in line]
    assert "mean flow" not in describe(checkpoint)


def test_one_time_alone_is_refused(transformer):
    """Catches training that would teach the unused rule: its objective tells the network 1000 * sigma and no end."""
    x, tokens, _ = inputs()
    with pytest.raises(Blip3oError, match="not be trained here"):
        transformer(x, encoder_hidden_states=tokens, timestep=torch.tensor([500.0, 500.0]), return_dict=False)


def test_training_stops_with_a_reason(few, training_files, tmp_path):
    """Catches a run that goes on for hours, or ends in a traceback about shapes."""
    from tests.support.training_world import World

    with pytest.raises(Blip3oError, match="not be trained here"):
        World(few, *training_files, tmp_path).train()


@pytest.mark.parametrize("shift", [1.0, 3.0, 100.0])
@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_the_next_sigma_is_found_after_a_host_rounded_it(steps, shift):
    """Catches a step that ends where it starts, or a whole step too far, for 1000 * sigma / 1000 rounds."""
    table = diffusion.sigmas(steps, shift)
    assert torch.equal(meanflow.next_sigma(table, table[:-1] * 1000 / 1000), table[1:])


def test_sigmas_between_steps_and_beyond_the_table_have_an_end():
    """Catches samplers that ask between steps (heun's second call, dpm_2) left without an answer, or with a later t."""
    table = torch.tensor([0.8, 0.5, 0.2])
    asked = torch.tensor([0.9, 0.8, 0.65, 0.5, 0.3, 0.2, 0.1])
    assert meanflow.next_sigma(table, asked).tolist() == pytest.approx([0.8, 0.5, 0.5, 0.2, 0.2, 0.0, 0.0])


def test_the_command_line_renders_in_four_steps(few, tmp_path):
    """Catches a command that renders such a checkpoint by another rule than the library, or not at all."""
    out = tmp_path / "fox.png"
    words = ["generate", f"--checkpoint={few}", "--prompt=a red fox", "--steps=4", f"--out={out}", "--device=cpu"]
    assert main([*words, "--size=64x48"]) in (0, None)
    assert Image.open(out).size == (64, 48)
