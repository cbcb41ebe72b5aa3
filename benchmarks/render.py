"""The diffusion loop. The authors use diffusers' scheduler and run the connector again in every step."""

import copy
import statistics
from dataclasses import replace
from functools import partial

import torch

from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.models.connector import connect

from .machine import in_turn, timed
from .models import Model


def states(model: Model, batch: int, device: torch.device) -> torch.Tensor:
    """Random hidden states, as many as an image has."""
    width, weight = model.language.config.hidden_size, model.language.connector[0].weight
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(batch, 1 + model.language.num_tokens, width, generator=generator).to(device, weight.dtype)


@torch.no_grad()
def ours(model: Model, hidden: torch.Tensor, noise: torch.Tensor, steps: int) -> torch.Tensor:
    positive, negative = connect(model.language.connector, hidden)
    conditioning = diffusion.Conditioning(positive, negative)
    return diffusion.sample(
        model.transformer, noise, conditioning, diffusion.sigmas(steps), diffusion.GuidanceSchedule(2.0)
    )


@torch.no_grad()
def authors(model: Model, hidden: torch.Tensor, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """docs/reference.md, sections 4 and 5: both conditions are made again in every step."""
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=hidden.device)
    transformer, x = model.transformer, noise.to(hidden.device, model.transformer.dtype)
    for t in scheduler.timesteps:
        context = model.language.connector(torch.cat([torch.zeros_like(hidden), hidden]))
        v = transformer(
            torch.cat([x, x]), encoder_hidden_states=context, timestep=t.expand(2 * len(x)), return_dict=False
        )[0]
        null, conditioned = v.chunk(2)
        x = scheduler.step(null + 2.0 * (conditioned - null), t, x, return_dict=False)[0]
    return x


def run(model: Model, device: torch.device, steps: int, batch: int, runs: int) -> dict:
    shape = (model.transformer.config.in_channels, model.cells, model.cells)
    noise, hidden = diffusion.initial_noise(shape, list(range(batch))), states(model, batch, device)
    found = in_turn(
        lambda: ours(model, hidden, noise, steps), lambda: authors(model, hidden, noise, steps), device, runs
    )
    dtype = str(model.transformer.dtype).removeprefix("torch.")
    return {"model": model.name, "dtype": dtype, "batch": batch, "steps": steps, "cells": model.cells, **found}


def variants(model: Model, device: torch.device, steps: int, batch: int, runs: int) -> list[dict]:
    """Memory layouts and number formats of the weights, in turn. `difference`: of latents to the first's, relative."""
    shape = (model.transformer.config.in_channels, model.cells, model.cells)
    noise, hidden = diffusion.initial_noise(shape, list(range(batch))), states(model, batch, device)
    models = {"as it is": model}
    last = copy.deepcopy(model.transformer).to(memory_format=torch.channels_last)
    models["channels last"] = replace(model, transformer=last)
    models["bfloat16"] = replace(model, transformer=copy.deepcopy(model.transformer).to(torch.bfloat16))
    seconds, latents = {name: [] for name in models}, {}

    def render(name: str, each: Model) -> None:
        latents[name] = ours(each, hidden, noise, steps)

    for turn in range(runs + 1):
        for name, each in models.items():
            taken = timed(partial(render, name, each), device)
            if turn:
                seconds[name].append(taken)
    base, first = latents["as it is"], statistics.median(seconds["as it is"])
    return [
        {
            "variant": name, "model": model.name, "batch": batch, "steps": steps, "seconds": statistics.median(taken),
            "speed": first / statistics.median(taken),
            "difference": float((latents[name] - base).norm() / base.norm()),
        }
        for name, taken in seconds.items()
    ]  # fmt: skip
