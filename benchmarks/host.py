"""The same images from the library and from a real ComfyUI server, in turn: the time that ComfyUI adds.

Both run all parts and write PNG files, with models that are loaded already. The server's time is its own, from
`execution_start` to `execution_success`; `asked_s` is a client's, from asking until the answer is there.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from blip3o_core.checkpoint.bundled import BUNDLED, NAME
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.images.png import save_png
from blip3o_core.pipeline import Pipeline
from blip3o_core.seeds import row_seeds

PROMPT, STEPS = "a red circle left of a blue star", 20
# Images at once and pixels on a side (None: the model's): a short run, a run of many images, and one of large images.
WORK = ((1, None), (16, None), (4, 256))


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The bundled model on the CPU. Needs the development environment, which has ComfyUI."""
    from tools.comfyui.server import Server

    pipeline = Pipeline.load(BUNDLED, "cpu", torch.float32)  # as ComfyUI chooses there
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        # The library shows no previews, so the server shows none either.
        with Server(Path(scratch), arguments=("--preview-method", "none")) as server, server.client() as client:
            for batch, side in WORK[: 1 if quick else None]:
                side = side or pipeline.checkpoint.trained_side
                rows.append(_compare(pipeline, client, Path(scratch), batch, side, runs))
            if not quick and shutil.which("g++"):
                rows += [_compiled(client, batch, runs) for batch in (1, 4)]
    return rows


def _compiled(client, batch: int, runs: int) -> dict:
    """The sampler node with and without ComfyUI's TorchCompileModel before it, in turn."""
    from tools.comfyui.graphs import SIDE, node

    compiled = {"compile": node("TorchCompileModel", model=["load", 1], backend="inductor")}
    pairs = [
        (_sampling(client, batch, seed, {}), _sampling(client, batch, seed, compiled))
        for seed in range(100, 101 + runs)
    ]
    plain, quick = (statistics.median(each) for each in zip(*pairs[1:], strict=True))
    return {"batch": batch, "pixels": SIDE, "steps": STEPS, "sampler_s": plain, "compiled_s": quick,
            "compiling_s": pairs[0][1], "runs": runs}  # fmt: skip


def _sampling(client, batch: int, seed: int, more: dict) -> float:
    """Seconds between the start of the sampler node and the start of the next one."""
    from tools.comfyui.graphs import SIDE

    graph, stamps = _graph(batch, SIDE, seed) | more, []
    if more:
        graph["sample"]["inputs"]["model"] = ["compile", 0]

    def note(kind: str, data) -> None:
        if kind == "executing":
            stamps.append((data["node"], time.perf_counter()))

    _finished(client.run(graph, timeout=600, on_event=note))
    place = next(k for k, (id, _) in enumerate(stamps) if id == "sample")
    return stamps[place + 1][1] - stamps[place][1]


def _compare(pipeline: Pipeline, client, folder: Path, batch: int, side: int, runs: int) -> dict:
    pairs = []
    for seed in range(runs + 1):
        pairs.append((_library(pipeline, folder, batch, side, seed), *_server(client, batch, side, seed)))
    library, server, asked = (statistics.median(each) for each in zip(*pairs[1:], strict=True))  # the first one loads
    added = statistics.median(pair[1] / pair[0] for pair in pairs[1:]) - 1
    return {
        "batch": batch, "pixels": side, "steps": STEPS, "library_s": library, "server_s": server,
        "added_percent": 100 * added, "asked_s": asked, "runs": runs,
    }  # fmt: skip


def _library(pipeline: Pipeline, folder: Path, batch: int, side: int, seed: int) -> float:
    began = time.perf_counter()
    seeds = row_seeds(seed, batch)
    tokens = pipeline.generate_tokens([PROMPT] * batch, seeds, Sampling())
    for index, image in enumerate(pipeline.render(tokens, seeds, (side, side), STEPS, 2.0)):
        save_png(folder / f"{index}.png", image, {"prompt": PROMPT, "seed": seeds[index]})
    return time.perf_counter() - began


def _server(client, batch: int, side: int, seed: int) -> tuple[float, float]:
    """Seconds by the server's clock and by the client's."""
    graph = _graph(batch, side, seed)
    began = time.perf_counter()
    result = _finished(client.run(graph, timeout=600))
    asked = time.perf_counter() - began
    stamps = {kind: data["timestamp"] for kind, data in client.history(result.prompt_id)["status"]["messages"]}
    return (stamps["execution_success"] - stamps["execution_start"]) / 1000, asked


def _graph(batch: int, side: int, seed: int) -> dict:
    from tools.comfyui.graphs import text_to_image

    graph = text_to_image(NAME, (side, side), batch, prompt=PROMPT, seed=seed, noise_seed=seed, steps=STEPS)
    del graph["latents"]
    return graph


def _finished(result):
    if result.status != "success":
        raise RuntimeError(f"{result.status}: {result.error.get('exception_message')}")
    return result
