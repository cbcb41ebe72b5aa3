"""A real ComfyUI on the card, with a model of the published size and the bundled one.

Three servers one after the other: as a user starts it, with all but 8 GB of the card set aside, and with little memory
on purpose. Each run is timed by node; a model that is random costs what a trained one does.
"""

import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from blip3o_core.checkpoint.bundled import NAME
from tools.comfyui import graphs
from tools.comfyui.client import Result
from tools.comfyui.server import Server
from tools.environment import comfyui_path

from .. import full_checkpoint
from ..bench import Bench

PROMPT = "a red circle left of a blue star"
QUICK = ("empty", "save", "latents")  # nodes whose seconds say nothing
# Lines of the server's log that say what was decided or went wrong.
TELLING = ("BLIP3o", "Decoding", "Traceback", "Error", "cudaMallocAsync", "vram state", "IMPORT FAILED", "loaded")


def run(bench: Bench) -> None:
    if not (comfyui_path() / "main.py").is_file():
        raise RuntimeError(f"there is no ComfyUI in {comfyui_path()}: run `prepare` without --no-comfyui")
    bench.free("full", "autoencoder")
    with tempfile.TemporaryDirectory(prefix="gpu-check-host-") as folder, _memory(bench) as memory:
        began = time.monotonic()
        full_checkpoint.write(Path(folder, "models/blip3o/full"), bench)
        bench.free()
        bench.notes.put(checkpoint_s=time.monotonic() - began)
        servers: dict[str, tuple[str, ...]] = {"as it is": ()}
        if not bench.dry:
            reserved = torch.cuda.mem_get_info(bench.device)[1] / 2**30 - 8
            servers["8 GB"] = ("--reserve-vram", f"{max(reserved, 1):.1f}")
            servers["lowvram"] = ("--disable-dynamic-vram", "--lowvram")
        for name, arguments in servers.items():
            with bench.notes.attempt(f"server, {name}"):
                _server(bench, Path(folder), name, arguments, memory)


def _server(bench: Bench, folder: Path, name: str, arguments: tuple[str, ...], memory: "Memory") -> None:
    base = folder / name.replace(" ", "-")
    base.mkdir()
    (base / "models").symlink_to(folder / "models", target_is_directory=True)
    (base / "web").mkdir()
    (base / "web" / "index.html").write_text("<html></html>", encoding="utf-8")
    began = time.monotonic()
    with Server(base, arguments=("--front-end-root", str(base / "web"), *arguments)) as server:
        ready = time.monotonic() - began
        bench.notes.row("servers", server=name, arguments=" ".join(arguments), ready_s=ready)
        session = Session(bench, server, name, memory)
        try:
            _runs(session)
            if name == "as it is":
                _more_runs(session)
                _soak(session)
        finally:
            lines = [line.strip()[:200] for line in server.log_text().splitlines()]
            told = list(dict.fromkeys(line for line in lines if any(word in line for word in TELLING)))
            bench.notes.put(**{f"log, {name}": told[:25] + told[25:][-15:]})


def _runs(session: "Session") -> None:
    session.run("first", seed=5)
    session.run("new tokens", seed=6)
    session.run("new noise", seed=6, noise_seed=12)


def _more_runs(session: "Session") -> None:
    before = session.run("the first again", seed=5)
    session.run("four images", seed=7, batch=4)
    session.run("stopped", seed=8, stop_at=2 if session.bench.dry else 100)
    session.run("bundled", checkpoint=NAME, size=(graphs.SIDE, graphs.SIDE), seed=5)
    after = session.run("after the others", seed=5, fresh=True)
    session.bench.notes.put(same_latents=before == after)
    if before != after:
        raise AssertionError("the same graph gives other latents after other runs and a stop")


def _soak(session: "Session") -> None:
    """Prompts in a row, every third with the other model, every fifth stopped: does memory grow?"""
    bench = session.bench
    for k in range(bench.sizes.soak):
        other: dict = {"checkpoint": NAME, "size": (graphs.SIDE, graphs.SIDE)} if k % 3 == 2 else {}
        session.run(f"soak {k}", seed=100 + k, steps=4, stop_at=1 if k % 5 == 4 else None, table="soak", **other)
    rows = bench.notes.found["soak"]
    half = len(rows) // 2
    kinds = [kind for kind in ("resident_gb", "used_gb") if rows[-1][kind] is not None]
    growth = {kind: rows[-1][kind] - rows[half][kind] for kind in kinds}
    bench.notes.put(growth_in_second_half=growth)
    bench.notes.say(f"{len(rows)} prompts in a row: " + ", ".join(f"{kind} {growth[kind]:+.2f}" for kind in kinds))


@dataclass
class Session:
    """Runs on one server."""

    bench: Bench
    server: Server
    name: str
    memory: "Memory"

    def run(
        self, what: str, stop_at: int | None = None, table: str = "runs", fresh: bool = False, **changes
    ) -> str | None:
        """Queue a graph, follow it, note its seconds; the digest of its latents. `changes`: as `text_to_image` has.

        `stop_at`: interrupt once so many tokens are written. `fresh`: nothing of earlier runs is reused.
        """
        sizes = self.bench.sizes
        side = 32 * sizes.cells
        usual = {"checkpoint": "full", "size": (side, side), "steps": sizes.steps, "noise_seed": 11, "dtype": "auto"}
        graph = graphs.text_to_image(**{**usual, **changes}, prompt=PROMPT)
        stamps: list[tuple[str | None, float]] = []
        stopped: list[float] = []
        began = time.time()
        with self.server.client() as client:
            if fresh:
                client.free()

            def watch(kind: str, data) -> None:
                if kind == "executing":
                    stamps.append((data["node"], time.time()))
                if stop_at is not None and not stopped and kind == "progress" and data["value"] >= stop_at:
                    client.interrupt()
                    stopped.append(time.time())

            result = client.run(graph, timeout=120, on_event=watch)
        end = time.time()
        self._note(what, table, result, {"seconds": end - began, **_by_node(stamps)}, self.memory.peak(began, end))
        if stopped:
            self.bench.notes.row("stops", server=self.name, run=what, stopped_in_s=end - stopped[0])
        if result.status == "error" or (result.status == "interrupted") != bool(stopped):
            raise RuntimeError(f"{what}: {result.status} {result.error.get('exception_message', '')[:400]}")
        return None if stopped else _digest(graphs.latents(self.server, result))

    def _note(self, what: str, table: str, result: Result, seconds: dict, peak: float | None) -> None:
        self.bench.notes.row(
            table, server=self.name, run=what, status=result.status, **seconds, peak_gb=peak,
            used_gb=self.memory.used(), resident_gb=_resident(self.server.process.pid),
        )  # fmt: skip
        if table == "runs":
            taken = ", ".join(f"{key[:-2]} {value:.2f}" for key, value in seconds.items() if key.endswith("_s"))
            self.bench.notes.say(f"{self.name}, {what}: {seconds['seconds']:.1f} s; {taken}; peak {peak or 0:.1f} GB")


def _by_node(stamps: list[tuple[str | None, float]]) -> dict[str, float]:
    taken = {f"{node}_s": later - at for (node, at), (_, later) in zip(stamps, stamps[1:], strict=False)}
    return {name: seconds for name, seconds in taken.items() if name.removesuffix("_s") not in (*QUICK, "None")}


def _digest(latents: torch.Tensor) -> str:
    return hashlib.sha256(latents.numpy().tobytes()).hexdigest()[:12]


def _resident(process: int) -> float | None:
    """GB of main memory that a process has, on Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e6
    except (OSError, StopIteration):
        return None


class Memory(threading.Thread):
    """Looks at the card's memory in use every 10 ms, of all processes but this one as it began."""

    def __init__(self, device: torch.device):
        super().__init__(daemon=True)
        self.device, self.ended, self.seen = device, threading.Event(), []
        self.before = 0.0
        self.before = self.used() or 0.0

    def used(self) -> float | None:
        """GB; None without a card."""
        if self.device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return (total - free) / 1e9 - self.before

    def run(self) -> None:
        while self.device.type == "cuda" and not self.ended.wait(0.01):
            self.seen.append((time.time(), self.used()))

    def peak(self, begin: float, end: float) -> float | None:
        return max((used for at, used in self.seen if begin <= at <= end), default=None)


@contextmanager
def _memory(bench: Bench) -> Iterator[Memory]:
    memory = Memory(bench.device)
    memory.start()
    try:
        yield memory
    finally:
        memory.ended.set()
