"""Runs a piece of Python inside the host's process, for what no HTTP request can show: patchers, state dicts, dtypes.

    def count_leaves(folder):          # a function of the test file; its source travels, its surroundings do not
        import nodes                   # ComfyUI's
        ...
        return {"leaves": 3}           # anything JSON can hold

    in_host(count_leaves, base=tmp_path, folder=str(checkpoint)) == {"leaves": 3}

The process has ComfyUI's folder first on `sys.path` and the project's root nowhere on it; the pack is loaded as the
host loads it. `pack` is a global there: the pack's module, whose submodules are at `pack.__name__ + ".nodes"` etc.
"""

import inspect
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.comfyui.server import host_environment, link_pack
from tools.environment import comfyui_path

PRELUDE = """
import asyncio, json, runpy, sys
host, base, link, script, arguments = json.loads(sys.argv.pop(1))
sys.path[0] = host
sys.argv[1:] = ["--cpu", "--base-directory", base, "--disable-api-nodes"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
if not asyncio.run(nodes.load_custom_node(link)):
    sys.exit("the host could not load the pack; its log is above")
pack = sys.modules[link.replace(".", "_x_")]
runpy.run_path(script, init_globals={"pack": pack, "arguments": arguments})
"""


def in_host(script: str | Callable, base: Path | None = None, timeout: float = 300, **arguments) -> Any:
    """Run `script` in a fresh host and return what it gives back.

    A function is called with `arguments`, and its result returned. Source text finds them in the global `arguments`,
    and the last line it prints must be JSON. `base` is the host's base directory, a temporary one if not given.
    RuntimeError with the host's own output if the script fails.
    """
    if callable(script):
        call = f"import json\nprint(json.dumps({script.__name__}(**arguments)))\n"
        source = textwrap.dedent(inspect.getsource(script)) + call
    else:
        source = textwrap.dedent(script)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(base or Path(scratch, "base"))
        link = link_pack(base)
        file = Path(scratch, "script.py")
        file.write_text(source, encoding="utf-8")
        handed = json.dumps([str(comfyui_path()), str(base), str(link), str(file), arguments])
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE, handed], cwd=scratch, env=host_environment(),
            text=True, capture_output=True, timeout=timeout,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the script failed in the host ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    printed = done.stdout.strip().splitlines()
    return json.loads(printed[-1]) if printed else None
