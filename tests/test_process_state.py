"""A library in somebody else's program: importing and using it changes nothing of the process, and calls nobody."""

import inspect
import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.support import process_state
from tests.support.paths import TOP

USE = """
import importlib, json, pkgutil, sys
import diffusers, numpy, PIL.Image, PIL.ImageCms, safetensors.torch, tokenizers, torch, transformers, yaml
from diffusers import AutoencoderDC, SanaTransformer2DModel
from transformers import Qwen3Model
import transformers.models.siglip.modeling_siglip
PIL.Image.init()
calls = []
sys.addaudithook(lambda event, values: calls.append(event) if event.startswith("socket.") else None)
states = [snapshot()]
import blip3o_core
for module in pkgutil.walk_packages(blip3o_core.__path__, "blip3o_core."):
    if module.name.split(".")[1] not in ("training", "tiny", "cli", "__main__"):  # not for other programs
        importlib.import_module(module.name)
states.append(snapshot())
from pathlib import Path
from blip3o_core.checkpoint import bundled
from blip3o_core.checkpoint.tatok_file import open_tatok
from blip3o_core.editing.references import EditInputs
from blip3o_core.pipeline import Pipeline
pipeline = Pipeline.load(bundled.resolve_checkpoint(None))
image = PIL.Image.new("RGB", (64, 64), "red")
references = pipeline.references([image])
tokens = pipeline.generate_tokens(["make the circle blue"], [1], references=references)
pipeline.render(tokens, [1], steps=2, edit=EditInputs(references))
for path in ("/etc/passwd", "tests/golden/checkpoints/ta_tok/ta_tok.pth"):
    try:
        open_tatok(path)
    except ValueError:
        pass
states.append(snapshot())
print(json.dumps([states, calls]))
"""


@pytest.mark.slow
def test_importing_and_using_the_library_leaves_the_process_as_it_was(tmp_path):
    """Catches settings, signals, logging, warnings, seeds or files of the process that change under other code."""
    script = f"{inspect.getsource(process_state.snapshot)}\n{textwrap.dedent(USE)}"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TOP, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [before, imported, used], calls = json.loads(done.stdout.splitlines()[-1])
    assert process_state.changes(before, imported) == {}
    assert process_state.changes(imported, used) == {}
    assert not calls
