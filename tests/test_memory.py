"""What work needs is compared with what is free before it begins."""

import pytest
import torch

from blip3o_core import memory
from blip3o_core.errors import Blip3oError

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


def test_a_container_has_what_its_limit_leaves(monkeypatch, tmp_path):
    """Catches a refusal for memory that holds only files, and a machine's memory promised inside a small container."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    whole = memory.free_bytes(CPU)
    assert whole > 0
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 1000000\nactive_file 500000\n")
    for limit, free in (("4000000", 2_500_000), ("max", whole)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        assert memory.free_bytes(CPU) == pytest.approx(free, rel=0.5)


def test_sizes_and_batches_beyond_the_memory_are_refused_before_work_begins(pipeline):
    """Catches hours of work that ends out of memory."""
    with pytest.raises(Blip3oError, match=r"Rendering 3 images of 16000000x16000000 needs about .* GB of memory"):
        pipeline.require_memory((16_000_000, 16_000_000), 3)
    pipeline.require_memory((64, 64), 1)
