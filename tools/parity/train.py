"""Training: losses, gradients and what leads to them, against recorded steps of the authors' code.

Reference images are read from the case's PNG files, their latents from the recording.
"""

from dataclasses import fields, replace
from pathlib import Path

import torch

from blip3o_core.checkpoint import Checkpoint, open_checkpoint
from blip3o_core.compat import AUTHORS_EDIT_TRAINING, AUTHORS_TRAINING
from blip3o_core.images.preprocess import resize_to_tensor
from blip3o_core.images.reader import open_image
from blip3o_core.models import autoencoder
from blip3o_core.training.data.collate import Batch, collate
from blip3o_core.training.data.encoded import EncodedItem
from blip3o_core.training.losses import Noising, add_noise, joint_loss, timesteps_from
from blip3o_core.weights.names import SANA

from .inference import CPU
from .report import Report


def run(case: str, golden: dict, recorded: dict[str, torch.Tensor], folder: Path, device: torch.device = CPU) -> Report:
    report = Report(case)
    checkpoint = open_checkpoint(folder / golden["checkpoint"])
    edit, mode = golden["kind"] == "train_edit", checkpoint.reference_mode
    quirks = AUTHORS_EDIT_TRAINING if edit else AUTHORS_TRAINING
    language = checkpoint.load_language(torch.float32).to(device).requires_grad_(True)
    sana = checkpoint.load_transformer(torch.float32).to(device)
    # The authors train the language model, its connectors, and of SANA what carries "caption" in its name; beside the
    # noise its first and last layer, too.
    trained = ("caption", "patch_embed", "proj_out") if mode.noise else ("caption",)
    for name, parameter in sana.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    vae = checkpoint.load_autoencoder(torch.float32).to(device)
    if "target_images" in recorded:
        raw = autoencoder.encode(vae, (recorded["target_images"].to(device).movedim(1, -1) + 1) / 2)
        report.close("latents", raw, recorded["vae_latent_raw_call0"])
    latents = recorded["vae_latent_raw_call0"] * vae.config.scaling_factor
    prompts = [sample["txt"] for sample in golden["samples"]]
    codes = _codes(checkpoint, recorded, golden)
    items = [EncodedItem(*row) for row in zip(codes, latents, strict=True)]
    if edit:
        theirs = recorded.get("vae_latent_raw_call1", recorded["vae_latent_raw_call0"]) * vae.config.scaling_factor
        references = zip(_reference_codes(checkpoint, folder, len(prompts)), theirs[:, None], strict=True)
        items = [EncodedItem(item.codes, item.latents, *row) for item, row in zip(items, references, strict=True)]
    batch = collate(checkpoint.prompt_encoder, prompts, items, quirks)
    report.exact("labels, image codes", batch.labels, recorded["final_labels"])
    report.exact("attention mask", batch.attention_mask.long(), recorded["final_attention_mask"].long())
    if "inputs_embeds" in recorded:
        keep = batch.attention_mask[..., None]
        ours = language.embed(batch.ids.to(device), torch.float32).detach().cpu() * keep
        report.close("embeddings", ours, recorded["inputs_embeds"] * keep)
    report.exact("timesteps", timesteps_from(recorded["u"]), recorded["timesteps"])

    seen: dict[str, torch.Tensor] = {}
    hooks = [_watch(language.connector, "connector", seen), _watch(sana, "sana", seen)]
    if mode.cross:
        hooks.append(_watch(language.reference_connector, "reference", seen))
    noise, timesteps, dropped = (recorded[name].to(device) for name in ("noise", "timesteps", "bernoulli_mask"))
    noising = Noising(noise, timesteps, dropped.bool())
    losses = joint_loss(language, sana, _moved(batch, device), noising, mode, quirks)
    for hook in hooks:
        hook.remove()
    losses.total.backward()
    noisy = add_noise(latents, recorded["noise"], recorded["timesteps"])[0]
    report.close("noisy latents", noisy, recorded["sana_in"][..., : noisy.shape[-1]])
    for name in ("connector_in", "connector_out", "sana_in", "sana_cond", "sana_out"):
        report.close(name.replace("_", ", "), seen[name], recorded[name])
    for row in range(len(prompts) if mode.cross else 0):
        report.close("reference connector, out", seen["reference_out"][row], recorded[f"und_vae_connector_out_{row}"])
    report.close("loss, tokens", losses.tokens.detach(), recorded["loss_ce"])
    report.close("loss, diffusion", losses.diffusion.detach(), torch.tensor(golden["loss_diffusion"]))
    report.close("loss, total", losses.total.detach(), recorded["loss_total"])
    _compare_gradients(report, {**_named(language), **_named(sana, SANA)}, golden, recorded)
    return report


def _moved(batch: Batch, device: torch.device) -> Batch:
    tensors = {each.name: getattr(batch, each.name) for each in fields(batch)}
    return replace(batch, **{name: x.to(device) for name, x in tensors.items() if isinstance(x, torch.Tensor)})


def _codes(checkpoint: Checkpoint, recorded, golden) -> torch.Tensor:
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


@torch.no_grad()
def _reference_codes(checkpoint: Checkpoint, folder: Path, samples: int) -> list[torch.Tensor]:
    """(1, T) for each sample, of images that are stretched to the tokenizer's square."""
    tokenizer = checkpoint.load_image_tokenizer(torch.float32)
    codes = []
    for k in range(samples):
        image = open_image(folder / f"sample{k}_ref0.png")
        seen = resize_to_tensor(image, tokenizer.image_size, "BICUBIC")
        codes.append(tokenizer.codes(tokenizer.features(seen.movedim(-1, 1) * 2 - 1)))
    return codes


def _watch(module, name: str, seen: dict):
    def hook(_, args, inputs, out) -> None:
        if args:
            seen[f"{name}_in"] = args[0].detach()
        if "encoder_hidden_states" in inputs:
            seen[f"{name}_cond"] = inputs["encoder_hidden_states"].detach()
        seen[f"{name}_out"] = (out[0] if isinstance(out, tuple) else out).detach()

    return module.register_forward_hook(hook, with_kwargs=True)


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
