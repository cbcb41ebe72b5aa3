"""The decode engine: prefill the prompts, then write one image token per step, hidden states collected on the way.

- Every row has its own generator on the CPU and draws one uniform number per token from it, whatever its neighbours and
  the device. So row k of a batch gets the tokens of the single run with that seed: with the fused engine always, with
  the others in float32. In bfloat16 their products are rounded by the number of rows, and another token may follow.
- Engines are functions `(prefilled, choose, callback) -> Decoded`; all give the same tokens. "auto" takes the quickest
  that serves these weights on this device.

| engine | a step is | serves |
|---|---|---|
| modules | a forward pass of the language model | everything |
| direct | few operations on the weights as they are stored | plain weights |
| speculative | several tokens, guessed and checked in one pass | one row of plain weights |
| graph | a CUDA graph of the direct step | plain weights on a CUDA device |
| fused | one Triton kernel | plain, int8 or fp8 weights on an NVIDIA card |
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch

from ..checks import require_finite
from ..errors import Blip3oError
from ..memory import lm_decode_bytes, require_memory
from ..models.language import LanguageModel
from ..seeds import token_uniforms
from . import fused
from .cuda_graph import decode_with_graph
from .direct import decode_directly, is_small, why_not_direct
from .interface import Callback, Compute, Decoded, Job, Prefilled
from .prefill import LM_REMEDY, Prompts, prefill
from .sampling import Chooser, Sampling
from .speculative import decode_speculatively
from .step_by_step import decode_through_modules

Engine = Callable[[Prefilled, Chooser, Callback | None], Decoded]
ENGINES: dict[str, Engine] = {
    "modules": decode_through_modules,
    "direct": decode_directly,
    "speculative": decode_speculatively,
    "graph": decode_with_graph,
    "fused": fused.decode_fused,
}
ENGINE_NAMES = ("auto", *ENGINES)


def decode(
    lm: LanguageModel,
    prompts: Prompts,
    seeds: list[int],
    sampling: Sampling = Sampling(),
    callback: Callback | None = None,
    compute: Compute = Compute(),
    engine: str = "auto",
) -> Decoded:
    """Write one image per prompt, H * W tokens each or those that `prompts` asks for; row k with `seeds[k]`.

    Each place of the grid has its own number from the seed, so tokens that follow given ones are those of a whole run
    that began with them.

    The negative prompt is used when `sampling.guidance` is above 1. The loop waits for the device only for a callback,
    every few tokens, and when the whole vocabulary is sampled, to see whether every row has ended.
    `engine`: one of ENGINE_NAMES. Raises Blip3oError when it cannot serve, or when the model computes NaN.
    """
    if not prompts.rows or len(prompts.rows) != len(seeds):
        raise Blip3oError(f"Got {len(prompts.rows)} prompts and {len(seeds)} seeds. Give one seed for each prompt.")
    if sampling.guidance <= 1:
        prompts = replace(prompts, negative=None)
    device, dtype = compute.resolve(lm.model.embed_tokens.weight)
    rows = len(seeds) * (1 if prompts.negative is None else 2)
    chosen = choose_engine(engine, Job(lm, rows, sampling, device, dtype, compute.graphs))
    longest = max(map(len, [*prompts.rows, prompts.negative or []])) + lm.num_tokens
    first = prompts.begun
    words = lm.vocabulary.num_codes if sampling.image_tokens_only else lm.vocabulary.size
    # A host that names a GPU has made room on it, and knows better than the card what can still be freed.
    if compute.device is None or device.type == "cpu":
        require_memory(
            lm_decode_bytes(lm.config, rows, longest, words, dtype),
            device,
            f"Writing the tokens of {len(seeds)} images at once",
            "Use a smaller batch, a shorter prompt or fewer reference images.",
        )
    with torch.inference_mode():
        prefilled = prefill(lm, prompts, Compute(device, dtype), one_by_one=chosen == "fused")
        uniforms = token_uniforms(seeds, lm.num_tokens)[:, first : first + prefilled.total].contiguous()
        image_tokens = sampling.image_tokens_only
        head = lm.head_weight(prefilled.state, image_tokens)
        first_id = lm.vocabulary.image_start if image_tokens else 0
        choose = Chooser(sampling, head, first_id, uniforms.to(device), prefilled.guided)
        require_finite(choose.logits(prefilled.state), f"The output of the language model in {dtype}", LM_REMEDY)
        decoded = ENGINES[chosen](prefilled, choose, callback)
        require_finite(decoded.hidden, f"The output of the language model in {dtype}", LM_REMEDY)
    # Copies made outside of inference mode are ordinary tensors, which training may use.
    return Decoded(decoded.ids.clone(), decoded.lengths, decoded.hidden.clone())


def choose_engine(asked: str, job: Job) -> str:
    """A key of ENGINES; logs why it is not the quickest. Raises Blip3oError for an engine that cannot serve."""
    if asked not in ENGINE_NAMES:
        raise Blip3oError(f"engine is {asked!r}. Choose one of {', '.join(ENGINE_NAMES)}.")
    if asked != "auto":
        reason = why_not(asked, job)
        if reason is not None:
            raise Blip3oError(f"engine {asked!r} cannot be used here: {reason}. Use 'auto'.")
        return asked
    level, log = logging.DEBUG if job.device.type == "cpu" else logging.INFO, logging.getLogger(__name__)
    candidates = {"cpu": ("direct",), "cuda": ("fused", "graph") if job.graphs else ("direct",)}.get(
        job.device.type, ()
    )
    # In bfloat16 a pass over several tokens is rounded otherwise than over one, and other tokens follow.
    if job.device.type == "cpu" and job.dtype == torch.float32 and is_small(job.lm):
        candidates = ("speculative", *candidates)
    for name in candidates:
        reason = why_not(name, job)
        if reason is None:
            return name
        log.log(level, "Decoding without engine %r: %s.", name, reason)
    if not candidates:
        log.log(level, "Decoding with engine 'modules': the quicker ones do not support %s.", job.device.type)
    return "modules"


def why_not(engine: str, job: Job) -> str | None:
    """Why an engine cannot serve; None when it can."""
    if engine == "modules":
        return None
    if engine in ("graph", "fused") and not job.graphs:
        return "CUDA graphs are turned off"
    if engine == "fused":
        return fused.why_not_fused(job)
    if engine != "direct" and not job.sampling.image_tokens_only:
        return "with vocabulary 'full' an image may end early"
    if engine == "speculative" and job.rows > 1:
        return f"it supports a single image without token guidance; this run has {job.rows} rows"
    return why_not_direct(job.lm, job.device, job.dtype)
