"""The fused decode step without a card: in Triton's interpreter, and compiled for a Hopper card.

What neither shows, programs that run at the same time and wait for each other, `tests/gpu` shows on one.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding import fused
from blip3o_core.decoding.interface import Job
from blip3o_core.decoding.sampling import Sampling
from tests.support.paths import TOP

triton = pytest.importorskip("triton", reason="Triton has no package for this machine")


QUICK = ("sampled", "refused")
LONG = ("greedy, padded rows", "guided", "bfloat16", "fp8", "int8", "rows", "refused int8")


@pytest.fixture(scope="module")
def interpreted(request):
    """Case -> what the interpreter made of it, ten seconds each."""
    cases = [*QUICK, *(LONG if request.config.getoption("--long") else ())]
    command = [sys.executable, "-m", "tests.support.interpreted", *cases]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return {found.pop("case"): found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("case", [QUICK[0], *(pytest.param(case, marks=pytest.mark.long) for case in LONG[:5])])
def test_the_kernels_write_what_the_modules_write(interpreted, case):
    """A part of a layer that reads the wrong rows, a scale of another matrix, a key put away in the wrong place, a
    token drawn by another number; and a first step that failed, after which another engine drew."""
    found = interpreted[case]
    assert found["equal"] and not found["refused"]
    assert found["apart"] < (1e-6 if case in ("sampled", "greedy, padded rows", "guided") else 2e-2)


@pytest.mark.long
def test_a_row_is_the_single_run_to_the_bit_in_bfloat16(interpreted):
    """Sums in another order for another number of rows, or a prompt that is read together with a longer one."""
    assert interpreted["rows"]["equal"] == [True, True]


@pytest.mark.slow
def test_a_wrong_first_step_is_noticed_and_another_engine_draws(interpreted):
    """A compiler's mistake that changes images silently, or is tried again at every image."""
    found = interpreted["refused"]
    assert found["equal"] and "differ from the usual ones by 1.0e-01" in found["why_not"] and found["chosen"] != "fused"


@pytest.mark.long
def test_a_wrong_first_step_of_quantised_weights(interpreted):
    """Quantised weights that the next engine reads as if they were not."""
    quantised = interpreted["refused int8"]
    assert quantised["equal_states"] and quantised["chosen"] == "modules"


# Shapes of Qwen3-1.7B, as `engine` describes them to the kernel.
SHAPE = {
    "PART": -1, "D": 2048, "F": 6144, "V": 65536, "HEADS": 16, "KV": 8, "WIDTH": 128, "WIDTH2": 64, "SINGLE": True,
    "ROWS2": 1, "TILE": 16, "CHUNKS": 8, "PROGRAMS": 132, "SPLITS": 7, "KEYS": 128, "WEIGHTS": 1, "ACTS": 1,
}  # fmt: skip


def compiled(kernel, constants: dict, **options) -> dict:
    """A kernel's text, stage by stage, for compute capability 9.0; no card is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {name: "*i64" for name in ("table", "counter", "token", "ids")}
    kinds |= {name: "*fp32" for name in ("parts", "lse", "logits")} | {"eps": "fp32", "scale": "fp32"}
    numbers = ("begin", "total", "length", "rows", "drawn", "layer_from", "layer_to")
    kinds |= dict.fromkeys(numbers, "i32") | dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names
    signature = {name: kinds.get(name, "*i32") for name in names}
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if signature[name].startswith("*")},
    )  # fmt: skip
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_stages": 1, **options}).asm


@pytest.mark.long
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets in this process")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SINGLE": False, "ROWS2": 8},
        {"WEIGHTS": 2, "CHUNKS": 4},
    ],
    ids=str,
)
def test_weights_are_read_sixteen_bytes_at_a_time(changes, tmp_path, monkeypatch):
    """A hint to the compiler that got lost: the same numbers in four times as many loads, and half the speed."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from blip3o_core.decoding.fused.step import step_kernel

    ptx = compiled(step_kernel, {**SHAPE, **changes}, num_warps=8)["ptx"]
    loads = re.findall(r"ld\.global\S*evict_first\S*", ptx)
    assert len(loads) > 50 and all(load.endswith(".v4.b32") for load in loads), set(loads)
    # A program asks for its next weights before it waits: there are as many barriers as parts of a layer.
    assert ptx.count("red.release.gpu") == 5 and ptx.count("ld.acquire.gpu") == 6


def test_what_the_kernels_cannot_serve_is_left_to_others(monkeypatch):
    """Rows that do not fit, an end token that is passed over, a patch that is left out, a card that cannot run them."""
    language = open_checkpoint(BUNDLED).load_language(torch.bfloat16)
    cpu, half = torch.device("cpu"), torch.bfloat16

    def why_not(rows=1, sampling=Sampling(), device=cpu, dtype=half):
        return fused.why_not_fused(Job(language, rows, sampling, device, dtype))

    assert "not cpu" in why_not()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert why_not() is None and why_not(8) is None
    assert "has 9" in why_not(9) and "an image may end early" in why_not(sampling=Sampling(image_tokens_only=False))
    assert "float16" in why_not(dtype=torch.float16) and "stored in" in why_not(dtype=torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr(triton, "__version__", "3.3.1")
        assert "Triton 3.4 or newer" in why_not()
    with monkeypatch.context() as patch:
        patch.setattr(language.config, "intermediate_size", 500)
        assert "intermediate_size is 500" in why_not()
    with monkeypatch.context() as patch:
        patch.setattr(fused, "find_spec", lambda name: None)
        assert "not installed" in why_not()
    projection = language.model.layers[2].self_attn.k_proj
    projection.stored = lambda: None  # as a host's leaf says
    assert "k_proj is patched" in why_not()
    del projection.stored
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "NVIDIA" in why_not(device=cuda)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    assert "an old card is older than" in why_not(device=cuda)
