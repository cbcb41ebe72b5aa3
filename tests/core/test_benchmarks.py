"""The benchmarks measure both sides doing the same work, and say what they measured on."""

import json

import pytest
import torch

from benchmarks import curves, decode, machine, models, picture, render
from benchmarks.__main__ import main
from blip3o_core.decoding import read

pytestmark = pytest.mark.core
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny():
    return models.tiny(CPU, torch.float32)


def test_the_authors_way_runs_on_the_same_weights(tiny):
    """A comparison with another model, or one whose output matrix is not the embedding."""
    theirs = models.authors_language(tiny.language)
    ids = torch.tensor([[*tiny.prompt, *range(300, 310)]])
    with torch.no_grad():
        states = theirs.model(ids).last_hidden_state[:, len(tiny.prompt) - 1 :]
    assert torch.allclose(states, read(tiny.language, [tiny.prompt], ids[:, len(tiny.prompt) :]), atol=1e-4)
    assert theirs.lm_head.weight.data_ptr() == tiny.language.model.embed_tokens.weight.data_ptr()


def test_both_ways_render_the_same_latents(tiny):
    """A ratio of two different pictures."""
    hidden, noise = render.states(tiny, 1, CPU), torch.randn(1, 16, 8, 8)
    ours, theirs = (way(tiny, hidden, noise, 3) for way in (render.ours, render.authors))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_ratio_is_theirs_over_ours(monkeypatch):
    """A ratio upside down."""
    clock = {"ours": 1.0, "theirs": 3.0}
    monkeypatch.setattr(machine, "timed", lambda work, device: clock[work()])
    found = machine.in_turn(lambda: "ours", lambda: "theirs", CPU, 3)
    assert found["ratio"] == 3.0 and found["ours_s"] == 1.0 and found["theirs_first_s"] == 3.0


def test_every_part_says_what_was_done(tiny):
    """Rows that cannot be told apart, or rates of other numbers of tokens."""
    row = decode.run(models.tiny(CPU, torch.float32), CPU, 5, 2, 1)
    assert row["tokens"] == 5 and row["batch"] == 2 and row["ours_tokens_per_s"] == pytest.approx(10 / row["ours_s"])
    row = picture.run(tiny, CPU, 2, 1, 1)
    assert {"tokens_s", "diffusion_s", "autoencoder_s", "connector_s", "ratio"} <= row.keys()
    rows = curves.run(CPU, 1, quick=True)
    assert {(row["curve"], row.get("prompt"), row.get("batch")) for row in rows if row["curve"] == "tokens/s"} >= {
        ("tokens/s", 64, 1), ("tokens/s", 256, 1), ("tokens/s", 64, 2),
    }  # fmt: skip


def test_full_shapes_are_the_published_ones():
    """A "full-size" model that is a small one."""
    language, transformer = models.shapes(None, render=True)
    assert language.num_tokens == 729 and language.vocabulary.num_codes == 65536
    # Qwen3-1.7B with the image tokens, and SANA 1.5 1.6B (reference.md 8)
    assert sum(p.numel() for p in language.parameters()) == pytest.approx(1.86e9, rel=0.01)
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(1.6046e9, rel=0.001)


def test_the_command_writes_the_ratio_with_the_machine(tmp_path, capsys):
    """Numbers without the machine they were measured on."""
    path = tmp_path / "found.json"
    assert main(["render", "--quick", "--device", "cpu", "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["machine"]["torch"] == torch.__version__ and found["machine"]["copy_gb_per_s"] > 0
    assert found["render"]["ratio_vs_reference_path"] == found["render"]["rows"][0]["ratio"] > 0
    assert "| ratio |" in capsys.readouterr().out
