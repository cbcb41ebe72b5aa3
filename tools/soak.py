"""Hundreds of prompts of every kind to one ComfyUI with this pack: whether anything grows, drifts, breaks or is lost.

    python -m tools.soak --count 500 --json soak.json
    python -m tools.soak --new-sizes

Text to image, batches, sizes, edits, masks, KSampler, other dtypes, int8 weights, prompts that must be refused, and
interrupts at random moments; models and results are freed now and then. A probe, the same image every time, must stay
the same to the bit. Prints a table of memory, threads, open files, temporary files and times. Linux only.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from tools.comfyui.client import Client, Refused
from tools.comfyui.graphs import SIDE, edit, node, text_to_image, with_ksampler
from tools.comfyui.server import Server

COLOURS = "red green blue yellow purple orange pink cyan".split()
SHAPES = "circle square triangle star ring cross".split()
# A few: on a CPU torch keeps the convolution kernels that it made for each size.
SIZES = ((16, 64), (128, 128), (200, 312), (256, 64), (312, 312), (72, 240))
SECONDS = 180  # for one prompt
BLOCKS = 10  # rows of the table
# The C library keeps freed memory for what comes next. With these it gives it back, so what grows is kept by somebody.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Row:
    """One prompt: what it was, how it ended, and the server right after it."""

    kind: str
    outcome: str
    fine: bool  # it ended as its kind must
    seconds: float
    megabytes: int
    threads: int
    files: int  # open
    temporary: int  # files below the temporary folder


def plain(rng: random.Random, **changes) -> dict:
    """A prompt nobody posted before, of the size that the bundled model knows."""
    numbers = {"seed": rng.randrange(2**64), "noise_seed": rng.randrange(2**64), "steps": rng.choice([2, 4, 20])}
    prompt = f"a {rng.choice(COLOURS)} {rng.choice(SHAPES)}"
    graph = text_to_image(NAME, (SIDE, SIDE), **{"prompt": prompt, **numbers, **changes})
    del graph["latents"]
    return graph


def probe() -> dict:
    return plain(random.Random(0), steps=4)


def sized(rng: random.Random) -> dict:
    graph = plain(rng, steps=4)
    graph["empty"]["inputs"].update(zip(("width", "height"), rng.choice(SIZES), strict=True))
    return graph


def edited(rng: random.Random, masked: bool = False) -> dict:
    mask = ["mask", 0] if masked else None
    word = rng.choice(COLOURS)
    graph = edit("soak.png", checkpoint=NAME, instruction=f"make it {word}", mask=mask, seed=rng.randrange(2**64))
    if masked:
        graph["mask"] = node("SolidMask", value=1.0, width=SIDE, height=SIDE)
    del graph["latents"]
    return graph


def refused(rng: random.Random) -> dict:
    """Half of them by ComfyUI, half by a node."""
    graph = plain(rng)
    owner, name, value = rng.choice(
        [("generate", "prompt", ""), ("generate", "prompt", "red \ud800"), ("generate", "prompt", "red " * 1000),
         ("generate", "lm", None), ("sample", "steps", 0), ("load", "checkpoint", "../absent"),
         ("sample", "latent_image", 5), ("sample", "guidance", "much")]
    )  # fmt: skip
    graph[owner]["inputs"][name] = value
    return graph


def with_int8(rng: random.Random) -> dict:
    graph = plain(rng)
    graph["load"]["inputs"]["lm_weights"] = "int8"
    return graph


@dataclass(frozen=True)
class Kind:
    share: int
    make: Callable[[random.Random], dict]
    ends: tuple[str, ...] = ("success",)


KINDS = {
    "text": Kind(8, plain),
    "batch": Kind(3, lambda rng: plain(rng, batch=rng.choice([2, 4, 8]))),
    "size": Kind(4, sized),
    "edit": Kind(4, edited),
    "mask": Kind(3, lambda rng: edited(rng, masked=True)),
    "KSampler": Kind(3, lambda rng: with_ksampler(plain(rng), 4)),
    "dtype": Kind(2, lambda rng: plain(rng, dtype=rng.choice(["fp32", "bf16"]))),
    "int8": Kind(1, with_int8),
    "refused": Kind(4, refused, ("error", "refused")),
    "interrupt": Kind(
        5, lambda rng: plain(rng, batch=rng.choice([1, 4, 16]), steps=50), ("interrupted", "success")
    ),
    "freed": Kind(2, lambda rng: probe()),
    "probe": Kind(3, lambda rng: probe()),
}  # fmt: skip


class Soak:
    """One server and one client; `row(kind)` posts a prompt and looks at both."""

    def __init__(self, server: Server, client: Client, seed: int, new_sizes: bool):
        self.server, self.client, self.rng, self.new_sizes = server, client, random.Random(seed), new_sizes
        self.digest = ""  # of the probe, once it is known
        buffer = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), "red").save(buffer, "PNG")
        client.upload("soak.png", buffer.getvalue())

    def row(self, name: str) -> Row:
        kind = KINDS[name]
        if name in ("freed", "probe"):
            # Freed: models and results. Probe: another prompt in between, so that nothing of it is cached.
            self.client.free() if name == "freed" else self.client.run(plain(random.Random(1), steps=1), SECONDS)
        graph = kind.make(self.rng)
        if name == "size" and self.new_sizes:
            graph["empty"]["inputs"].update(width=8 * self.rng.randrange(2, 40), height=8 * self.rng.randrange(2, 40))
        began = time.monotonic()
        outcome = self._ended(graph, self.rng.uniform(0, 1.5) if name == "interrupt" else None)
        seconds = time.monotonic() - began
        return Row(name, outcome, outcome in kind.ends, round(seconds, 2), *self._server())

    def _ended(self, graph: dict, interrupted_after: float | None) -> str:
        """success, interrupted, error (of ours), refused (by ComfyUI), or what is not right."""
        try:
            prompt = self.client.queue(graph)
        except Refused:
            return "refused"
        timer = threading.Timer(interrupted_after or 0, self.client.interrupt)
        if interrupted_after is not None:
            timer.start()
        try:
            result = self.client.wait(prompt, SECONDS)
        except Exception as error:
            return f"lost: {error!r}"
        finally:
            if interrupted_after is not None:
                timer.join()
        if result.status == "error" and not result.error["exception_type"].endswith("Blip3oError"):
            return f"{result.error['exception_type']}: {result.error['exception_message']}"
        if result.status == "success" and graph == probe():
            found = hashlib.sha256(self.client.view(**result.images[0])).hexdigest()
            self.digest = self.digest or found
            return "success" if found == self.digest else "another image than at first"
        return result.status

    def _server(self) -> tuple[int, int, int, int]:
        process = Path("/proc", str(self.server.process.pid))
        try:
            lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            files = len(os.listdir(process / "fd"))
        except OSError:
            raise SystemExit(f"The server ended.\n{self.server.log_text()[-4000:]}") from None
        temporary = sum(path.is_file() for path in (self.server.base / "temp").rglob("*"))
        return int(lines["VmRSS"].split()[0]) // 1024, int(lines["Threads"]), files, temporary


def soak(
    server: Server,
    count: int,
    seed: int,
    note: Callable[[int, Row], None] = lambda k, row: None,
    new_sizes: bool = False,
) -> list[Row]:
    """`count` prompts in random order, every kind at least once if there are enough.

    `new_sizes`: images of other sizes have a new one every time, and not one of SIZES.
    """
    rng = random.Random(seed)
    names = [*KINDS, *rng.choices(list(KINDS), [kind.share for kind in KINDS.values()], k=count)][:count]
    rng.shuffle(names)
    rows = []
    with server.client() as client:
        run = Soak(server, client, seed, new_sizes)
        for k, name in enumerate(names):
            rows.append(run.row(name))
            note(k, rows[-1])
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: a line for each tenth of the run."""
    lines = [
        "| prompts | memory, MB | threads | open files | temporary files | text to image, s | probe, s |",
        "|---|---|---|---|---|---|---|",
    ]
    size = -(-len(rows) // BLOCKS)
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        times = [[row.seconds for row in part if row.kind == kind] for kind in ("text", "probe")]
        median = [f"{statistics.median(found):.2f}" if found else "" for found in times]
        highest = (max(getattr(row, name) for row in part) for name in ("megabytes", "threads", "files", "temporary"))
        lines.append(f"| {first + 1} to {first + len(part)} | {' | '.join(map(str, [*highest, *median]))} |")
    return "\n".join(lines)


def outcomes(rows: list[Row]) -> str:
    """A line for each kind: how its prompts ended; then those that ended as they must not."""
    found = {name: Counter(row.outcome for row in rows if row.kind == name) for name in KINDS}
    lines = [f"{name}: " + ", ".join(f"{n} {what}" for what, n in each.items()) for name, each in found.items() if each]
    wrong = [f"  prompt {k}, {row.kind}: {row.outcome}" for k, row in enumerate(rows, 1) if not row.fine]
    return "\n".join([*lines, f"not as they must: {len(wrong)}", *wrong])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--new-sizes", action="store_true", help="a new size every time, in place of the same six")
    parser.add_argument("--json", type=Path, help="every prompt, as a list")
    arguments = parser.parse_args()

    def note(k: int, row: Row) -> None:
        if k % 25 == 0 or not row.fine:
            print(k, row, flush=True)

    os.environ.update(ALLOCATOR)  # of the server
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak"))
        server = stack.enter_context(Server(Path(base)))
        rows = soak(server, arguments.count, arguments.seed, note, arguments.new_sizes)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    print(table(rows), outcomes(rows), sep="\n\n")
    return any(not row.fine for row in rows)


if __name__ == "__main__":
    sys.exit(main())
