"""What the numbers are measured on: versions, the copy's bandwidth, what starting a kernel costs."""

import contextlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from ..bench import Bench

PACKAGES = (
    "torch", "triton", "transformers", "diffusers", "accelerate", "safetensors", "tokenizers", "numpy", "pillow",
    "comfy-kitchen", "pytest",
)  # fmt: skip
ASKED = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
LAUNCHES = 500


def run(bench: Bench) -> None:
    notes, found = bench.notes, {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    notes.put(versions=found, python=sys.version.split()[0], cores=os.cpu_count(), card="none")
    if not bench.dry:
        properties = torch.cuda.get_device_properties(bench.device)
        notes.put(
            card=properties.name, capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count, memory_gb=properties.total_memory / 1e9,
            cache_mb=properties.L2_cache_size / 1e6, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
        )  # fmt: skip
        with notes.attempt("nvidia-smi"):
            command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
            seen = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            notes.put(nvidia_smi=dict(zip(ASKED.split(","), seen.stdout.strip().split(", "), strict=False)))
    notes.put(copy_gb_per_s=bench.copy / 1e9)
    with notes.attempt("launches"):
        x = torch.zeros(64, device=bench.device)

        def launch() -> None:
            for _ in range(LAUNCHES):
                x.add_(1)

        launch()
        notes.put(launch_us=1e6 * bench.seconds(launch, 3) / LAUNCHES)
        if not bench.dry:
            from blip3o_core.decoding.cuda_graph import capture

            replay = capture(launch, bench.device)
            replay()
            notes.put(graph_node_us=1e6 * bench.seconds(replay, 3) / LAUNCHES)
    notes.say(
        f"{notes.found['card']}: copy {bench.copy / 1e9:.0f} GB/s, launch {notes.found.get('launch_us', 0):.1f} us"
    )
