"""Peak memory of loading, measured in a process of its own on a model of some hundred megabytes.

The file is sparse: its tensors are zeros, which costs no time to write and as much memory to read as any others.
"""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.support.paths import TOP
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from Linux's /proc"),
]

BYTES = {"F32": 4, "BF16": 2}
MEASURE = """
import os, resource, sys, torch, transformers, diffusers
import diffusers.models.autoencoders.autoencoder_dc, transformers.models.qwen3.modeling_qwen3
from blip3o_core.checkpoint import open_checkpoint

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

def load(folder, dtype):
    return open_checkpoint(folder).load_language(dtype)

def measure(big, dtype):
    dtype = None if dtype == "stored" else getattr(torch, dtype)
    load(tiny, dtype)
    open("/proc/self/clear_refs", "w").write("5")  # the peak so far, imports included, is forgotten
    before = resident()
    network = load(big, dtype)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    print(peak() - before, size, network.model.norm.weight.dtype, flush=True)

tiny, *cases = sys.argv[1:]
for case in cases:
    child = os.fork()
    if not child:
        measure(*case.split("="))
        os._exit(0)
    os.waitpid(child, 0)
"""


# (dtype in the file, dtype asked for, layers, codes, output matrix of its own)
CASES = {
    "as stored": ("BF16", "stored", 45, 96, False),
    "float32 to bfloat16": ("F32", "bfloat16", 72, 96, False),
    "two large matrices": ("F32", "bfloat16", 36, 120_000, True),
}


def grow(folder: Path, dtype: str, layers: int, codes: int, untied: bool) -> Path:
    """A checkpoint whose one layer is repeated, all tensors zero, as a sparse file."""
    make_checkpoint(folder, sizes=Sizes(hidden=512, mlp=2048, layers=1, codes=codes))
    config = json.loads((folder / "config.json").read_text())
    changes = {"num_hidden_layers": layers, "tie_word_embeddings": not untied}
    (folder / "config.json").write_text(json.dumps(config | changes))
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    if untied:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    entries, end = {}, 0
    for name, shape in shapes.items():
        layer = name.startswith("model.layers.0.")
        for copy in [name.replace(".0.", f".{k}.", 1) for k in range(layers)] if layer else [name]:
            size = math.prod(shape) * BYTES[dtype]
            entries[copy] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
    header = json.dumps(entries).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    return folder


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """Each case in a fork of one process: most of it is the start of Python and its imports."""
    folder, words = tmp_path_factory.mktemp("memory"), []
    for k, (stored, asked, layers, codes, untied) in enumerate(CASES.values()):
        words.append(f"{grow(folder / f'big{k}', stored, layers, codes, untied)}={asked}")
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(tiny), *words]
    done = subprocess.run(command, cwd=TOP, env=one, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(folder)
    return dict(zip(CASES, map(str.split, done.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loading_takes_hardly_more_than_the_weights(case, measured):
    """Catches a second copy of the weights while they are read, checked or cast: at most 1.2 times their size."""
    growth, loaded, dtype = measured[case]
    assert dtype == "torch.bfloat16"
    assert 250e6 < int(loaded) < 500e6, "the model is not of the size this test needs"
    assert int(growth) <= 1.2 * int(loaded), f"{int(growth) / int(loaded):.2f} times the weights"
    assert int(growth) > 0.8 * int(loaded), "the weights were not read: this measures nothing"
