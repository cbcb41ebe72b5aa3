"""Edits: every recorded tensor of a case against ours, from the reference images on.

As a user runs it (Pipeline.references, generate_tokens, latents, decode), framed as the authors do, with the recorded
noise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from blip3o_core.compat import call_references_one_image
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.editing.references import EditInputs, References
from blip3o_core.images.reader import open_image
from blip3o_core.models import autoencoder
from blip3o_core.pipeline import Pipeline, condition

from .inference import (
    CPU,
    Recorded,
    compare_connector,
    compare_diffusion,
    compare_second_pass,
    compare_tokens,
    open_pipeline,
    write_tokens,
)
from .report import PIXEL, Report


def run(case: str, golden: dict, recorded: Recorded, folder: Path, device: torch.device = CPU) -> Report:
    pipeline, report = open_pipeline(golden, folder, device), Report(case)
    language, encoder, instruction = pipeline.language, pipeline.encoder, golden["instruction"]
    call_references_one_image(encoder)
    references = _references(report, pipeline, golden, recorded, folder)
    placeholders = encoder.encode_edit(instruction, references.codes, parse_special=True, as_features=True)
    theirs = recorded["tokenized_ids_before_replacement"]
    report.exact("prompt ids, placeholders", torch.tensor([placeholders]), theirs)
    with _watched(getattr(language.model, "tar_siglip_features_connector", None)) as calls:
        tokens = write_tokens(pipeline, golden, [instruction], references=references)
    _compare_calls(report, "features connector", calls, "tar_siglip_connector", recorded)
    compare_tokens(report, pipeline, tokens, recorded)
    report.close("hidden states, one pass", tokens.hidden, recorded["connector_in"][1:])
    compare_second_pass(report, pipeline, tokens, recorded)
    compare_connector(report, condition(language, tokens, pipeline.source), recorded)

    def recorded_noise(shape, seeds) -> torch.Tensor:
        report.exact("size", torch.tensor(shape), torch.tensor(recorded["noise"].shape[1:]))
        return recorded["noise"]

    def sample(callback) -> torch.Tensor:
        with mock.patch.object(diffusion, "initial_noise", recorded_noise):
            return pipeline.latents(
                tokens, [0], steps=golden["steps"], guidance=golden["guidance_scale"], callback=callback,
                edit=EditInputs(references),
            )  # fmt: skip

    with _watched(language.reference_connector) as calls:
        compare_diffusion(report, pipeline, sample, golden, recorded)
    # One call per image in every step; rows of both halves of guidance, of which the conditioned one is the last.
    calls = [(given[-1], out[-1]) for given, out in calls[: len(references)]]
    _compare_calls(report, "reference connector", calls, "und_image_vae_connector", recorded)
    return report


def _references(report: Report, pipeline: Pipeline, golden: dict, recorded: Recorded, folder: Path) -> References:
    images = [open_image(folder / f"ref{k}.png") for k in range(golden["n_reference_images"])]
    side = golden["latent_size"] * autoencoder.compression(pipeline.checkpoint.autoencoder_config)
    tokenizer = pipeline.image_tokenizer
    with (
        _watched(tokenizer.encoder["embeddings"]) as embeddings,
        _watched(tokenizer.encoder["encoder"]) as tower,
        _watched(tokenizer.bottleneck["in_linear"]) as bottleneck,
        _watched(pipeline.autoencoder.encoder) as encoder,
    ):
        references = pipeline.references(images, fit="authors", resolution=side)
    if "tatok/siglip_in" in recorded:
        given = torch.cat([given for given, _ in embeddings])
        report.close("tokenizer, pixels", given, recorded["tatok/siglip_in"], limit=PIXEL)
    hidden = torch.cat([out for _, out in tower])
    report.close("tokenizer, hidden", hidden, recorded["tatok/siglip_hidden_minus2"])
    report.close("tokenizer, features", references.features, recorded["tatok/vq_feats"])
    projected = torch.cat([out for _, out in bottleneck])
    report.close("tokenizer, projected", projected, recorded["tatok/projected_z"])
    report.exact("tokenizer, codes", references.codes, recorded["tatok/indices"])
    for k, (latents, (given, _)) in enumerate(zip(references.latents, encoder, strict=True)):
        if f"vae_in_{k}" in recorded:
            report.close("autoencoder, pixels", given, recorded[f"vae_in_{k}"], limit=PIXEL)
        if f"vae_latent_raw_{k}" in recorded:
            report.close("reference latents, raw", latents, recorded[f"vae_latent_raw_{k}"])
    if "und_image_vae_latents" in recorded:
        scaled = torch.cat(references.latents) * pipeline.autoencoder.config.scaling_factor
        report.close("reference latents, scaled", scaled, recorded["und_image_vae_latents"])
    return references


@contextmanager
def _watched(module: torch.nn.Module | None) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """First input and output of every call of a module; none of a module that a checkpoint does not have."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_, args, inputs, out) -> None:
        out = out if isinstance(out, torch.Tensor) else out[0]
        calls.append(((args or tuple(inputs.values()))[0], out.detach()))

    hook = None if module is None else module.register_forward_hook(keep, with_kwargs=True)
    yield calls
    if hook is not None:
        hook.remove()


def _compare_calls(report: Report, quantity: str, calls: list[tuple], name: str, recorded: Recorded) -> None:
    """Tokens in and out of a connector; the authors put all images into one call."""
    for index, part in enumerate(("in", "out")):
        if f"{name}_{part}" in recorded:
            ours = [call[index].flatten(0, -2) for call in calls] or [torch.empty(0)]  # never called: a failure
            report.close(f"{quantity}, {part}", torch.cat(ours), recorded[f"{name}_{part}"].flatten(0, -2))
