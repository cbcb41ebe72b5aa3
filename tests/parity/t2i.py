"""Text to image: every recorded tensor of a case against ours.

The recording is one run of the authors' greedy sampling over the whole vocabulary, special tokens parsed, second pass
unmasked. Single prompts go our default way (one pass, states kept while decoding); a batch goes both ways: the authors'
unmasked result behind its switch, and row by row equal to our own single runs.
"""

import re
from pathlib import Path

import torch

from blip3o_core import autoencoder, diffusion
from blip3o_core.decoding import Sampling, own_positions, pad_left, read
from blip3o_core.pipeline import Pipeline, condition
from blip3o_core.tokens import ImageTokens

from .report import Report


def run(case: str, golden: dict, recorded: dict[str, torch.Tensor], folder: Path) -> Report:
    pipeline = Pipeline.load(
        folder / golden["checkpoint"], dtype=torch.float32, diffusion_folder=folder / golden["diffusers_folder"]
    )
    report = Report(case)
    if golden["max_new_tokens"] != pipeline.language.num_tokens:  # the recorded length counts, whatever the grid
        pipeline.language.grid = (1, golden["max_new_tokens"])
    tokens = _draw(pipeline, golden, golden["prompts"])
    batch = len(tokens)
    _compare_tokens(report, pipeline, tokens, recorded)
    reference = batch > 1
    conditioning = condition(pipeline.language, tokens, pipeline.source, reference_batch=reference)
    if not reference:
        report.close("hidden states, one pass", tokens.hidden, recorded["connector_in"][batch:])
    ids = tokens.codes + pipeline.language.vocabulary.image_start
    twice = read(pipeline.language, tokens.prompt_ids, ids, unmasked=True)
    report.close("hidden states, second pass", twice, recorded["connector_in"][batch:])
    report.exact("hidden states, null", torch.zeros_like(twice), recorded["connector_in"][:batch])
    _compare_second_pass(report, pipeline, tokens, recorded)
    report.close("connector, positive", conditioning.positive, recorded["connector_out"][batch:])
    report.close("connector, null", conditioning.negative, recorded["connector_out"][:batch])
    _compare_diffusion(report, pipeline, conditioning, golden, recorded)
    if reference:
        _compare_single_runs(report, pipeline, tokens, golden, recorded["noise"])
    return report


def _draw(pipeline: Pipeline, golden: dict, prompts: list[str]) -> ImageTokens:
    sampling = Sampling(golden["top_k"], golden["top_p"], golden["temperature"] or 1.0, image_tokens_only=False)
    return pipeline.draw(prompts, [0] * len(prompts), sampling, parse_special=True)


def _compare_tokens(report: Report, pipeline: Pipeline, tokens: ImageTokens, recorded) -> None:
    language = pipeline.language
    prompt, keep = pad_left(tokens.prompt_ids, language.vocabulary.pad, "cpu")
    ids = torch.cat([prompt, tokens.codes + language.vocabulary.image_start], 1)
    report.exact("prompt ids", prompt, recorded["input_ids"])
    report.exact("attention mask", keep.long(), recorded["attention_mask"].long())
    report.exact("generated ids", ids, recorded["generated_ids"])
    logits = tokens.hidden[:, 0] @ language.head_weight(tokens.hidden, image_tokens_only=False).T
    report.close("first step logits", logits, recorded["first_step_logits"])


def _compare_second_pass(report: Report, pipeline: Pipeline, tokens: ImageTokens, recorded) -> None:
    """The authors' second forward, layer by layer: no mask, positions from 0."""
    language = pipeline.language
    ids = recorded["generated_ids"]
    states: list[torch.Tensor] = []
    hooks = [
        layer.input_layernorm.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        for layer in language.model.layers
    ]
    positions = own_positions(torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():
        states.append(language(language.embed(ids, torch.float32), positions))
    for hook in hooks:
        hook.remove()
    for index, state in enumerate(states):
        name = f"second_forward_hidden_{index}"
        if name in recorded:
            report.close(f"second pass, layer {index}", state, recorded[name])


def _compare_diffusion(report: Report, pipeline: Pipeline, conditioning, golden: dict, recorded) -> None:
    sana = pipeline.transformer
    first: dict[str, torch.Tensor] = {}
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    estimates: list[torch.Tensor] = []
    watched = {
        "patch_embed": sana.patch_embed, "time_embed": sana.time_embed, "caption_projection": sana.caption_projection,
        "caption_norm": sana.caption_norm, **{f"block{i}": block for i, block in enumerate(sana.transformer_blocks)},
    }  # fmt: skip

    def keep_first(name: str):
        # A hook's return value would replace the output.
        def hook(_, args, out) -> None:
            first.setdefault(name, out)

        return hook

    hooks = [module.register_forward_hook(keep_first(name)) for name, module in watched.items()]
    hooks.append(
        sana.register_forward_hook(
            lambda _, args, kwargs, out: calls.append((args[0], kwargs["timestep"], out[0])), with_kwargs=True
        )
    )
    schedule = diffusion.sigmas(golden["steps"], pipeline.checkpoint.shift)
    latents = diffusion.sample(
        sana, recorded["noise"], conditioning.positive, conditioning.negative, schedule, golden["guidance_scale"],
        conditioning.mask, lambda step, steps, x0: estimates.append(x0),
    )  # fmt: skip
    for hook in hooks:
        hook.remove()
    first["time_mod"], first["time_emb"] = first.pop("time_embed")
    report.close("sigmas", schedule, recorded["sigmas"])
    report.close("timesteps", torch.stack([t[0] for _, t, _ in calls]), recorded["timesteps"])
    rows = len(recorded["noise"])
    after = [call[0][:rows] for call in calls[1:]] + [latents]
    for name, theirs in recorded.items():
        if name.startswith("sana_first/"):
            report.close("sana, first call", first[name.removeprefix("sana_first/")], theirs)
        elif match := re.fullmatch(r"step(\d+)_(timestep|sana_in|sana_out|guided)", name):
            step, what = int(match[1]), match[2]
            x, timestep, out = calls[step]
            guided = (x[:rows] - estimates[step]) / schedule[step]
            ours = {"timestep": timestep, "sana_in": x, "sana_out": out, "guided": guided}[what]
            report.close(f"sana, {what}", ours, theirs)
        elif match := re.fullmatch(r"latents_after_step(\d+)", name):
            report.close("latents, each step", after[int(match[1])], theirs)
    report.close("latents, final", latents, recorded["latents_final"])
    picture = autoencoder.decode(pipeline.autoencoder, latents / pipeline.autoencoder.config.scaling_factor)
    report.image("image", picture.movedim(-1, 1), recorded["image_01"])


def _compare_single_runs(report: Report, pipeline: Pipeline, tokens: ImageTokens, golden: dict, noise) -> None:
    """Our default for a batch: row k is the single run, whatever its neighbours are."""
    together = condition(pipeline.language, tokens, pipeline.source)
    for k, prompt in enumerate(golden["prompts"]):
        alone = _draw(pipeline, golden, [prompt])
        count = alone.lengths[0]
        report.exact("rows = single runs, ids", tokens.codes[k : k + 1, :count], alone.codes)
        report.close("rows = single runs, hidden", tokens.hidden[k : k + 1, : 1 + count], alone.hidden)
        single = condition(pipeline.language, alone, pipeline.source)
        schedule = diffusion.sigmas(golden["steps"], pipeline.checkpoint.shift)
        pictures = []
        for which, row in ((together, slice(k, k + 1)), (single, slice(None))):
            mask = None if which.mask is None else which.mask[row]
            latents = diffusion.sample(
                pipeline.transformer, noise[k : k + 1], which.positive[row], which.negative[row], schedule,
                golden["guidance_scale"], mask,
            )  # fmt: skip
            pictures.append(
                autoencoder.decode(pipeline.autoencoder, latents / pipeline.autoencoder.config.scaling_factor)
            )
        report.image("rows = single runs, image", *pictures)
