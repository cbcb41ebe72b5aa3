"""The benchmarks measure both sides doing the same work, and say what they measured on."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from benchmarks import curves, data, decode, image, machine, memory, models, parts, render, rl_memory, shortcuts
from blip3o_core.cli.main import main
from blip3o_core.decoding.prefill import Prompts, encode_tokens

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny():
    return models.tiny(CPU, torch.float32)


def test_the_authors_way_runs_on_the_same_weights(tiny):
    """Catches a comparison with another model, or one whose output matrix is not the embedding."""
    theirs = models.authors_language(tiny.language)
    ids = torch.tensor([[*tiny.prompt, *range(300, 310)]])
    with torch.no_grad():
        states = theirs.model(ids).last_hidden_state[:, len(tiny.prompt) - 1 :]
    expected = encode_tokens(tiny.language, Prompts([tiny.prompt]), ids[:, len(tiny.prompt) :])
    assert torch.allclose(states, expected, atol=1e-4)
    assert theirs.lm_head.weight.data_ptr() == tiny.language.model.embed_tokens.weight.data_ptr()


def test_both_ways_render_the_same_latents(tiny):
    """Catches a ratio of two different images."""
    hidden, noise = render.states(tiny, 1, CPU), torch.randn(1, 32, 8, 8)
    ours, theirs = (way(tiny, hidden, noise, 3) for way in (render.ours, render.authors))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_ratio_is_theirs_over_ours(monkeypatch):
    """Catches a ratio upside down."""
    clock = {"ours": 1.0, "theirs": 3.0}
    monkeypatch.setattr(machine, "timed", lambda work, device: clock[work()])
    found = machine.in_turn(lambda: "ours", lambda: "theirs", CPU, 3)
    assert found["ratio"] == 3.0 and found["ours_s"] == 1.0 and found["theirs_first_s"] == 3.0


def test_every_part_says_what_was_done(tiny):
    """Catches rows that cannot be told apart, or rates of other numbers of tokens."""
    row = decode.run(models.tiny(CPU, torch.float32), CPU, 5, 2, 1)
    assert row["tokens"] == 5 and row["batch"] == 2 and row["ours_tokens_per_s"] == pytest.approx(10 / row["ours_s"])
    row = image.run(tiny, CPU, 2, 1, 1)
    assert {"tokens_s", "diffusion_s", "autoencoder_s", "connector_s", "ratio"} <= row.keys()


@pytest.mark.long
def test_curves_are_of_what_they_say_and_drawn(tmp_path, monkeypatch):
    """Catches an axis that does not vary, rates that count the prompt's time, and a plot that is not written."""
    monkeypatch.setattr(curves, "PIXELS", (64, 96))
    monkeypatch.setattr(curves, "PROMPTS", (16, 32))
    rows = curves.run(CPU, 1, quick=True)
    tokens = {(row["prompt"], row["batch"]): row for row in rows if row["curve"] == "tokens"}
    assert set(tokens) == {(16, 1), (32, 1), (16, 2)}
    assert all(row["prompt_s"] > 0 and row["tokens_per_s"] > 0 for row in tokens.values())
    assert [row["pixels"] for row in rows if row["curve"] == "diffusion"] == [64, 96]
    paths = curves.plot(rows, tmp_path / "new")
    assert [path.name for path in paths] == ["speed_prompt.png", "speed_batch.png", "speed_pixels.png"]
    assert all(path.stat().st_size > 5000 for path in paths)


@pytest.mark.long
def test_every_engine_decodes_and_is_named():
    """Catches a row whose number is another engine's: "graph" without a GPU stands for the compiled step only."""
    rows = decode.engines(models.tiny(CPU, torch.float32), CPU, 3, 1, 1e9)
    compiled = ["fixed, compiled"] if shutil.which("g++") else []
    assert [row["engine"] for row in rows] == ["modules", "direct", *compiled, "speculative"]
    assert all(row["tokens"] == 3 for row in rows)
    # Tokens that are written several in a pass say nothing of how much is read for one.
    assert all(row["bandwidth_share"] > 0 for row in rows[:-1]) and rows[-1]["bandwidth_share"] is None


def test_variants_of_the_transformer_are_compared_with_the_first(tiny):
    """Catches a variant that changes the model that is shared, or makes another image."""
    plain, last, half = render.variants(tiny, CPU, 2, 1, 1)
    assert plain["difference"] == 0 and last["difference"] < 1e-5 and 1e-4 < half["difference"] < 0.2
    assert tiny.transformer.dtype == torch.float32


def test_full_shapes_are_the_published_ones():
    """Catches a "full-size" model that is a small one."""
    language, transformer = models.shapes(None, render=True)
    assert language.num_tokens == 729 and language.vocabulary.num_codes == 65536
    # Qwen3-1.7B with the image tokens, and SANA 1.5 1.6B (config.json of the published checkpoints)
    assert sum(p.numel() for p in language.parameters()) == pytest.approx(1.86e9, rel=0.01)
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(1.6046e9, rel=0.001)


def test_memory_of_the_published_shapes_is_counted():
    """Catches a card class that is promised a model of another size, or counted by allocating it."""
    rows = {row["part"]: row for row in memory.published()}
    assert rows["autoencoder"]["weights_gb"] == pytest.approx(2 * 0.3123, rel=0.001)
    assert rows["diffusion transformer"]["weights_gb"] == pytest.approx(2 * 1.6046, rel=0.001)
    language = rows["language model"]
    # 28 layers x keys and values x 8 heads x 128 x (60 + 729) tokens x 2 bytes
    assert language["cache_gb"] == pytest.approx(28 * 2 * 8 * 128 * 789 * 2 / 1e9)
    matrices = 28 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144)
    assert language["weights_gb"] - language["fp8_gb"] == pytest.approx(matrices / 1e9, rel=1e-5)
    assert language["weights_gb"] > language["int8_gb"] > language["fp8_gb"] and language["working_gb"] is None


def test_memory_of_reinforcement_learning_is_counted():
    """Catches a second reference beside a LoRA, moments of weights that do not learn, and shapes of another model."""
    full, lora = (rl_memory.run()[number] for number in (1, 5))
    assert full["learning_m"] == pytest.approx(1854.256128)  # the published model's own count
    assert full["reference_gb"] == pytest.approx(4 * 1.854, rel=1e-3) and lora["reference_gb"] == 0
    assert full["weights_gb"] == lora["weights_gb"] and lora["learning_gb"] < 1 < 2 * lora["peak_gb"] < full["peak_gb"]
    assert [row["tflop_per_image"] > 1 for row in rl_memory.operations()] == [True] * 5


def test_memory_at_work_is_measured_and_the_estimates_hold(tiny):
    """Catches a peak that counts what was freed before, and estimates below what the parts then take."""

    def work():
        first = torch.ones(2_000_000)
        del first
        torch.ones(1_000_000)

    assert memory.measured(work, CPU) == pytest.approx(8e6, rel=0.01)
    rows = memory.run(tiny, CPU)
    assert [row["part"] for row in rows] == [memory.LANGUAGE, memory.TRANSFORMER, memory.AUTOENCODER]
    assert all(row["working_gb"] > 0 for row in rows)
    # On a CPU the language model makes copies of its weights that no GPU has, see `stepping`.
    assert all(row["working_gb"] < row["estimate_gb"] for row in rows[1:]), rows


def test_the_command_writes_the_ratio_with_the_machine(tmp_path, capsys, monkeypatch):
    """Catches numbers without the machine they were measured on."""
    path = tmp_path / "found.json"
    monkeypatch.setattr(parts, "STEPS", 2)
    assert main(["bench", "render", "--quick", "--device", "cpu", "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["machine"]["torch"] == torch.__version__ and found["machine"]["copy_gb_per_s"] > 0
    assert found["render"]["ratio_vs_reference_path"] == found["render"]["rows"][0]["ratio"] > 0
    assert "| ratio |" in capsys.readouterr().out


@pytest.mark.long
def test_a_picture_of_the_full_shapes_goes_through_all_parts(monkeypatch):
    """Catches a whole image that is timed without its autoencoder, or with the bundled one's."""
    monkeypatch.setitem(models.LANGUAGE, "vocab_size", 3000)
    monkeypatch.setattr(models, "CODES", 2000)
    for side in ("encoder", "decoder"):
        monkeypatch.setitem(models.DC_AE, f"{side}_block_out_channels", [32] * 6)
    model = models.full(CPU, torch.bfloat16, layers=1, render=True, render_layers=1)
    model.language.grid = (1, 3)
    row = image.run(replace(model, cells=2), CPU, 1, 1, 1)
    assert row["model"] == "full shapes, 1 layers" and row["dtype"] == "bfloat16"
    assert all(row[f"{part}_s"] > 0 for part in ("tokens", "diffusion", "autoencoder", "ours", "theirs"))
    assert models.autoencoder(model, CPU).config.latent_channels == model.transformer.config.in_channels == 32


@pytest.mark.long
@pytest.mark.slow
def test_shortcuts_are_compared_on_the_same_tokens_and_noise(monkeypatch):
    """Catches variants that differ by their tokens, and a share of another variant's time."""
    names = ("all", "8 steps", "2 steps", "1 step", "guided 0-0.5", "not guided")
    monkeypatch.setattr(shortcuts, "VARIANTS", tuple(one for one in shortcuts.VARIANTS if one.name in names))
    rows = {row["variant"]: row for row in shortcuts.run(CPU, 1, quick=True)}
    assert list(rows) == list(names) and rows["all"]["near"] == 0
    assert rows["all"]["alone_share"] == rows["all"]["batch_share"] == 1
    assert rows["8 steps"]["near"] < rows["2 steps"]["near"] < rows["1 step"]["near"] < 20
    assert all(0 <= row["right"] <= row["of"] == 16 for row in rows.values()) and rows["all"]["right"] > 10
    assert rows["not guided"]["near"] > 0 and rows["guided 0-0.5"]["near"] > 0


def test_training_data_is_measured_both_ways(monkeypatch):
    """Catches a ratio of different items or steps, and one that is upside down."""
    for name, value in (("ITEMS", 5000), ("SIDE", 64), ("BATCH", 2)):
        monkeypatch.setattr(data, name, value)
    for name, value in (("REAL", 6000), ("SIMULATED", 60_000), ("SHARD", 1000)):
        monkeypatch.setattr(data.stream, name, value)
    items, shards, steps, survey, plain, real, large = data.run(CPU, 1, True)
    assert shards["ratio"] == pytest.approx(shards["theirs_s"] / shards["ours_s"])
    assert [(row["count"], row["read"]) for row in (plain, real, large)] == [(120, 0), (120, 120), (1200, 120)]
    assert items["count"] == 100 and items["ratio"] > 1 and items["theirs_bytes"] > items["ours_bytes"] > 60
    assert steps["ratio"] == pytest.approx(steps["theirs_s"] / steps["ours_s"]) and survey["count"] == 8
