"""Graphs in API format, the latents they leave on disk, and the library's own for comparison."""

from pathlib import Path

from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.pipeline import condition
from tools.comfyui.server import ON_CPU

PROMPT = "a red fox in the snow"
SIDE = open_checkpoint(BUNDLED).trained_side  # pixels on a side of the bundled model's images
# The library computes on the CPU in float32, which is ComfyUI's choice there, too. On a GPU that choice is bf16, and
# even float32 rounds differently.
DTYPE = "auto" if ON_CPU else "fp32"
TOLERANCE = 1e-4 if ON_CPU else 2e-2  # of the range


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(checkpoint: str = "tiny", size: tuple[int, int] = (128, 128), batch: int = 1, **changes) -> dict:
    """From a prompt to SaveImage ("save") and SaveLatent ("latents"). `changes`: values of widgets by name."""
    width, height = size
    graph = {
        "load": node("BLIP3oLoader", checkpoint=checkpoint, dtype=DTYPE),
        "generate": node(
            "BLIP3oTokenGenerator", lm=["load", 0], prompt=PROMPT, seed=5, batch_size=batch, vocabulary="image tokens",
            **{"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0},
        ),
        "condition": node("BLIP3oHiddenStateConditioner", lm=["load", 0], tokens=["generate", 0]),
        "empty": node("EmptyLatentImage", width=width, height=height, batch_size=1),
        "sample": node(
            "BLIP3oDiffusionSampler", model=["load", 1], positive=["condition", 0], negative=["condition", 1],
            latent_image=["empty", 0], noise_seed=11, steps=4, guidance=2.0, denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="picture"),
        "latents": node("SaveLatent", samples=["sample", 0], filename_prefix="latents/latent"),
    }  # fmt: skip
    return _changed(graph, changes)


def with_ksampler(graph: dict, steps: int) -> dict:
    """KSampler in the place of our sampler."""
    graph["sample"] = node(
        "KSampler", model=["load", 1], positive=["condition", 0], negative=["condition", 1], latent_image=["empty", 0],
        seed=11, steps=steps, cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    return graph


def with_custom_sampler(graph: dict, steps: int) -> dict:
    """SamplerCustomAdvanced with our sigmas in the place of our sampler."""
    graph |= {
        "noise": node("RandomNoise", noise_seed=11),
        "guider": node(
            "CFGGuider", model=["load", 1], positive=["condition", 0], negative=["condition", 1], cfg=2.0
        ),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BLIP3oScheduler", steps=steps, shift=1.0, denoise=1.0),
        "sample": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["euler", 0],
            sigmas=["sigmas", 0], latent_image=["empty", 0],
        ),
    }  # fmt: skip
    return graph


def edit(
    *files: str, checkpoint: str = "edit", instruction: str = "make it blue", batch: int = 1, mask=None, **changes
) -> dict:
    """An edit of uploaded files. With `mask`, an output of a node, it ends in Masked Edit ("whole")."""
    graph = text_to_image(checkpoint, prompt=instruction, batch=batch)
    graph |= {f"image{k}": node("LoadImage", image=name) for k, name in enumerate(files, 1)}
    images = {f"images.image_{k}": [f"image{k}", 0] for k in range(1, len(files) + 1)}
    graph["encode"] = node(
        "BLIP3oEditReferenceEncoder", image_tokenizer=["load", 3], vae=["load", 2], fit="stretch", **images
    )
    for owner in ("generate", "condition"):
        graph[owner]["inputs"]["reference"] = ["encode", 0]
    graph["sample"]["inputs"]["latent_image"] = ["encode", 2]
    del graph["empty"]
    if mask is not None:
        graph["encode"]["inputs"]["mask"] = mask
        graph["whole"] = node("BLIP3oMaskedEdit", original=["image1", 0], edited=["decode", 0], mask=mask, feather=0)
        graph["save"]["inputs"]["images"] = ["whole", 0]
    return _changed(graph, changes)


def _changed(graph: dict, changes: dict) -> dict:
    for name, value in changes.items():
        owner = next(inputs for inputs in (part["inputs"] for part in graph.values()) if name in inputs)
        owner[name] = value
    return graph


def latents(server, result, id: str = "latents"):
    """(B, C, h, w) that a SaveLatent node of a finished run wrote."""
    if result.status != "success":
        raise RuntimeError(f"the run ended with {result.status}: {result.error}")
    saved = result.outputs[id]["latents"][0]
    return load_file(Path(server.base, "output", saved["subfolder"], saved["filename"]))["latent_tensor"]


def library_latents(pipeline, seeds=(5,), noise=(11,), steps=4, size=(16, 16), guidance=2.0, shift=1.0):
    """The library's unscaled latents for the graph of `text_to_image`; `size` is (h, w) in cells."""
    tokens = pipeline.generate_tokens([PROMPT] * len(seeds), list(seeds))
    both = condition(pipeline.language, tokens, pipeline.source)
    start = diffusion.initial_noise((pipeline.transformer.config.in_channels, *size), list(noise))
    schedule = diffusion.sigmas(steps, shift)
    out = diffusion.sample(pipeline.transformer, start, both, schedule, diffusion.GuidanceSchedule(guidance))
    return out / pipeline.autoencoder.config.scaling_factor


def close(a, b) -> bool:
    """Whether tensors are equal within TOLERANCE of the range of `b`."""
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


def equal(a, b) -> bool:
    """Whether two runs of one graph gave the same tensor: to the bit on the CPU, close on other devices."""
    return bool(a.shape == b.shape and (a == b).all()) if ON_CPU else close(a, b)
