"""`python -m tools.parity DIR`: every recorded case of a golden folder, one line per case and quantity.

Exit status 0 only when every case that was asked for ran and held.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from blip3o_core.diffusion.sampler import sigmas

from . import edit, t2i, train
from .inference import CPU
from .report import Report

KINDS = {"t2i": t2i.run, "edit": edit.run, "train_t2i": train.run, "train_edit": train.run}


def schedules(path: Path) -> Report:
    """The recorded sigma and timestep tables."""
    report = Report(path.name)
    for name, table in json.loads(path.read_text()).items():
        label, steps = name.split("/")
        if steps.isdigit():
            ours = sigmas(int(steps), shift=3.0 if "shift3" in label else 1.0)
            report.close(
                f"sigmas, {'shift 3' if 'shift3' in label else 'shift 1'}", ours, torch.tensor(table["sigmas"])
            )
    return report


def case_folders(folder: Path, kind: str | None = None) -> list[Path]:
    """Folders of the recorded cases of a kind (t2i, edit, train; None: all), by name."""
    found = sorted(path.parent for path in folder.glob("cases/*/golden.json"))
    return [case for case in found if kind in (None, _golden(case)["kind"].split("_")[0])]


def run_case(case: Path, device: torch.device = CPU) -> Report | None:
    """Compare one case, computed on `device`; None when its kind cannot be run yet."""
    golden = _golden(case)
    if golden["kind"] not in KINDS:
        return None
    return KINDS[golden["kind"]](case.name, golden, load_file(case / "golden.safetensors"), case, device)


def _golden(case: Path) -> dict:
    return json.loads((case / "golden.json").read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.parity", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder in the format of the golden set")
    parser.add_argument("--kind", choices=("t2i", "edit", "train"), help="only cases of this kind")
    parser.add_argument("--device", type=torch.device, default=CPU, help="where to compute (default: cpu)")
    arguments = parser.parse_args(argv)
    reports, unsupported = [], []
    for case in case_folders(arguments.folder, arguments.kind):
        report = run_case(case, arguments.device)
        if report is None:
            unsupported.append(case.name)
        else:
            reports.append(report)
            print("\n".join(report.lines()), flush=True)
    tables = arguments.folder / "scheduler_tables.json"
    if tables.is_file() and arguments.kind in (None, "t2i"):
        reports.append(schedules(tables))
        print("\n".join(reports[-1].lines()))
    failed = [f"{report.case}: {', '.join(report.failed)}" for report in reports if report.failed]
    for line in failed:
        print(f"FAILED {line}")
    for name in unsupported:
        print(f"NOT RUN {name}: this kind is not implemented")
    print(f"{len(reports) - len(failed)} of {len(reports)} reports hold, {len(unsupported)} cases not run")
    return 0 if reports and not failed and not unsupported else 1


if __name__ == "__main__":
    sys.exit(main())
