"""Times a new user's first run, and prints the steps with their commands as Markdown: the tables of docs/first-run.md.

    python -m tools.first_run                       a fresh clone, to images by the bundled model
    python -m tools.first_run --checkpoint DIR      and a fresh ComfyUI with a checkpoint, to its first image tokens

Nothing is taken from earlier runs: caches of pip and of this project lie in the scratch folder, too, which needs about
8 GB and is removed at the end. What is committed in this checkout is what is cloned.
"""

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import requests

from tools.comfyui.client import Client
from tools.comfyui.server import PACK_FOLDER, free_port, host_environment
from tools.environment import TOP, say

LOADER, GENERATOR = "1", "2"
TOKENS = 3  # image tokens that the second run waits for, at least: ComfyUI does not tell of every one


class Steps:
    """The rows of a table, timed one after another."""

    def __init__(self, folder: Path):
        self.folder, self.rows = folder, []
        self.environment = {**host_environment(), "XDG_CACHE_HOME": str(folder / "cache")}
        self.environment.pop("COMFYUI_PATH", None)

    @contextmanager
    def timed(self, what: str, command: str = ""):
        started = time.monotonic()
        yield
        self.add(what, time.monotonic() - started, command)

    def add(self, what: str, seconds: float, command: str = "") -> None:
        self.rows.append((what, command and f"`{command}`", seconds))
        say(f"{what}: {seconds:,.1f} s")

    def run(self, what: str, command: str, folder: str = ".", shown: str | None = None) -> None:
        """Run `command` in a folder of the scratch folder; `shown`: as a user would type it."""
        with self.timed(what, shown or command):
            ended = subprocess.run(
                command.split(), cwd=self.folder / folder, env=self.environment, capture_output=True, text=True
            )
        if ended.returncode:
            raise SystemExit(f"{command} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-3000:]}")

    def table(self) -> str:
        lines = [f"| {what} | {command} | {seconds:,.1f} |" for what, command, seconds in self.rows]
        total = f"| **all** | | **{sum(seconds for *_, seconds in self.rows):,.0f}** |"
        return "\n".join(["| step | command | seconds |", "|---|---|---|", *lines, total])


def bundled(scratch: Path) -> Steps:
    """Fresh clone -> images by the bundled model."""
    steps = Steps(scratch)
    steps.run(
        "clone", f"git clone --quiet --no-hardlinks {TOP} pack", shown=f"git clone <this repository> {PACK_FOLDER}"
    )
    steps.run("environment: torch, ComfyUI and their libraries, from the package index", "make environment", "pack")
    steps.run("three images, ComfyUI's start and loading included", "make demo", "pack")
    steps.run("the same again", "make demo", "pack")
    return steps


def published(scratch: Path, checkpoint: Path) -> Steps:
    """Fresh ComfyUI and pack -> a full-size checkpoint's first tokens. Uses the environment that `bundled` made."""
    steps, comfyui = Steps(scratch), scratch / "ComfyUI"
    shutil.copytree(next((scratch / "cache/comfyui-blip3o-next").glob("ComfyUI-*")), comfyui)
    python, pack = scratch / "pack/.venv/bin/python", comfyui / "custom_nodes" / PACK_FOLDER
    steps.run(
        "clone the pack into custom_nodes", f"git clone --quiet --no-hardlinks {TOP} {pack}",
        shown=f"git clone <this repository> {PACK_FOLDER}",
    )  # fmt: skip
    steps.run(
        "its requirements, which are there already", f"{python} -m pip install -q -r {pack}/requirements.txt",
        shown=f"python -m pip install -r {PACK_FOLDER}/requirements.txt",
    )  # fmt: skip
    models = comfyui / "models/blip3o"
    models.mkdir(parents=True, exist_ok=True)
    (models / checkpoint.name).symlink_to(checkpoint, target_is_directory=True)
    port = free_port()
    command = [str(python), "main.py", "--cpu", "--port", str(port)]
    log = open(scratch / "server.log", "wb")
    with steps.timed("start ComfyUI", "python main.py --cpu"):
        server = subprocess.Popen(command, cwd=comfyui, env=steps.environment, stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: answers(port), server)
    try:
        with Client(f"127.0.0.1:{port}") as client:
            first_tokens(steps, client, checkpoint.name)
    finally:
        server.terminate()
        server.wait(60)
    return steps


def first_tokens(steps: Steps, client: Client, checkpoint: str) -> None:
    moments: dict[str, float] = {}  # node -> when it began
    written: dict[int, float] = {}  # number of image tokens -> when

    def watch(kind: str, data) -> None:
        if kind == "executing":
            moments.setdefault(data["node"], time.monotonic())
        if kind == "progress" and data["node"] == GENERATOR:
            written[data["value"]] = time.monotonic()
            if data["value"] >= TOKENS:
                client.interrupt()

    with steps.timed("the loader lists the checkpoint"):
        listed = str(client.object_info("BLIP3oLoader"))
    if checkpoint not in listed:
        raise SystemExit(f"{checkpoint} is not in the loader's list: {listed[:2000]}")
    started = time.monotonic()
    with steps.timed("queue a prompt"):
        queued = client.queue(graph(checkpoint))
    result = client.wait(queued, timeout=1800, on_event=watch)
    enough = min((count for count in written if count >= TOKENS), default=None)
    if enough is None:
        raise SystemExit(f"The run ended before its tokens: {result.status} {result.error}")
    loaded, first = moments[GENERATOR], min(written)
    steps.add("BLIP3o Loader has loaded the model", loaded - started)
    steps.add(f"the prompt is read, and image token {first} is written", written[first] - loaded)
    if enough > first:
        steps.add(f"image tokens {first + 1} to {enough} are written", written[enough] - written[first])


def graph(checkpoint: str) -> dict:
    """Text to image at 1024 x 1024, in the API's format."""

    def node(kind: str, **inputs) -> dict:
        return {"class_type": kind, "inputs": inputs}

    wires = {"positive": ["3", 0], "negative": ["3", 1], "latent_image": ["4", 0]}
    return {
        LOADER: node("BLIP3oLoader", checkpoint=checkpoint, dtype="bf16"),
        GENERATOR: node(
            "BLIP3oTokenGenerator",
            lm=[LOADER, 0],
            prompt="a red cube on a table",
            seed=1,
            batch_size=1,
            sampling="greedy",
        ),
        "3": node("BLIP3oHiddenStateConditioner", lm=[LOADER, 0], tokens=[GENERATOR, 0]),
        "4": node("EmptyLatentImage", width=1024, height=1024, batch_size=1),
        "5": node(
            "BLIP3oDiffusionSampler", model=[LOADER, 1], **wires, noise_seed=1, steps=30, guidance=2.0, denoise=1.0
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=[LOADER, 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="first"),
    }


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/system_stats", timeout=5).ok
    except requests.RequestException:
        return False


def wait_until(ready: Callable[[], bool], server: subprocess.Popen) -> None:
    while not ready():
        if server.poll() is not None:
            raise SystemExit(f"ComfyUI ended with {server.returncode}. Look into server.log.")
        time.sleep(0.2)


def machine() -> str:
    return (
        f"{date.today()}, {os.cpu_count()} CPU cores, {platform.system()}, load {os.getloadavg()[0]:.1f} at the start"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a full-size checkpoint's folder, for the second table")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    arguments = parser.parse_args()
    scratch = Path(arguments.keep or tempfile.mkdtemp(prefix="first-run-")).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    print(machine())
    try:
        print(f"\n{bundled(scratch).table()}", flush=True)
        if arguments.checkpoint:
            print(f"\n{published(scratch, arguments.checkpoint.resolve()).table()}", flush=True)
    finally:
        if not arguments.keep:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
