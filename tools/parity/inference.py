"""What text to image and edits have in common: tokens, second pass, connector, diffusion, image against a recording.

The recording is one run of the authors' greedy sampling over the whole vocabulary, special tokens parsed, second pass
unmasked.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.compat import encode_tokens_unmasked
from blip3o_core.decoding.prefill import Prompts, pad_left
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.diffusion.sampler import Conditioning
from blip3o_core.pipeline import Pipeline
from blip3o_core.tokens.image_tokens import ImageTokens

from .report import Report

Recorded = dict[str, torch.Tensor]
CPU = torch.device("cpu")


def open_pipeline(
    golden: dict, folder: Path, device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> Pipeline:
    """The case's checkpoint with the switches that the case overrode."""
    diffusion_folder = folder / golden["diffusers_folder"] if "diffusers_folder" in golden else None
    checkpoint = open_checkpoint(folder / golden["checkpoint"], diffusion_folder)
    checkpoint = replace(checkpoint, config={**checkpoint.config, **golden.get("config_overrides", {})})
    pipeline = Pipeline(checkpoint, device, dtype)
    if golden["max_new_tokens"] != pipeline.language.num_tokens:  # the recorded length counts, whatever the grid
        pipeline.language.grid = (1, golden["max_new_tokens"])
    return pipeline


def write_tokens(pipeline: Pipeline, golden: dict, prompts: list[str], **edit) -> ImageTokens:
    """The user's way, with the authors' choice of tokens."""
    sampling = Sampling(golden["top_k"], golden["top_p"], golden["temperature"] or 1.0, image_tokens_only=False)
    return pipeline.generate_tokens(prompts, [0] * len(prompts), sampling, parse_special=True, **edit)


def compare_tokens(report: Report, pipeline: Pipeline, tokens: ImageTokens, recorded: Recorded) -> None:
    language = pipeline.language
    prompt, keep = pad_left(tokens.prompt_ids, language.vocabulary.pad, "cpu")
    ids = torch.cat([prompt, tokens.codes + language.vocabulary.image_start], 1)
    report.exact("prompt ids", prompt, recorded["input_ids"])
    report.exact("attention mask", keep.long(), recorded["attention_mask"].long())
    report.exact("generated ids", ids, recorded["generated_ids"])
    if "first_step_logits" in recorded:
        logits = tokens.hidden[:, 0] @ language.head_weight(tokens.hidden, image_tokens_only=False).T
        report.close("first step logits", logits, recorded["first_step_logits"])


def compare_second_pass(report: Report, pipeline: Pipeline, tokens: ImageTokens, recorded: Recorded) -> None:
    """The authors' second forward, layer by layer: no mask, positions from 0."""
    language, batch = pipeline.language, len(tokens)
    states: list[torch.Tensor] = []
    hooks = [
        layer.input_layernorm.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        for layer in language.model.layers
    ]
    # A hook's return value would replace the output; append returns None.
    hooks.append(language.model.norm.register_forward_hook(lambda _, args, out: states.append(out)))
    ids = tokens.codes + language.vocabulary.image_start
    twice = encode_tokens_unmasked(language, Prompts(tokens.prompt_ids, features=tokens.features), ids)
    for hook in hooks:
        hook.remove()
    report.close("hidden states, second pass", twice, recorded["connector_in"][batch:])
    report.exact("hidden states, null", torch.zeros_like(twice), recorded["connector_in"][:batch])
    names = [(f"second_forward_hidden_{layer}", layer) for layer in range(len(states))]
    # What the recordings of edits call the first and the last.
    names += [("second_forward_inputs_embeds", 0), ("second_forward_hidden_last", len(states) - 1)]
    for name, layer in names:
        if name in recorded:
            report.close(f"second pass, layer {layer}", states[layer], recorded[name])
    if "input_embeds" in recorded:
        theirs = recorded["input_embeds"]
        report.close("prompt, embedded", states[0][:, : theirs.shape[1]], theirs)


def compare_connector(report: Report, conditioning: Conditioning, recorded: Recorded) -> None:
    if "connector_out" in recorded:
        null, positive = recorded["connector_out"].chunk(2)
        report.close("connector, positive", conditioning.positive, positive)
        report.close("connector, null", conditioning.negative, null)


@dataclass
class _Run:
    """What one run of the diffusion computed."""

    latents: torch.Tensor
    first: dict[str, torch.Tensor]  # outputs of the transformer's modules in the first step
    calls: list[dict[str, torch.Tensor]]  # inputs and output of the transformer, step by step
    estimates: list[torch.Tensor]  # of the clean latents


def watch(sana: torch.nn.Module, sample: Callable[[Callable], torch.Tensor]) -> _Run:
    first: dict[str, torch.Tensor] = {}
    calls: list[dict[str, torch.Tensor]] = []
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
            lambda _, args, inputs, out: calls.append({"sana_in": args[0], "sana_out": out[0], **inputs}),
            with_kwargs=True,
        )
    )
    latents = sample(lambda step, steps, x0: estimates.append(x0))
    for hook in hooks:
        hook.remove()
    first["time_mod"], first["time_emb"] = first.pop("time_embed")
    return _Run(latents, first, calls, estimates)


def _half_run_here(theirs: torch.Tensor, rows: int, calls: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """What is computed here of a recording of both halves of guidance.

    The authors compute the null half, which comes first, in every step. Without guidance it changes nothing and is left
    out here.
    """
    return theirs[-len(calls[0]["sana_in"]) :] if len(theirs) == 2 * rows else theirs


def compare_diffusion(
    report: Report, pipeline: Pipeline, sample: Callable[[Callable], torch.Tensor], golden: dict, recorded: Recorded
) -> None:
    """`sample(callback)` gives the latents from the recorded noise; the transformer is watched meanwhile.

    The authors concatenate reference latents to the right (docs/reference.md 6.6), so only the left part is compared.
    """
    run = watch(pipeline.transformer, sample)
    latents, calls = run.latents, run.calls
    schedule = diffusion.sigmas(golden["steps"], pipeline.checkpoint.shift)
    report.close("sigmas", schedule, recorded["sigmas"])
    report.close("timesteps", torch.stack([call["timestep"][0] for call in calls]), recorded["timesteps"])
    rows, width = len(recorded["noise"]), recorded["noise"].shape[-1]
    run_here = partial(_half_run_here, rows=rows, calls=calls)
    before = [call["sana_in"][:rows, ..., :width] for call in calls]
    after = [*before[1:], latents]
    for name, theirs in recorded.items():
        if name.startswith("sana_first/"):
            report.close("sana, first call", run.first[name.removeprefix("sana_first/")], run_here(theirs))
        elif name == "encoder_hidden_states":
            for call in calls:
                report.close("sana, condition", call[name], run_here(theirs))
        elif match := re.fullmatch(r"step(\d+)_guided", name):
            step = int(match[1])
            ours = (before[step] - run.estimates[step]) / schedule[step]
            report.close("sana, guided", ours, theirs[..., :width])
        elif match := re.fullmatch(r"step(\d+)_(timestep|sana_in|sana_out)", name):
            report.close(f"sana, {match[2]}", calls[int(match[1])][match[2]], run_here(theirs))
        elif match := re.fullmatch(r"(?:latents_after|scheduler_out)_step(\d+)", name):
            report.close("latents, each step", after[int(match[1])], theirs[..., :width])
    report.close("latents, final", latents, recorded["latents_final"])
    image = pipeline.decode(latents).movedim(-1, 1)
    parts = {
        "image_01": image, "image_01_crop_480_544": image[..., 480:544, 480:544],
        "image_01_avgpool16": F.avg_pool2d(image, 16),
    }  # fmt: skip
    for name, part in parts.items():
        if name in recorded:
            report.image(name.replace("_01", "").replace("_", " "), part, recorded[name])
