"""Lets Triton find the fused step's kernels that were compiled on another machine. Standard library only.

Triton names a kernel in its cache by a hash of its source, of Triton's own files and of the compiler's versions, which
differ between builds of the same release. `install` makes the name depend only on what the kernel is: source, types,
constants and options. A cache with such names is valid for one Triton version.
"""

import hashlib
import importlib.abc
import importlib.machinery
import sys
from functools import cache
from pathlib import Path

MODULE = "triton.compiler.compiler"


def install() -> None:
    """Change the names once Triton is imported, or now if it is."""
    if MODULE in sys.modules:
        _patch(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _AfterImport())


def _patch(compiler) -> None:
    original = compiler.get_cache_key

    def key(src, backend, options, env_vars=None, **more):
        file = Path(src.fn.fn.__code__.co_filename) if hasattr(src, "fn") else Path()
        if file.parent.name != "fused":
            return original(src, backend, options, env_vars, **more)
        constants = sorted((str(name), str(getattr(value, "value", value))) for name, value in src.constants.items())
        types = sorted((str(name), str(value)) for name, value in src.signature.items())
        hints = sorted((str(name), str(value)) for name, value in src.attrs.items())
        launch = [options.num_warps, options.num_stages, getattr(options, "launch_cooperative_grid", None)]
        return str([src.fn.__name__, _digest(file.parent), types, constants, hints, launch])

    compiler.get_cache_key = key


@cache
def _digest(folder: Path) -> str:
    """Of all sources in a folder: a kernel calls functions of other files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds the one module, patched when it has run."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def run_and_patch(module) -> None:
            run(module)
            _patch(module)

        spec.loader.exec_module = run_and_patch
        return spec
