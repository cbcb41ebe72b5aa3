"""Guidance in a part of the schedule with ComfyUI's own CFG Override on our MODEL: no node of ours is needed for it.

The sampler stands at guidance 1, where the host leaves the negative out; the override sets the guidance inside.
"""

import io

import pytest

from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.editing.references import EditInputs
from blip3o_core.pipeline import Pipeline
from tests.support.pictures import noise
from tools.comfyui.graphs import close, edit, latents, node, text_to_image

PARTS = [(0.0, 0.5), (0.2, 0.8), (0.5, 1.0)]


def with_override(graph: dict, start: float, end: float) -> dict:
    """Guidance 2 in that part of the schedule, for a sampler that itself is set to 1."""
    graph["override"] = node("CFGOverride", model=["load", 1], cfg=2.0, start_percent=start, end_percent=end)
    graph["sample"]["inputs"] |= {"model": ["override", 0], "guidance": 1.0}
    return graph


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_the_graph_draws_what_the_library_draws(part, client, server, checkpoint):
    """Catches a library and a host that count the parts of a schedule differently: 20 steps have ends right on them."""
    made = latents(server, client.run(with_override(text_to_image(steps=20), *part)))
    pipeline = Pipeline.load(checkpoint)
    tokens = pipeline.generate_tokens([text_to_image()["generate"]["inputs"]["prompt"]], [5])
    ours = pipeline.latents(tokens, [11], (128, 128), 20, diffusion.GuidanceSchedule(2.0, part))
    whole = pipeline.latents(tokens, [11], (128, 128), 20, 2.0)
    scaled = made * pipeline.autoencoder.config.scaling_factor
    assert close(scaled, ours) and not close(scaled, whole)


def test_an_edit_is_the_librarys_too(client, server, edit_checkpoint):
    """Catches references that are lost, or count as those of the null condition, in steps with the positive alone."""
    file, picture = io.BytesIO(), noise(96, 96)
    picture.save(file, "PNG")
    client.upload("interval.png", file.getvalue())
    made = latents(server, client.run(with_override(edit("interval.png"), 0.1, 0.6)))
    pipeline = Pipeline.load(edit_checkpoint)
    references = pipeline.references([picture])
    tokens = pipeline.generate_tokens(["make it blue"], [5], references=references)
    guidance = diffusion.GuidanceSchedule(2.0, (0.1, 0.6))
    ours = pipeline.latents(tokens, [11], None, 4, guidance, edit=EditInputs(references))
    assert close(made * pipeline.autoencoder.config.scaling_factor, ours)


def test_every_sampler_leaves_the_negative_out_outside(in_host, loose_checkpoint):
    """Catches a negative half that is computed and thrown away, and hooks of others that the override cuts off."""

    def look(module, folder):
        import torch
        from comfy_extras import nodes_custom_sampler as custom

        import nodes

        lm, model, vae, _ = module(".nodes.host.loaders").load(folder, None, "fp32")
        settings = module(".nodes.host.generation").sampling_of({"sampling": "greedy"}, 1.0, "image tokens")
        rows, hooked = [], []
        model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))

        def after_guidance(args):
            hooked.append(1)
            return args["denoised"]

        def ours(model, guidance):
            sampler = module(".nodes.sample").DiffusionSampler
            return sampler.execute(model, positive, negative, empty, 11, 20, guidance, 1.0)[0]

        def ksampler(model, guidance):
            return nodes.KSampler().sample(model, 11, 20, guidance, "euler", "simple", positive, negative, empty)[0]

        def advanced(model, guidance):
            guider = custom.CFGGuider.execute(model, positive, negative, guidance)[0]
            euler, sigmas = custom.KSamplerSelect.execute("euler")[0], module(".nodes.sample").Scheduler.execute(20)[0]
            return custom.SamplerCustomAdvanced.execute(custom.Noise_RandomNoise(11), guider, euler, sigmas, empty)[0]

        report = {}
        with torch.inference_mode():
            positive, negative = lm.conditionings(lm.generate_tokens(["a fox"], 5, settings))
            empty = {"samples": torch.zeros(1, 8, 8, 8), "downscale_ratio_spacial": 8}
            model.set_model_sampler_post_cfg_function(after_guidance)
            part = custom.CFGOverride.execute(model, 2.0, 0.21, 0.79)[0]
            core = module(".blip3o_core.diffusion.sampler")
            noise, schedule = core.initial_noise((8, 8, 8), [11]), core.sigmas(20)
            network = (
                module(".blip3o_core.checkpoint.recognise").open_checkpoint(folder).load_transformer(torch.float32)
            )
            conditioning = core.Conditioning(positive[0][0], negative[0][0])
            guidance = core.GuidanceSchedule(2.0, (0.21, 0.79))
            expected = core.sample(network, noise, conditioning, schedule, guidance)
            for run in (ours, ksampler, advanced):
                for name, given in (("whole", (model, 2.0)), ("part", (part, 1.0))):
                    rows.clear(), hooked.clear()
                    made = model.model.process_latent_in(run(*given)["samples"])
                    off = float((made - expected).abs().max() / expected.abs().max())
                    report[f"{run.__name__} {name}"] = [list(rows), len(hooked), off]
        return report

    report = in_host(look, folder=loose_checkpoint)
    inside = [2 if 5 <= step <= 15 else 1 for step in range(20)]
    for name, (rows, hooked, off) in report.items():
        assert rows == (inside if name.endswith("part") else [2] * 20), name
        assert hooked == 20, name
        assert (off <= 1e-4) == name.endswith("part"), (name, off)


def test_parts_stand_for_the_same_sigmas(in_host):
    """Catches a rounding of our own, that would guide one step more or less than the host."""
    parts, shifts = [k / 100 for k in range(1, 101)], [0.5, 1.0, 1.1, 3.0]

    def look(module, parts, shifts):
        from comfy.model_sampling import ModelSamplingDiscreteFlow

        sampling, found = ModelSamplingDiscreteFlow(), []
        for shift in shifts:
            sampling.set_parameters(shift=shift)
            found.append([float(sampling.percent_to_sigma(part)) for part in parts])
        return found

    def sigma_range(*interval, shift):
        return diffusion.GuidanceSchedule(interval=interval, shift=shift).sigma_range()

    ours = [[sigma_range(part, 1.0, shift=shift)[0] for part in parts] for shift in shifts]
    assert in_host(look, parts=parts, shifts=shifts) == ours
    assert all(sigma_range(0.0, 1.0, shift=shift)[1] == 0 for shift in shifts)
