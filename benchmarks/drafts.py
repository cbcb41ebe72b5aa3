"""Drafts in ComfyUI: finishing a chosen one, and rough renders while tokens are written.

- choose: from the choice among DRAFTS drafts to the finished image, next to finishing that draft alone; in both, its
  tokens are there. `ratio`: with the choice over alone.
- rough: the Token Generator with and without rough renders. `ratio`: with them over without.
- arithmetic: the same for the published shapes, by counting. Writing reads every weight for each token; rendering
  computes. `share`: of the time that an H100 needs at its peaks (989e12 operations and 3.35e12 bytes per second,
  NVIDIA's data sheet, bfloat16 without sparsity), each network for itself at the slower of the two. Kernel launches,
  attention to the cache and everything else that is no peak are left out, so a real share is larger.
"""

import statistics
import tempfile
from pathlib import Path

import torch

from blip3o_core.checkpoint.bundled import NAME

from . import models

DRAFTS, STEPS, SIDE, QUICK = 8, 30, 128, 64
PROMPT = "a red circle left of a blue star"
OPERATIONS, BYTES = 989e12, 3.35e12
# As in nodes/host/rough.py, which needs ComfyUI.
ROUGH_STEPS, QUARTERS = 3, 4


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The bundled model on the CPU, on a server with ComfyUI's previews. Needs the development environment."""
    from tools.comfyui.server import Server

    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        rows = [_choose(client, runs), *(_rough(client, batch, runs) for batch in (1, 4))]
    return rows + [arithmetic()]


def _choose(client, runs: int) -> dict:
    pairs = []
    for seed in range(runs + 1):
        _finished(client, _drafts(seed, 0))
        chosen = _finished(client, _drafts(seed, 3))
        _finished(client, _alone(seed, 0.999))
        pairs.append((_finished(client, _alone(seed, 1.0)), chosen))
    alone, chosen = (statistics.median(each) for each in zip(*pairs[1:], strict=True))  # the first one loads
    ratio = statistics.median(chosen / alone for alone, chosen in pairs[1:])
    return {"work": f"choose one of {DRAFTS}", "pixels": SIDE, "steps": STEPS, "alone_s": alone, "chosen_s": chosen,
            "ratio": ratio, "runs": runs}  # fmt: skip


def _drafts(seed: int, choice: int) -> dict:
    from tools.comfyui.graphs import node, text_to_image

    graph = text_to_image(NAME, (QUICK, QUICK), DRAFTS, prompt=PROMPT, seed=100 * seed, steps=4)
    finish = _alone(seed, 1.0)
    del graph["latents"], graph["save"]
    graph |= {f"full {name}": finish[name] for name in ("condition", "empty", "sample", "decode", "save")}
    graph["choose"] = node("BLIP3oChooseDraft", tokens=["generate", 0], images=["decode", 0], choice=choice)
    graph["one"] = node("LatentFromBatch", samples=["full empty", 0], batch_index=["choose", 2], length=1)
    graph["full empty"]["inputs"]["batch_size"] = DRAFTS
    graph["full condition"]["inputs"]["tokens"] = ["choose", 0]
    graph["full sample"]["inputs"] |= {
        "latent_image": ["one", 0], "positive": ["full condition", 0], "negative": ["full condition", 1],
        "noise_seed": 11,
    }  # fmt: skip
    graph["full decode"]["inputs"]["samples"] = ["full sample", 0]
    graph["full save"]["inputs"]["images"] = ["full decode", 0]
    return graph


def _alone(seed: int, strength: float) -> dict:
    """The third draft alone. Another `strength` keeps the tokens and does all that follows anew."""
    from tools.comfyui.graphs import text_to_image

    graph = text_to_image(NAME, (SIDE, SIDE), prompt=PROMPT, seed=100 * seed + 2, noise_seed=13, steps=STEPS)
    graph["condition"]["inputs"]["text_strength"] = strength
    del graph["latents"]
    return graph


def _rough(client, batch: int, runs: int) -> dict:
    pairs = []
    for seed in range(runs + 1):
        plain, rough = (_tokens(client, batch, 1000 + 2 * seed + k, bool(k)) for k in (0, 1))
        pairs.append((plain, rough))
    plain, rough = (statistics.median(each) for each in zip(*pairs[1:], strict=True))
    return {"work": "rough renders", "batch": batch, "tokens_s": plain, "with_renders_s": rough,
            "ratio": statistics.median(b / a for a, b in pairs[1:]), "runs": runs}  # fmt: skip


def _tokens(client, batch: int, seed: int, rough: bool) -> float:
    """Seconds of a run that only writes tokens."""
    from tools.comfyui.graphs import node, text_to_image

    whole = text_to_image(NAME, batch=batch, prompt=PROMPT, seed=seed)
    graph = {"load": whole["load"], "generate": whole["generate"]}
    graph["info"] = node("PreviewAny", source=["generate", 1])
    if rough:
        graph["generate"]["inputs"] |= {"model": ["load", 1], "vae": ["load", 2]}
    return _finished(client, graph)


def _finished(client, graph: dict) -> float:
    """Seconds by the server's clock."""
    result = client.run(graph, timeout=600)
    if result.status != "success":
        raise RuntimeError(f"{result.status}: {result.error}")
    stamps = {kind: data["timestamp"] for kind, data in client.history(result.prompt_id)["status"]["messages"]}
    return (stamps["execution_success"] - stamps["execution_start"]) / 1000


def arithmetic(prompt: int = 60) -> dict:
    """The published shapes in bfloat16, one image. Nothing is measured."""
    language, transformer = models.shapes(None, render=True)
    vae, cells = models.published_autoencoder(), transformer.config.sample_size // 2
    body = sum(p.numel() for name, p in language.model.named_parameters() if "embed_tokens" not in name)
    head = language.vocabulary.num_codes * language.config.hidden_size
    total = language.num_tokens
    writing = total * 2 * (body + head) / BYTES
    step = _operations(
        lambda: transformer(
            torch.empty(1, transformer.config.in_channels, cells, cells, device="meta"),
            encoder_hidden_states=torch.empty(1, 1 + total // 2, transformer.config.caption_channels, device="meta"),
            timestep=torch.empty(1, device="meta"),
        )
    )
    latent = torch.empty(1, transformer.config.in_channels, cells, cells, device="meta")
    decoding = _operations(lambda: vae.decode(latent))
    rendering = 0.0
    for quarter in range(1, QUARTERS):
        read = prompt + total * quarter // QUARTERS
        rendering += _peak(2 * body * read, 2 * body)
        rendering += ROUGH_STEPS * _peak(step, 2 * sum(p.numel() for p in transformer.parameters()))
        rendering += _peak(decoding, 2 * sum(p.numel() for p in vae.decoder.parameters()))
    return {"work": "rough renders, arithmetic", "batch": 1, "tokens_s": writing, "renders_s": rendering,
            "share": rendering / writing}  # fmt: skip


def _peak(operations: float, read: float) -> float:
    return max(operations / OPERATIONS, read / BYTES)


def _operations(work) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()
