"""Hooks of the site that `make docs` builds: pages outside of docs/ belong to it, and links between pages stay right.

On GitHub a page in docs/ links to `../CONTRIBUTING.md`, README to `docs/editing.md`. On the site all of them lie in one
place: README is its start, the list in docs/README.md a page, the nodes' help pages a folder.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).resolve().parent.parent
# Where a page of the repository lies on the site; one in docs/ that is not listed lies where it does there.
MOVED = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "docs/measurements": "pages.md",
    **{name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "README_ZH.md", "SECURITY.md")},
    **{f"web/docs/{page.name}": f"nodes/{page.name}" for page in sorted((TOP / "web/docs").glob("*.md"))},
}
_CAME_FROM = {there: here for here, there in MOVED.items() if here.endswith(".md")}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|[#/])([^)\s#]+)")
_INNER_LIST = re.compile(r"^ {2,3}(?=- )", re.MULTILINE)  # the site's Markdown indents these by four


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.remove(files.get_file_from_path("README.md"))
    for there, here in _CAME_FROM.items():
        files.append(File.generated(config, there, abs_src_path=str(TOP / here)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Each link to a file of the repository becomes one to its place on the site, seen from this page."""
    here = page.file.src_uri
    folder = posixpath.dirname(_CAME_FROM.get(here, f"docs/{here}"))

    def moved(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[0]))
        there = MOVED.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(there, posixpath.dirname(here) or ".")

    return _INNER_LIST.sub("    ", _LINK.sub(moved, markdown))
