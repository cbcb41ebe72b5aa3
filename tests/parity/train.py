"""Training: losses, gradients and what leads to them, against one recorded step of the authors' code."""

from pathlib import Path

import torch

from blip3o_core import autoencoder
from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.layout import SANA
from blip3o_core.training.objective import AUTHORS, collate, joint_loss, noised, timesteps_of

from .report import Report


def run_t2i(case: str, golden: dict, recorded: dict[str, torch.Tensor], folder: Path) -> Report:
    report = Report(case)
    checkpoint = open_checkpoint(folder / golden["checkpoint"])
    language = checkpoint.load_language(torch.float32).requires_grad_(True)
    sana = checkpoint.load_transformer(torch.float32)
    # The authors train the language model, its connector, and of SANA what carries "caption" in its name.
    for name, parameter in sana.named_parameters():
        parameter.requires_grad_("caption" in name)
    vae = checkpoint.load_autoencoder(torch.float32)
    if "target_images" in recorded:
        raw = autoencoder.encode(vae, (recorded["target_images"].movedim(1, -1) + 1) / 2)
        report.close("latents", raw, recorded["vae_latent_raw_call0"])
    latents = recorded["vae_latent_raw_call0"] * vae.config.scaling_factor
    prompts = [sample["txt"] for sample in golden["samples"]]
    codes = _codes(checkpoint, recorded, golden)
    batch = collate(checkpoint.prompt_encoder, prompts, codes, latents, AUTHORS, parse_special=True)
    report.exact("labels, image codes", batch.labels, recorded["final_labels"])
    report.exact("attention mask", batch.keep.long(), recorded["final_attention_mask"].long())
    if "inputs_embeds" in recorded:
        ours = language.embed(batch.ids, torch.float32).detach() * batch.keep[..., None]
        report.close("embeddings", ours, recorded["inputs_embeds"] * batch.keep[..., None])
    report.exact("timesteps", timesteps_of(recorded["u"]), recorded["timesteps"])

    seen: dict[str, torch.Tensor] = {}
    hooks = _watch(language.connector, "connector", seen), _watch(sana, "sana", seen)
    dropped = recorded["bernoulli_mask"].bool()
    losses = joint_loss(language, sana, batch, recorded["noise"], recorded["timesteps"], dropped, AUTHORS)
    for hook in hooks:
        hook.remove()
    losses.total.backward()
    report.close("noisy latents", noised(latents, recorded["noise"], recorded["timesteps"])[0], recorded["sana_in"])
    for name in ("connector_in", "connector_out", "sana_out"):
        report.close(name.replace("_", ", "), seen[name], recorded[name])
    report.close("loss, tokens", losses.tokens.detach(), recorded["loss_ce"])
    report.close("loss, diffusion", losses.diffusion.detach(), torch.tensor(golden["loss_diffusion"]))
    report.close("loss, total", losses.total.detach(), recorded["loss_total"])
    _compare_gradients(report, {**_named(language), **_named(sana, SANA)}, golden, recorded)
    return report


def _codes(checkpoint, recorded, golden) -> torch.Tensor:
    """The targets' codes: from the recorded pixels where they are stored, else from the labels."""
    count = checkpoint.grid[0] * checkpoint.grid[1]
    if "processor_images" in recorded:
        tokenizer = checkpoint.load_image_tokenizer(torch.float32)
        with torch.no_grad():
            return tokenizer.codes(tokenizer.features(recorded["processor_images"]))
    labels = recorded["final_labels"]
    starts = (labels == checkpoint.vocabulary.scale_start).long().argmax(1)
    rows = [row[start + 1 : start + 1 + count] for row, start in zip(labels, starts, strict=True)]
    return torch.stack(rows) - checkpoint.vocabulary.image_start


def _watch(module, name: str, seen: dict):
    def hook(_, args, out) -> None:
        if args:
            seen[f"{name}_in"] = args[0].detach()
        seen[f"{name}_out"] = (out[0] if isinstance(out, tuple) else out).detach()

    return module.register_forward_hook(hook)


def _named(network, prefix: str = "") -> dict[str, torch.nn.Parameter]:
    return {prefix + name: parameter for name, parameter in network.named_parameters()}


def _compare_gradients(report: Report, parameters: dict, golden: dict, recorded: dict) -> None:
    for name, norm in golden["grad_norms"].items():
        report.close("gradient norms", parameters[name].grad.norm(), torch.tensor(norm))
    for name, theirs in recorded.items():
        if name.startswith("grad/"):
            report.close("gradients", parameters[name.removeprefix("grad/")].grad, theirs)
    trained = {name for name, parameter in parameters.items() if parameter.grad is not None}
    report.exact("trained parameters", torch.tensor(len(trained ^ golden["grad_norms"].keys())), torch.tensor(0))
