"""Decode loops of single steps, apart from a run: to time a step, and to compile its kernels beforehand."""

import contextlib
from collections.abc import Callable, Iterator

import torch

from blip3o_core.decoding.cuda_graph import FixedLoop, Loop, warm_up_and_capture
from blip3o_core.decoding.interface import Compute, Prefilled
from blip3o_core.decoding.prefill import Prompts, prefill
from blip3o_core.decoding.sampling import Chooser, Sampling
from blip3o_core.models.language import LanguageModel, stored_weight

MakeLoop = Callable[[Prefilled, Chooser], Loop]


def fused(prefilled: Prefilled, choose: Chooser) -> Loop:
    """Needs Triton."""
    from blip3o_core.decoding.fused.engine import FusedLoop

    return FusedLoop(prefilled, choose)


LOOPS: dict[str, MakeLoop] = {"graph": FixedLoop, "fused": fused}


def make_loop(lm: LanguageModel, prompts: Prompts, sampling: Sampling, make: MakeLoop) -> Loop:
    """A loop after its prompts. To be called in inference mode."""
    prefilled = prefill(lm, prompts, Compute(), one_by_one=make is fused)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(len(prompts.rows), lm.num_tokens, generator=generator).to(prefilled.device)
    head, first_id = lm.head_weight(prefilled.state, True), lm.vocabulary.image_start
    return make(prefilled, Chooser(sampling, head, first_id, uniforms, prefilled.guided))


@contextlib.contextmanager
def step_of(lm: LanguageModel, rows: list[list[int]], make: MakeLoop) -> Iterator[Callable[[], None]]:
    """A call feeds one token: as a CUDA graph on a card. At most as many calls as an image has tokens."""
    with torch.inference_mode():
        loop = make_loop(lm, Prompts(rows), Sampling(), make)
        device = lm.model.norm.weight.device
        step = warm_up_and_capture(loop, device) if device.type == "cuda" else loop
        loop.rewind()
        yield step


def bytes_read(lm: LanguageModel) -> int:
    """Of weights, for one token: all layers, and the output matrix of the image tokens."""
    total = lm.vocabulary.num_codes * lm.config.hidden_size * lm.model.norm.weight.itemsize
    for module in lm.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            weight, scale = stored_weight(module)
            total += weight.nbytes + (0 if scale is None else scale.nbytes)
    return total
