"""Pages name files, modules and headings that exist."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.support.paths import TOP

# The log and the measurements speak of the past, with the names of then.
PAGES = [
    *TOP.glob("*.md"),
    *(page for page in (TOP / "docs").glob("*.md") if page.name != "LOG.md"),
    *(TOP / "web" / "docs").glob("*.md"),
    TOP / "tests" / "golden" / "README.md",
]
FOLDERS = "blip3o_core|nodes|tests|tools|benchmarks|docs|workflows|subgraphs|web|locales"
FILE = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w")
# benchmarks.md is a page.
DOTTED = re.compile(r"(?<![\w./-])(?!benchmarks\.md\b)(?:blip3o_core|tools|benchmarks)(?:\.\w+)+")
IMPORT = re.compile(r"^from (blip3o_core[\w.]*) import (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def lines(pattern: re.Pattern, pages=PAGES):
    """(page:line, match) of every place where the pattern stands in a page."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            yield page, f"{page.relative_to(TOP)}:{text.count(chr(10), 0, match.start()) + 1}", match


def module_path(names: list[str]) -> Path | None:
    path = TOP.joinpath(*names)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def names_in(file: Path) -> set[str]:
    """What a module defines or imports at its top."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def exists(dotted: str) -> bool:
    """A module, a folder of modules, or a name in a module (and whatever is below that name)."""
    names = dotted.split(".")
    for end in range(len(names), 0, -1):
        file = module_path(names[:end])
        if file is not None:
            return end == len(names) or names[end] in names_in(file)
    return False


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_files_named_in_pages_exist():
    """Catches a page that sends its reader to a file that was moved or renamed."""
    wrong = [f"{place} names {match[0]}" for _, place, match in lines(FILE) if not (TOP / match[0]).exists()]
    assert not wrong


def test_modules_and_names_in_pages_exist():
    """Catches an example that cannot be imported, and prose about a module that was renamed."""
    wrong = [f"{place} names {match[0]}" for _, place, match in lines(DOTTED) if not exists(match[0])]
    for _, place, match in lines(IMPORT):
        names = [name.strip() for name in match[2].split(",")]
        wrong += [f"{place} imports {name} from {match[1]}" for name in names if not exists(f"{match[1]}.{name}")]
    assert not wrong


def test_rooms_on_the_plan_have_the_modules_it_names():
    """Catches a plan of the house that shows doors which were walled up."""
    rows = re.compile(r"^\| `(?!blip3o_core)(\w+)/`.*\| ([^|]+) \|$", re.MULTILINE)
    found = list(lines(rows, [TOP / "docs" / "ARCHITECTURE.md"]))
    assert len(found) > 8
    wrong = []
    for _, place, match in found:
        names = re.findall(r"`([a-z_/]+)`", match[2])
        wrong += [f"{place} names {name}" for name in names if not module_path(["blip3o_core", match[1], name])]
    assert not wrong


def test_links_between_pages_lead_somewhere():
    """Catches a link to a page that was renamed, and an anchor whose heading was reworded."""
    wrong = []
    for page, place, match in lines(LINK):
        target, _, anchor = match[1].partition("#")
        if "://" in target:
            continue
        file = (page.parent / target) if target else page
        if not file.exists():
            wrong.append(f"{place} links to {target}")
        elif anchor and anchor not in map(slug, re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)):
            wrong.append(f"{place} links to {match[1]}, which has no such heading")
    assert not wrong


def test_every_page_is_in_the_index():
    """Catches a page that nobody finds."""
    index = (TOP / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (TOP / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]
