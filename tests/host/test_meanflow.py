"""Mean-flow checkpoints in the host: the network gets the end of each step, whichever node samples."""

import json

import pytest

from blip3o_core.pipeline import Pipeline
from tests.support.tiny_checkpoint import make_checkpoint
from tools.comfyui.graphs import (
    close,
    latents,
    library_latents,
    node,
    text_to_image,
    with_custom_sampler,
    with_ksampler,
)


@pytest.fixture(scope="module")
def few(checkpoints):
    """The folder of the checkpoint called "few"."""
    return make_checkpoint(checkpoints / "few", meanflow=True)


@pytest.fixture(scope="module")
def pipeline(few):
    return Pipeline.load(few)


def ours(graph: dict, steps: int) -> dict:
    graph["sample"]["inputs"]["steps"] = steps
    return graph


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("sampler", [ours, with_ksampler, with_custom_sampler])
def test_every_sampler_renders_what_the_library_renders(sampler, steps, few, client, server, pipeline):
    """Catches a wrong end of a step: by the schedule before shift, the step after, or none."""
    graph = sampler(text_to_image("few"), steps)
    assert close(latents(server, client.run(graph)), library_latents(pipeline, steps=steps))


def test_a_batch_and_a_shifted_schedule_have_the_same_ends(few, client, server, pipeline):
    """Catches an end for the first row alone, and one looked up in the schedule that is not shifted."""
    graph = text_to_image("few", batch=2)
    graph["shift"] = node("ModelSamplingSD3", model=["load", 1], shift=3.0)
    graph["sample"]["inputs"]["model"] = ["shift", 0]
    assert close(latents(server, client.run(graph)), library_latents(pipeline, seeds=(5, 6), noise=(11, 12), shift=3.0))


def test_other_steps_decode_no_tokens_again(few, client):
    """Catches a preview in two steps that makes the image in four decode its tokens again."""
    client.run(text_to_image("few", steps=2))
    again = client.run(text_to_image("few", steps=4))
    assert {"load", "generate", "condition"} <= set(again.cached) and "generate" not in again.executed


@pytest.mark.long
def test_what_the_network_gets(in_host, few):
    """Catches an end that another sampler, a part of a schedule or a compiled model takes from elsewhere."""

    def look(module, folder):
        import comfy.sample
        import comfy.samplers
        import torch
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        model = module(".nodes.host.model").load_diffusion(folder, None, "fp32")
        network = model.model.diffusion_model
        generator = torch.Generator().manual_seed(0)
        positive, negative = ([[torch.randn(1, 26, 40, generator=generator), {}]] for _ in range(2))
        inputs_seen = []
        hook = network.time_embed.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0].tolist()))

        def run(sampler, table, which=model):
            inputs_seen.clear()
            x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
            out = comfy.sample.sample_custom(
                which, x, 2.0, comfy.samplers.sampler_object(sampler), torch.tensor(table), positive, negative,
                torch.zeros(1, 8, 4, 4), disable_pbar=True, seed=1,
            )  # fmt: skip
            return out, list(inputs_seen)

        seen = {}
        with torch.inference_mode():
            plain, seen["euler"] = run("euler", [1.0, 0.5, 0.0])
            seen["part"] = run("euler", [0.75, 0.5])[1]
            seen["heun"] = run("heun", [1.0, 0.5, 0.0])[1]
            hook.remove()
            compiled = model.clone()
            set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
            seen["compiled"] = float((run("euler", [1.0, 0.5, 0.0], compiled)[0] - plain).abs().max())
            try:
                network(torch.zeros(1, 8, 4, 4), torch.tensor([500.0]), torch.zeros(1, 26, 40), transformer_options={})
            except module(".blip3o_core.errors").Blip3oError as error:
                seen["said"] = str(error)
            bare = module(".nodes.host.offload").unswapped(network)
            again = model.clone(disable_dynamic=True, force_deepcopy=True).model.diffusion_model
            seen["same names"] = bare == [] and again.state_dict().keys() == network.state_dict().keys()
            seen["own"] = again.time_embed._pair[0] is again.time_embed_t
        return seen

    seen = in_host(look, folder=str(few))
    # Both halves of guidance run together, so each call has two rows.
    assert seen["euler"] == [[[1.0, 0.5]] * 2, [[0.5, 0.0]] * 2], json.dumps(seen)
    assert seen["part"] == [[[0.75, 0.5]] * 2]
    # Heun's second call asks at the end of its step, and hears about the step after.
    assert seen["heun"] == [[[1.0, 0.5]] * 2, [[0.5, 0.0]] * 2, [[0.5, 0.0]] * 2]
    assert seen["compiled"] < 1e-5 and seen["same names"] and seen["own"]
    assert "sample_sigmas" in seen["said"] and "euler" in seen["said"]
