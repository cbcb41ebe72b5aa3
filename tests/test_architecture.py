"""What the code may not do and ruff cannot see: imports against the plan of the house, and settings of the process.

The rules for ruff (no print, no code made from text, no global seeds, at most seven parameters) are in pyproject.toml.
"""

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.paths import TOP

LIBRARY = sorted((TOP / "blip3o_core").rglob("*.py"))
PACK = sorted((TOP / "nodes").rglob("*.py"))
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "nodes", "folder_paths", "server", "execution", "app"}
# From the ground up. A room imports rooms before it in this list, never those behind it.
ROOMS = """
    errors checks files yaml_reader settings seeds weights download images prompts models memory decoding
    diffusion checkpoint editing tokens pipeline compat reports rewards shards curation training tiny
    evaluation cli __main__
""".split()

# Calls that change the environment as an assignment to it does.
CHANGES = {f"os.environ.{name}" for name in ("update", "setdefault", "pop", "popitem", "clear")}
CHANGES |= {"os.putenv", "os.unsetenv"}


@cache
def tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(TOP)}:{node.lineno}"


def module_of(path: Path) -> tuple[str, ...]:
    """The names below the top of the checkout: ("blip3o_core", "models", "language")."""
    parts = path.relative_to(TOP).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def relative_imports(path: Path):
    """(node, the package and name it reaches); the name may be a module or something in one."""
    package = path.relative_to(TOP).parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple((node.module or "").split(".")) * bool(node.module)
            for alias in node.names:
                yield node, (*base, alias.name)


def absolute_imports(path: Path):
    """(node, the first name of what is imported)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module.split(".")[0]


def test_there_is_code_to_look_at():
    """Catches a moved folder that would make every check here pass on nothing."""
    assert {"checkpoint.py", "pipeline.py", "__main__.py"} <= {path.name for path in LIBRARY}
    assert PACK


def test_imports_respect_the_floors():
    """Catches a library that only works inside ComfyUI, or imports itself under a name the host does not give it."""
    ours = {"blip3o_core", "benchmarks", "tests", "tools"}
    wrong = []
    for paths, forbidden in (LIBRARY, HOST | ours), (PACK, {"nodes"} | ours):
        for path in paths:
            wrong += [f"{at(path, node)} imports {name}" for node, name in absolute_imports(path) if name in forbidden]
    for path in LIBRARY:
        outside = [node for node, name in relative_imports(path) if name[0] != "blip3o_core"]
        wrong += [f"{at(path, node)} imports from outside the library" for node in outside]
    assert not wrong


def test_a_room_imports_only_rooms_before_it():
    """Catches the first step to a circle: a room that needs one which is built on it."""
    wrong = []
    for path in LIBRARY:
        for room in module_of(path)[1:2]:  # none for the package itself
            before = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else []
            reached = [(node, name[1]) for node, name in relative_imports(path) if name[0] == "blip3o_core"]
            wrong += [
                f"{at(path, node)} is in {room} and imports {name}" for node, name in reached if name not in before
            ]
    assert not wrong


def test_no_modules_import_each_other():
    """Catches two files that cannot be read, moved or imported one without the other."""
    modules = {module_of(path) for path in [*LIBRARY, *PACK]}
    graph = {}
    for path in [*LIBRARY, *PACK]:
        module = module_of(path)
        reached = {name if name in modules else name[:-1] for _, name in relative_imports(path)}
        # Python runs a package before the modules in it, so these may use its names.
        graph[module] = {name for name in reached & modules if name != module[: len(name)]}
    graphlib.TopologicalSorter(graph).prepare()  # raises with the circle in its message


def test_nobodys_settings_are_changed():
    """Catches a change to torch or the environment that every other node in the process would feel."""

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return node.id if isinstance(node, ast.Name) else ""

    wrong = []
    for path in [*LIBRARY, *PACK]:
        # Its patches change anything for a while.
        wrong += [f"{at(path, node)} imports {name}" for node, name in absolute_imports(path) if name == "unittest"]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and dotted(node.func) == "setattr":
                changed = [f"{dotted(node.args[0])}."]
            elif isinstance(node, ast.Call) and dotted(node.func) in CHANGES:
                changed = [dotted(node.func)]
            elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
                targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
                changed = [dotted(target.value if isinstance(target, ast.Subscript) else target) for target in targets]
            else:
                continue
            wrong += [f"{at(path, node)} changes {name}" for name in changed if name.startswith(("torch.", "os."))]
    assert not wrong


def test_starting_the_pack_imports_nothing_heavy():
    """Catches a pack that slows ComfyUI's start by seconds for people who never use it."""
    modules = "blip3o_core, blip3o_core.prompts.vocabulary, blip3o_core.checkpoint.checkpoint"
    heavy = {"transformers", "diffusers", "tokenizers", "PIL"}
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
