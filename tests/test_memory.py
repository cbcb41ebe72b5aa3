"""What work needs is compared with what is free before it begins."""

import pytest
import torch

from blip3o_core import memory
from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.interface import Compute
from blip3o_core.diffusion.sampler import sigmas
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import check_rendering
from blip3o_core.tokens.generate import MAX_ROWS

GB = 10**9
FILES = {
    "/proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   20000000 kB\nHugePages_Free:  0\nSwapFree:  1000000 kB\n",
    "/proc/self/cgroup": "0::/outer/inner\n",
    "/sys/fs/cgroup/outer/memory.max": f"{6 * GB}\n",
    "/sys/fs/cgroup/outer/memory.current": f"{5 * GB}\n",
    "/sys/fs/cgroup/outer/memory.stat": f"anon 7\nactive_file {GB}\ninactive_file {GB}\n",
    "/sys/fs/cgroup/outer/inner/memory.max": "max\n",
    "/sys/fs/cgroup/outer/inner/memory.current": f"{5 * GB}\n",
}
FIRST_VERSION = {
    "/proc/meminfo": FILES["/proc/meminfo"],
    "/proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GB}\n",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GB}\n",
    "/sys/fs/cgroup/memory/memory.stat": "total_active_file 5\ntotal_inactive_file 6\n",
}

CPU = torch.device("cpu")


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    """Catches an allocation of terabytes that ends the process, or a raw error of torch's allocator."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4_500_000_000)
    memory.require_memory(4_500_000_000, CPU, "It", "Use less.")
    with pytest.raises(
        Blip3oError, match=r"^It needs about 12\.3 GB of memory, and 4\.5 GB are free on cpu\. Use less\.$"
    ):
        memory.require_memory(12_300_000_000, CPU, "It", "Use less.")
    with pytest.raises(Blip3oError, match="more than a million GB"):
        memory.require_memory(10**60, CPU, "It", "Use less.")
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    memory.require_memory(10**60, CPU, "It", "Use less.")


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (FILES, 3 * GB),  # 6 - 5 + 2 that give way
        (FIRST_VERSION, GB + 11),
        ({"/proc/meminfo": FILES["/proc/meminfo"]}, 21_000_000 * 1024),
        ({**FILES, "/sys/fs/cgroup/outer/memory.current": f"{99 * GB}"}, 0),
    ],
)
def test_the_tightest_limit_counts(files, free, monkeypatch):
    """Catches the memory of the whole machine taken for that of its container, and cached files counted as used."""
    monkeypatch.setattr(memory, "_read", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(memory, "_address_room", lambda: None)
    assert memory.free_bytes("cpu") == free


def test_this_machine_has_memory():
    """Catches a reader that finds nothing, or nonsense, on a real system."""
    assert 10**8 < memory.free_bytes("cpu") < 10**15
    assert memory.free_bytes("meta") is None  # not known: nothing is refused


def test_an_image_that_does_not_fit_is_refused_before_the_weights_are_loaded(monkeypatch):
    """Catches torch's own allocator error after the tokens are written."""
    checkpoint, compute = open_checkpoint(BUNDLED), Compute(torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: GB)
    assert check_rendering(checkpoint, None, 20, 2.0, 1, compute) == (checkpoint.trained_side,) * 2
    with pytest.raises(Blip3oError, match=r"^An image of 8192x8192 needs about .* GB of memory, and 1\.0 GB are free"):
        check_rendering(checkpoint, (8192, 8192), 20, 2.0, 1, compute)
    with pytest.raises(Blip3oError, match=r"^A batch of 1000 images of 512x512 needs about .* fewer at once\."):
        check_rendering(checkpoint, (512, 512), 20, 2.0, 1000, compute)


def test_the_library_refuses_what_does_not_fit_before_its_work_begins(pipeline, monkeypatch):
    """Catches an estimate that only the command line asks for."""
    tokens = pipeline.generate_tokens(["a red circle"], [0])
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    with pytest.raises(
        Blip3oError, match=r"^Writing the tokens of 2 images at once needs about .* and 0\.0 GB are free"
    ):
        pipeline.generate_tokens(["a red circle"] * 2, [0, 1])
    with pytest.raises(Blip3oError, match=r"^An image of 512x512 needs about"):
        pipeline.render(tokens, [0], size=(512, 512))


@pytest.mark.parametrize("steps", [0, -1, 10_001, 10**9, 10**30, float("nan")])
def test_steps_are_bounded(steps):
    """Catches a schedule of a billion sigmas, and torch's own error for numbers beyond 64 bits."""
    with pytest.raises(Blip3oError, match=r"^steps is .* Use 1 to 10,000; the authors use 30"):
        sigmas(steps)


def test_rows_are_bounded(pipeline):
    """Catches a list of a million prompts taken for one batch."""
    with pytest.raises(Blip3oError, match=r"^1,025 images are asked for at once; at most 1,024"):
        pipeline.generate_tokens(["a red circle"] * (MAX_ROWS + 1), list(range(MAX_ROWS + 1)))
