"""What the code may not do, read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import TOP

LIBRARY = sorted((TOP / "blip3o_core").rglob("*.py"))
PACK = sorted((TOP / "nodes").rglob("*.py"))
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "nodes", "folder_paths", "server", "execution", "app"}


def tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(TOP))


def dotted(node: ast.AST) -> str:
    """`torch.backends.cudnn.benchmark` as text; '' for anything else than names and attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_there_is_code_to_look_at():
    """Catches a moved folder that would make every check here pass on nothing."""
    assert {"checkpoint.py", "engine.py", "__main__.py"} <= {path.name for path in LIBRARY}
    assert PACK


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_needs_no_host(path):
    """Catches a library that only works inside ComfyUI, or imports itself under a name the host does not give it."""
    for node in ast.walk(tree(path)):
        roots = []
        if isinstance(node, ast.Import):
            roots = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots = [node.module.split(".")[0]]
        elif isinstance(node, ast.ImportFrom):
            depth = len(path.relative_to(TOP / "blip3o_core").parts)
            assert node.level <= depth, f"line {node.lineno} imports from outside the library"
        for root in roots:
            assert root not in HOST | {"blip3o_core", "tests"}, f"line {node.lineno} imports {root}"


FORBIDDEN_CALLS = (
    "torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.random.manual_seed", "torch._dynamo",
    "torch.use_deterministic_algorithms", "random.seed", "numpy.random.seed",
)  # fmt: skip


@pytest.mark.parametrize("path", [*LIBRARY, *PACK], ids=name_of)
def test_nobodys_settings_are_changed(path):
    """Catches a change to torch that every other node in the process would feel."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            assert not called.startswith(FORBIDDEN_CALLS), f"line {node.lineno} calls {called}"
            assert not called.startswith("torch.set_"), f"line {node.lineno} calls {called}"
            assert not (called == "setattr" and dotted(node.args[0]).startswith("torch")), f"line {node.lineno}"
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else targets
        for target in targets:
            assert not dotted(target).startswith(("torch.", "os.environ")), f"line {node.lineno} sets {dotted(target)}"
            if isinstance(target, ast.Subscript):
                assert dotted(target.value) != "os.environ", f"line {node.lineno} changes the environment"


@pytest.mark.parametrize("path", [*LIBRARY, *PACK], ids=name_of)
def test_no_module_prints_or_evaluates(path):
    """Catches output on a server's console, and code made from text; the command line's own files may print."""
    names = {node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and dotted(node.func)
             and isinstance(node.func, ast.Name)}  # fmt: skip
    allowed = {"print"} if path.name == "__main__.py" or path.parent.name == "cli" else set()
    assert not (names & {"print", "eval", "exec", "breakpoint", "input"}) - allowed


@pytest.mark.parametrize(
    "module", ["blip3o_core", "blip3o_core.prompts.vocabulary", "blip3o_core.checkpoint.checkpoint"]
)
def test_importing_costs_no_transformers_or_diffusers(module):
    """Catches a pack that slows ComfyUI's start by seconds for people who never use it."""
    heavy = {"transformers", "diffusers", "tokenizers", "PIL"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
