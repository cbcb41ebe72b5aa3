"""The diffusion of one 1024 x 1024 image, guided: its step captured as a CUDA graph, and not."""

from unittest import mock

import torch

from benchmarks import render
from blip3o_core.diffusion import sampler as diffusion

from ..bench import Bench, relative


def run(bench: Bench) -> None:
    notes, model, steps = bench.notes, bench.full, bench.sizes.steps
    noise = diffusion.initial_noise((model.transformer.config.in_channels, model.cells, model.cells), [0])
    hidden, latents = render.states(model, 1, bench.device), {}
    for name, calls in (("captured", diffusion.RECORDED_CALLS), ("eager", 10**9)):
        with notes.attempt(name), mock.patch.object(diffusion, "RECORDED_CALLS", calls):

            def work(name=name) -> None:
                latents[name] = render.ours(model, hidden, noise, steps)

            first, seconds = bench.seconds(work), bench.seconds(work, 2)
            notes.row("ways", way=name, steps=steps, first_s=first, seconds=seconds, step_ms=1000 * seconds / steps)
            notes.say(f"{name}: {seconds:.2f} s for {steps} steps")
    equal = torch.equal(latents["captured"], latents["eager"])
    notes.put(equal=equal, apart=relative(latents["captured"], latents["eager"]))
    if not equal:
        raise AssertionError("the captured step gives other latents")
