"""The recorded runs of the authors' code, case by case; `BLIP3O_GOLDEN` names another folder of the same format."""

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from blip3o_core.diffusion import sampler as diffusion
from blip3o_core.pipeline import condition
from tests.support.paths import GOLDEN
from tools.parity.__main__ import case_folders, main, run_case, schedules
from tools.parity.inference import compare_diffusion, open_pipeline, watch, write_tokens
from tools.parity.report import Report

FOLDER = Path(os.environ.get("BLIP3O_GOLDEN", GOLDEN))
CASES = [case for kind in ("t2i", "edit", "train") for case in case_folders(FOLDER, kind)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_equals_the_recording(case):
    """Any stage whose numbers drift from the authors': references, prompt, tokens, states, diffusion, picture."""
    report = run_case(case)
    assert report.failed == [], "\n".join(report.lines())


def test_sigmas_equal_the_recording():
    """A schedule that takes flow_shift for shift, or counts its steps differently."""
    report = schedules(FOLDER / "scheduler_tables.json")
    assert report.failed == [], "\n".join(report.lines())


def test_the_command_fails_when_a_number_is_off(tmp_path, capsys):
    """A parity command that prints and returns success whatever it finds."""
    case = next(case for case in CASES if case.name == "t2i_short")
    broken = tmp_path / "cases" / case.name
    broken.mkdir(parents=True)
    golden = json.loads((case / "golden.json").read_text(encoding="utf-8"))
    for key in ("checkpoint", "diffusers_folder"):
        golden[key] = str((case / golden[key]).resolve())
    (broken / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    recorded = load_file(case / "golden.safetensors")
    save_file(recorded, broken / "golden.safetensors")
    assert main([str(tmp_path)]) == 0
    recorded["connector_out"][0, 0, 0] += 1e-2
    save_file(recorded, broken / "golden.safetensors")
    assert main([str(tmp_path)]) == 1
    assert "FAILED t2i_short: connector, null" in capsys.readouterr().out


def test_a_kind_that_cannot_run_is_no_success(tmp_path, capsys):
    """A folder whose cases were all skipped counted as parity."""
    case = tmp_path / "cases" / "other"
    case.mkdir(parents=True)
    (case / "golden.json").write_text('{"kind": "other"}', encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path), "--kind", "t2i"]) == 1
    assert "NOT RUN other" in capsys.readouterr().out


def test_a_case_without_guidance_is_compared_on_the_half_that_is_run():
    """Catches a recording at guidance 1 that fails because its null half, which changes nothing, is not run here."""
    case = next(case for case in CASES if case.name == "t2i_short")
    golden = json.loads((case / "golden.json").read_text(encoding="utf-8"))
    recorded = load_file(case / "golden.safetensors")
    pipeline = open_pipeline(golden, case)
    tokens = write_tokens(pipeline, golden, golden["prompts"])
    conditioning, schedule = condition(pipeline.language, tokens), diffusion.sigmas(golden["steps"])

    def sample(scale):
        guidance = diffusion.GuidanceSchedule(scale)
        return lambda callback: diffusion.sample(
            pipeline.transformer, recorded["noise"], conditioning, schedule, guidance, callback=callback
        )

    both = watch(pipeline.transformer, sample(1 + 1e-12))  # what the authors do: both halves at a scale of 1
    assert len(both.calls[0]["sana_in"]) == 2 * len(recorded["noise"])
    theirs = {name: recorded[name] for name in ("noise", "sigmas", "timesteps")}
    theirs |= {f"sana_first/{name}": value for name, value in both.first.items()}
    theirs |= {f"step{k}_sana_out": call["sana_out"] for k, call in enumerate(both.calls)}
    theirs |= {"encoder_hidden_states": both.calls[0]["encoder_hidden_states"], "latents_final": both.latents}
    report = Report("guidance 1")
    compare_diffusion(report, pipeline, sample(1.0), golden, theirs)
    assert report.failed == [], "\n".join(report.lines())
    theirs["step1_sana_out"] = theirs["step1_sana_out"] + 1
    compare_diffusion(report, pipeline, sample(1.0), golden, theirs)
    assert report.failed == ["sana, sana_out"]
