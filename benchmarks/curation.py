"""Curation of image-caption pairs: a plain loop in one process, the local backend, and Ray, in turn, each from nothing.

The loop is what one would write without the engine: it opens each tar, measures each pair as the engine does, and
copies what is good into a new tar. It has no near-duplicates, resume or report. Each runs as a process of its own:
`seconds` has its start in it, `peak_mb` is the most that it and its descendants held at once (PSS, twice a second).
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TOP = Path(__file__).parents[1]
SIDE, IN_TAR, WORKERS = 512, 100, 2
COUNTS = (2_000, 20_000)
KINDS = ("loop", "local", "ray")


def run(device, runs: int, quick: bool) -> list[dict]:
    rows = []
    for count in COUNTS[:1] if quick else COUNTS:
        with tempfile.TemporaryDirectory() as place:
            source = Path(place, "source")
            write_pairs(source, count)
            rows += [_row(kind, source, Path(place, kind), count) for kind in KINDS]
    return rows


def write_pairs(folder: Path, count: int) -> None:
    """Tars of IN_TAR pairs each: a JPEG with coarse and fine detail, and a caption."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for first in range(0, count, IN_TAR):
        with tarfile.open(folder / f"{first // IN_TAR:05d}.tar", "w") as tar:
            for number in range(first, min(first + IN_TAR, count)):
                _add(tar, f"{number:08d}.jpg", _jpeg(noise))
                _add(tar, f"{number:08d}.txt", f"a photograph of a hill with a tree, number {number}".encode())


def _jpeg(noise: np.random.Generator) -> bytes:
    coarse = Image.fromarray(noise.integers(30, 225, (16, 16, 3), np.uint8))
    fine = Image.fromarray(noise.integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8))
    large = [one.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for one in (coarse, fine)]
    stream = io.BytesIO()
    Image.blend(*large, 0.25).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def _row(kind: str, source: Path, out: Path, count: int) -> dict:
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.curation", kind, str(source), str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True, env=environment)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    said, _ = process.communicate()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({process.returncode})")
    workers = 1 if kind == "loop" else WORKERS
    return {
        "what": kind, "workers": workers, "pairs": count, "kept": int(said.split()[-1]), "seconds": seconds,
        "pairs_per_s": count / seconds, "peak_mb": peak[0] / 1e6,
    }  # fmt: skip


def _watch(process: subprocess.Popen, peak: list[int]) -> None:
    import psutil

    while process.poll() is None:
        total = 0
        try:
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
        except psutil.Error:
            return
        for one in family:
            try:
                total += one.memory_full_info().pss
            except psutil.Error:  # it has ended
                continue
        peak[0] = max(peak[0], total)
        time.sleep(0.5)


def loop(source: Path, out: Path) -> int:
    """The plain loop -> how many it kept."""
    from blip3o_core.curation.features import measure_sample
    from blip3o_core.curation.settings import KeepSettings

    limits, kept = KeepSettings(), 0
    out.mkdir()
    with tarfile.open(out / "kept.tar", "w") as target:
        for path in sorted(source.glob("*.tar")):
            for sample in _samples(path):
                row = measure_sample(sample)
                if row["side"] >= limits.min_side and row["sharpness"] >= limits.min_sharpness:
                    _add(target, f"{sample.key}.jpg", sample.image)
                    _add(target, f"{sample.key}.txt", sample.texts[0].encode())
                    kept += 1
    return kept


def _samples(path: Path) -> Iterator:
    from blip3o_core.curation.sample import Sample

    with tarfile.open(path) as tar:
        image = b""
        for member in tar:
            data = tar.extractfile(member).read()
            if member.name.endswith(".jpg"):
                image = data
            else:
                yield Sample(member.name[:-4], str(path), image, (), (data.decode(),))


def by_engine(backend: str, source: Path, out: Path) -> int:
    from blip3o_core.curation.engine import curate
    from blip3o_core.curation.settings import CurationSettings

    values: dict[str, Any] = {"sources": [str(source)], "out": str(out), "backend": backend, "workers": WORKERS}
    return curate(CurationSettings(**values)).reasons["kept"]


if __name__ == "__main__":
    kind, source, out = sys.argv[1], *map(Path, sys.argv[2:])
    print(loop(source, out) if kind == "loop" else by_engine(kind, source, out))
