"""The recorded runs of the authors' code, case by case; `BLIP3O_GOLDEN` names another folder of the same format."""

import os
from pathlib import Path

import pytest

from tests.support.paths import GOLDEN
from tools.parity.__main__ import case_folders, main, run_case, schedules

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
    import json

    from safetensors.torch import load_file, save_file

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
