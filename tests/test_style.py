"""What users read is plain English: the worst patterns of "How we write" in CONTRIBUTING.md do not come back.

Looked at: pages, ComfyUI's texts of the nodes, and every string of several words in the code that is not a docstring.
"""

import ast
import re
from pathlib import Path

from tests.support.paths import TOP

# A pattern, and what to write in its place.
BANNED = {
    r"(?<!there )(?<!There )\b(is|are) no\b(?! longer)": "say what it is and what it has to be",
    r"\b[Oo]f another\b": "from a different, with another",
    r"\bbeside the (noise|noisy)\b|\b(picture|image) beside\b": "to the right of the noisy latent, mode 'noise'",
    r"\bways? (of|for) (a |the |its )?(reference|image)s?\b|\b(by|as) (every|each|its|which) way\b": "reference mode",
    r"\bgo(es)? on\b|\bwent on\b|\bgoing on\b": "continue, resume",
    r"\bas ever\b": "as before, unchanged",
    r"\b(come|comes|came|coming) along\b": "is included",
    r"\b[Pp]ictures?\b": "image",
    r"\b([Rr]e)?[Dd]r(aw|aws|ew|awn|awing)\b": "generate, render, run an edit, write tokens; only shapes are drawn",
    r"(^|[.!?:] )Of (the|these|those|its|[0-9])": "start with the subject",
    r"\bwhat made (it|them)\b": "name it: the checkpoint, the node",
}
PAGES = [
    TOP / "README.md",
    *(page for page in (TOP / "docs").glob("*.md") if page.name != "LOG.md"),
    *(TOP / "web" / "docs").glob("*.md"),
    *(TOP / "locales").rglob("*.json"),
]
# The captions of the tiny world are what its model was trained on.
CODE = [
    file
    for folder in ("blip3o_core", "nodes", "tools", "benchmarks")
    for file in (TOP / folder).rglob("*.py")
    if file.parent != TOP / "blip3o_core" / "tiny" / "scenes"
]


def sentences(page: Path):
    """(line number, text) of a page's lines outside of code and links."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        inside ^= line.startswith("```")
        if not inside and not (page.suffix == ".md" and line.startswith("    ")):
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)


def text_of(node: ast.AST) -> str:
    """The text of a string or an f-string, values as {}."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def messages(file: Path):
    """(line number, text) of every string of several words that is not a docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    skipped |= {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node not in skipped and text_of(node).count(" ") > 2:
            yield node.lineno, text_of(node)


def test_what_users_read_is_plain_english():
    """Catches sentences that had to be read twice. Each is named with its place and with what to write instead."""
    read = [(file, *found) for file in PAGES for found in sentences(file)]
    read += [(file, *found) for file in CODE for found in messages(file)]
    assert len(read) > 1500, "most of the texts are not where this test looks for them"
    wrong = [
        f"{file.relative_to(TOP)}:{line}: {match[0].strip()!r}; better: {better}"
        for file, line, text in read
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, text)
    ]
    assert not wrong
