"""Runs a piece of Python inside ComfyUI's process, for what no HTTP request can show: patchers, state dicts, dtypes.

    def count_leaves(module, folder):  # a function of the test file; its source travels, its surroundings do not
        import nodes                   # ComfyUI's
        ours = module(".nodes.host.offload")
        ...
        return {"leaves": 3}           # anything JSON can hold

    with Host(tmp_path) as host:
        host.run(count_leaves, folder=str(checkpoint)) == {"leaves": 3}

The process has ComfyUI's folder first on `sys.path` and the project's root nowhere on it; the pack is loaded as ComfyUI
loads it. `module` imports a module by its place in the pack; `module("")` is the pack itself. Each script runs in a
fork of its own, so that the next one finds everything as it was. Always on the CPU.

Loading a checkpoint imports transformers and diffusers, seconds in each fork: `Host(base, ready=LIBRARIES)` has them
before it forks.
"""

import inspect
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

from tools.comfyui.server import host_environment, link_pack
from tools.environment import comfyui_path

LIBRARIES = ("diffusers.models.autoencoders.autoencoder_dc", "diffusers.models.transformers.sana_transformer",
             "transformers.models.qwen3.modeling_qwen3", "transformers.models.siglip.modeling_siglip")  # fmt: skip
# Reads a line for each script and answers with its exit status. The scripts' output goes into files.
LOOP = """
import asyncio, importlib, json, os, runpy, sys, traceback
host, base, link, answers, ready = json.loads(sys.argv.pop(1))
sys.path[0] = host
sys.argv[1:] = ["--cpu", "--base-directory", base, "--disable-api-nodes"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
if not asyncio.run(nodes.load_custom_node(link)):
    sys.exit("ComfyUI could not load the pack; its log is above")
name = link.replace(".", "_x_")
for library in ready:
    importlib.import_module(library)

def module(place):
    return importlib.import_module(name + place)

for line in sys.stdin:
    script, folder, arguments = json.loads(line)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            for file, stream in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), stream)
            runpy.run_path(script, init_globals={"module": module, "arguments": arguments})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.write(answers, b"%d\\n" % os.waitpid(child, 0)[1])
"""


class Host:
    """`with Host(base) as host: host.run(script)`. `base`: ComfyUI's base folder; `ready`: modules imported first."""

    def __init__(self, base: Path, ready: tuple[str, ...] = ()):
        self.base, self.log, self.ready = Path(base), Path(base, "host.log"), ready

    def __enter__(self) -> "Host":
        link = link_pack(self.base)
        answers, theirs = os.pipe()
        given = json.dumps([str(comfyui_path()), str(self.base), str(link), theirs, self.ready])
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LOOP, given], cwd=self.base, env=host_environment(), text=True,
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, pass_fds=[theirs],
            )  # fmt: skip
        os.close(theirs)
        self._answers = os.fdopen(answers)
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()
        self._answers.close()

    def run(self, script: str | Callable, timeout: float = 300, **arguments) -> Any:
        """Run `script` and return what it gives back.

        A function is called with `module` and `arguments`, and its result returned. Source text finds both as globals,
        and the last line it prints must be JSON. RuntimeError with all output if the script fails.
        """
        if callable(script):
            call = f"import json\nprint(json.dumps({script.__name__}(module, **arguments)))\n"
            source = textwrap.dedent(inspect.getsource(script)) + call
        else:
            source = textwrap.dedent(script)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "script.py")
            file.write_text(source, encoding="utf-8")
            status = self._ask(json.dumps([str(file), scratch, arguments]), timeout)
            printed, said = (_text(Path(scratch, name)) for name in ("stdout", "stderr"))
        if status != "0":
            log = _text(self.log)[-4000:]
            raise RuntimeError(f"the script failed in ComfyUI ({status}):\n{printed}\n{said}\n{log}")
        lines = printed.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def _ask(self, line: str, timeout: float) -> str:
        """The exit status; without one the process has ended, or was too slow and is ended here."""
        guard = Timer(timeout, self.process.kill)
        guard.start()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            return self._answers.readline().strip() or f"no answer, {timeout:.0f} s allowed"
        except BrokenPipeError:
            return "ComfyUI did not start"
        finally:
            guard.cancel()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def in_host(script: str | Callable, timeout: float = 300, **arguments) -> Any:
    """`Host.run` in a ComfyUI of its own."""
    with tempfile.TemporaryDirectory() as base, Host(Path(base)) as host:
        return host.run(script, timeout, **arguments)
