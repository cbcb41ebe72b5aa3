"""A real ComfyUI server with this pack in it, for tests, `make demo` and `make serve`.

Everything the server reads and writes lies under one base folder that the caller owns: put models into `base/models`
before entering. The pack is a link in `base/custom_nodes`, exactly as a user's clone would be; the project's root stays
off the server's `sys.path`, where our `nodes` would hide ComfyUI's.

It computes on the CPU. With another `BLIP3O_TEST_DEVICE`, such as cuda, it computes where ComfyUI chooses.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

from tools.comfyui.client import Client
from tools.environment import TOP, comfyui_path

PACK_FOLDER = "comfyui-blip3o-next"
ON_CPU = os.environ.get("BLIP3O_TEST_DEVICE", "cpu") == "cpu"


def link_pack(base: Path, folder: str = PACK_FOLDER) -> Path:
    """Link the pack into `base/custom_nodes/<folder>` and return the link; a link to another checkout is replaced."""
    link = Path(base) / "custom_nodes" / folder
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() != TOP:
        link.unlink()
    if not link.exists():
        link.symlink_to(TOP, target_is_directory=True)
    return link


def host_environment() -> dict[str, str]:
    """The variables of a host process: no PYTHONPATH, which may lead here, and no downloads from the hub."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


class Server:
    """`with Server(base) as server: server.client().run(prompt)`; RuntimeError with its log if it fails to start."""

    def __init__(
        self,
        base: Path,
        folder: str = PACK_FOLDER,
        port: int | None = None,
        arguments: tuple[str, ...] = (),
        on_cpu: bool = ON_CPU,
    ):
        self.base = Path(base)
        self.folder = folder
        self.port = free_port(port)
        self.arguments = arguments
        self.on_cpu = on_cpu
        self.address = f"127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        host = comfyui_path()
        if not (host / "main.py").is_file():
            raise RuntimeError(f"no ComfyUI at {host}: run `make environment`, or set COMFYUI_PATH")
        link_pack(self.base, self.folder)
        (self.base / "models").mkdir(exist_ok=True)
        # The default cache drops results when the machine runs short of memory; tests assert what is cached.
        # Killed tests run no clean-up; with this the server goes when they do.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [
            *guard, sys.executable, host / "main.py", *(["--cpu"] if self.on_cpu else []),
            "--base-directory", self.base, "--port", self.port,
            "--disable-api-nodes", "--preview-method", "auto", "--cache-classic", *self.arguments,
        ]  # fmt: skip
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=self.base, env=host_environment(),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def client(self) -> Client:
        return Client(self.address)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, kind)
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    continue

    def _wait_until_ready(self, timeout: float = 180) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}:\n{self.log_text()[-4000:]}")
            try:
                requests.get(f"http://{self.address}/system_stats", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.25)
        raise RuntimeError(f"ComfyUI did not answer within {timeout:.0f} s:\n{self.log_text()[-4000:]}")


def free_port(wanted: int | None = None) -> int:
    """`wanted`, or any free one. OSError if `wanted` is taken: its owner would answer in our server's place."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted or 0))
        return probe.getsockname()[1]
