"""`python -m tools.quality [int8 fp8] [--dtype fp32]`: what int8 and fp8 weights cost the bundled model.

Runs inside ComfyUI, whose quantised tensors they are, and compares each format with the unquantised model in the same
dtype. Both read the tokens that the unquantised model wrote: compared are the likeliest token, the token that the same
random number picks, and the hidden states. Then both generate images from the same seeds, which the judge judges.
"""

import argparse
import json
import sys
from pathlib import Path

from blip3o_core.checkpoint.bundled import BUNDLED
from tools.comfyui.inside import in_host

TIMEOUT = 3600


def measure(module, folder: str, dtype: str, choices: list, read_prompts: int, images: int) -> list:
    """One row for each format. Runs inside ComfyUI."""
    import time

    import torch

    evaluation, decoding = module(".blip3o_core.tiny.evaluation"), module(".blip3o_core.decoding.engine")
    choosing, prefill = module(".blip3o_core.decoding.sampling"), module(".blip3o_core.decoding.prefill")
    quantised, offload = module(".nodes.host.quantised"), module(".nodes.host.offload")
    pipeline, kind = module(".blip3o_core.pipeline"), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    checkpoint = module(".blip3o_core.checkpoint.recognise").open_checkpoint(folder)
    transformer, autoencoder = checkpoint.load_transformer(kind), checkpoint.load_autoencoder(kind)
    settings = evaluation.Settings(
        count=max(images, read_prompts, 9), seeds=1, edition=evaluation.edition_of(checkpoint)
    )
    texts = [prompt.text for prompt in evaluation.make_prompts(settings)][:read_prompts]
    sampling = choosing.Sampling()

    def language(choice):
        if choice == "plain":
            return checkpoint.load_language(kind)
        network = quantised.quantise(checkpoint.load_language(None), choice, kind)
        return offload.swap_leaves(network)

    plain = language("plain")
    ids = [checkpoint.prompt_encoder.encode(text) for text in texts]
    written = decoding.decode(plain, prefill.Prompts(ids), list(range(len(ids))), sampling).ids

    def states(network):
        hidden = prefill.encode_tokens(network, prefill.Prompts(ids), written)
        head = network.head_weight(hidden, True)
        logits = torch.nn.functional.linear(hidden[:, :-1], head).float().flatten(0, 1)
        return hidden.float(), logits.argmax(-1), choosing.choose(logits, uniforms, sampling)

    def seconds(network):
        start = time.perf_counter()
        decoding.decode(network, prefill.Prompts(ids[:1]), [0], sampling)
        return time.perf_counter() - start

    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(written.numel(), generator=generator)
    base, best, picked = states(plain)
    rows = []
    for choice in ("plain", *choices):
        network = language(choice)
        hidden, argmax, sampled = states(network)
        took = sorted([(seconds(network), seconds(plain)) for _ in range(5)][1:])[2]
        row = {"dtype": dtype, "weights": choice, "prompts": len(ids), "tokens": argmax.numel()}
        row["argmax_equal"] = float((argmax == best).float().mean())
        row["sampled_equal"] = float((sampled == picked).float().mean())
        row["hidden_error"] = float((hidden - base).norm() / base.norm())
        row["bytes"] = offload.comfy.model_management.module_size(network)
        row["layer_bytes"] = offload.comfy.model_management.module_size(network.model.layers)
        row["tokens_s"], row["times_plain"] = took[0], took[0] / took[1]
        if images:
            parts = pipeline.Pipeline.of(checkpoint, network, transformer, autoencoder)
            result = evaluation.evaluate(parts, settings)
            row["images"], row["right"] = settings.count, result.mean
            row["verdicts"] = [verdict.strict for verdict in result.verdicts[0]]
            both = zip(row["verdicts"], (rows or [row])[0]["verdicts"], strict=True)
            row["same_verdict"] = sum(mine == plains for mine, plains in both)
        rows.append(row)
    return [{key: value for key, value in row.items() if key != "verdicts"} for row in rows]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.quality", description=__doc__)
    parser.add_argument("choices", nargs="*", default=["int8", "fp8"])
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--prompts", type=int, default=64, help="how many prompts both models read (64)")
    parser.add_argument(
        "--images", type=int, default=300, help="how many images to generate and judge; 0 for none (300)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    chosen = parser.parse_args(argv)
    rows = in_host(
        measure, timeout=TIMEOUT, folder=str(BUNDLED), dtype=chosen.dtype, choices=chosen.choices,
        read_prompts=chosen.prompts, images=chosen.images,
    )  # fmt: skip
    for row in rows:
        cells = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        print("  ".join(f"{key} {value}" for key, value in cells.items()))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
