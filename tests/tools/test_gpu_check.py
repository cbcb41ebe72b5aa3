"""The check for a machine with a card: all of its stages on the CPU, and what a stage costs that goes wrong."""

import json
import subprocess
import sys
import zipfile

import pytest

from tests.support.paths import TOP
from tools.gpu_check import report
from tools.gpu_check.prepare import pack_comfyui, pack_kernels
from tools.gpu_check.stages import STAGES, Limits
from tools.gpu_check.unpack import fits, unpack, unpack_kernels
from tools.gpu_check.watcher import Watch

# What a table of results is made from, by stage. `host` is in tests/host.
KEYS = {
    "machine": {"versions", "card", "copy_gb_per_s", "launch_us"},
    "parity": {"cases", "worst", "off", "bfloat16"},
    "gputests": {"log", "exit"},
    "decode": {"steps", "images", "rows", "against_modules", "refused"},
    "tokens": {"agreement"},
    "render": {"ways", "equal", "apart"},
    "image": {"images"},
    "memory": {"parts", "tokens"},
    "authors": {"tokens_per_s", "step_ms"},
}
QUICK = ("machine", "memory")


@pytest.mark.slow
@pytest.mark.parametrize("names", [QUICK, pytest.param(tuple(KEYS), marks=pytest.mark.long)], ids=["quick", "all"])
def test_every_stage_runs_on_the_cpu(names, tmp_path):
    """Catches a renamed function or a changed signature in the library that breaks a stage, which nobody would see
    until the next time there is a card."""
    assert {*KEYS, "host"} == set(STAGES)
    command = [sys.executable, "-m", "tools.gpu_check", "run", "--cpu-dry-run", f"--out={tmp_path / 'out'}",
               f"--stages={','.join(names)}", f"--carried={tmp_path / 'nothing'}"]  # fmt: skip
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=600)
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["stages"]
    assert {name: each["status"] for name, each in found.items()} == dict.fromkeys(["unpack", *names], "ok"), (
        done.stdout
    )
    assert done.returncode == 0, done.stderr[-3000:]
    missing = {name: KEYS[name] - found[name].keys() for name in names}
    assert not any(missing.values()), missing
    assert f"## {names[-1]}: ok" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


FAULTY = """
import os, sys, time
from pathlib import Path
from tools.gpu_check.stages import Limits
from tools.gpu_check.worker import work

def raises(notes):
    notes.put(number=1)
    raise RuntimeError("as it was told")

def partly(notes):
    with notes.attempt("a part"):
        raise ValueError("of a stage")
    notes.put(number=2)

def ends(notes):
    notes.row("rows", number=3)
    os._exit(7)

def hangs(notes):
    notes.put(number=4)
    time.sleep(1000)

folder, names, end = sys.argv[1:]
stages = {"raises": raises, "partly": partly, "ends": ends, "hangs": hangs, "fine": lambda notes: notes.put(number=5)}
limits = dict.fromkeys(stages, Limits(1, 0))
sys.exit(work(Path(folder), {name: stages[name] for name in names.split(",")}, limits, float(end)))
"""
FINE = Limits(60, 0)


def watch(tmp_path, stages: dict, budget: float = 120.0) -> dict:
    script = tmp_path / "worker.py"
    script.write_text(FAULTY, encoding="utf-8")
    start = f"import sys, runpy; sys.path.insert(0, {str(TOP)!r}); sys.argv.pop(0); runpy.run_path(sys.argv[0])"
    return Watch([sys.executable, "-c", start, str(script)], stages, tmp_path / "out", budget).run()


def test_a_faulty_stage_costs_only_itself(tmp_path):
    """Catches one stage that takes all later ones with it, or loses what it had found."""
    found = watch(tmp_path, {**dict.fromkeys(("raises", "partly", "ends"), FINE), "hangs": Limits(1, 0), "fine": FINE})
    status = {"raises": "failed", "partly": "partly", "ends": "crashed", "hangs": "timeout", "fine": "ok"}
    assert {name: each["status"] for name, each in found.items()} == status
    assert found["raises"]["error"] == "RuntimeError: as it was told" and found["raises"]["number"] == 1
    assert found["partly"]["failures"] == ["a part: ValueError: of a stage"] and found["partly"]["number"] == 2
    assert found["ends"]["rows"] == [{"number": 3}] and "ended with 7" in found["ends"]["error"]
    assert found["hangs"]["number"] == 4 and "its limit" in found["hangs"]["error"]
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["stages"]
    assert written == found


def test_a_worker_that_cannot_start_ends_the_run(tmp_path):
    """Catches workers that are started without end, one after the other, while the paid time passes."""
    stages = dict.fromkeys(("one", "two"), FINE)
    found = Watch([sys.executable, "-c", "raise SystemExit(1)"], stages, tmp_path, 60).run()
    assert {each["status"] for each in found.values()} == {"crashed"}


def test_what_no_time_is_left_for_is_listed(tmp_path):
    """Catches results that leave out stages, as if they had never been asked for."""
    found = watch(tmp_path, {"fine": FINE}, budget=-1)
    assert found == {"fine": {"status": "not run", "error": "no time was left"}}


def test_the_summary_fits_a_screen():
    """Catches a summary whose beginning is cut off by whatever shows the last lines."""
    many = {"status": "partly", "summary": ["x" * 500] * 50, "failures": ["y" * 500] * 50, "error": None}
    text = report.summary({f"stage{k}": many for k in range(10)}, 540)
    assert len(text) < 11_000 and "stage9" in text


@pytest.mark.slow
def test_carried_packages_come_before_the_machines(tmp_path):
    """Catches a carried package or kernel that is not found, and a machine's Python that is changed or hidden."""
    carried = tmp_path / "carried"
    (carried / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(carried / "wheels" / "einops-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("einops.py", "carried = True\n")
    (carried / "wheels" / "other-1-cp27-cp27m-any.whl").write_bytes(b"")
    stub = carried / "stubs" / "kornia"
    stub.mkdir(parents=True)
    stub.joinpath("__init__.py").write_text((TOP / "tools/gpu_check/stub.py").read_text(encoding="utf-8"))
    made = unpack(carried, tmp_path / "made")
    code = (
        "import einops, kornia.filters, torch, tests.support.paths; from kornia.filters.some import thing;"
        "print(einops.carried, thing.__name__, tests.support.paths.TOP)"
    )
    done = subprocess.run([made.python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "thing", str(TOP)], done.stderr
    assert made.notes["left out"] == ["other-1-cp27-cp27m-any.whl"]
    assert fits("a-1-py3-none-any.whl") and fits("a-1-cp39-abi3-manylinux_2_17_x86_64.whl")
    assert not fits("a-1-cp27-cp27m-manylinux1_x86_64.whl")


@pytest.mark.long
@pytest.mark.slow
def test_a_carried_kernel_is_not_compiled_again(tmp_path):
    """Catches a name in Triton's cache, or a path in it, that depends on the machine: each kernel would cost half a
    minute of a card's time."""
    pytest.importorskip("triton", reason="Triton has no package for this machine")

    def compiled(cache: str) -> str:
        command = [sys.executable, "-m", "tools.gpu_check.kernels", str(tmp_path / cache)]
        chosen = ["--only", "tests, torch.bfloat16, 1, greedy"]
        done = subprocess.run([*command, *chosen], cwd=TOP, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()[-1]

    made = compiled("made")
    count = int(made.split()[0])
    assert count >= 5 and made == f"{count} kernels compiled, 0 found"
    pack_kernels(tmp_path / "made", tmp_path / "kernels.tar.gz")
    (tmp_path / "made").rename(tmp_path / "gone")
    unpack_kernels(tmp_path / "kernels.tar.gz", tmp_path / "carried")
    assert compiled("carried") == f"0 kernels compiled, {count} found"


def test_comfyui_is_carried_without_what_no_server_opens(tmp_path):
    """Catches a ComfyUI without a part that it needs, or with all that makes it large."""
    for name in ("main.py", "comfy/sd.py", "comfy/text_encoders/t5.py", "comfy/text_encoders/t5_tokenizer/words.json",
                 "models/large.bin", "comfy/__pycache__/sd.pyc"):  # fmt: skip
        (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "host" / name).touch()
    pack_comfyui(tmp_path / "host", tmp_path / "comfyui.zip")
    with zipfile.ZipFile(tmp_path / "comfyui.zip") as archive:
        assert sorted(archive.namelist()) == ["comfy/sd.py", "comfy/text_encoders/t5.py", "main.py"]
