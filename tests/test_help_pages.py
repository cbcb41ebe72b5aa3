"""What ComfyUI shows as help of a node."""

import pytest

from tests.support.paths import TOP

PAGES = sorted((TOP / "web" / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_help_page_has_an_example_in_both_languages(page):
    """Catches help that lists inputs without one value that works."""
    english, chinese = (file.read_text(encoding="utf-8") for file in (page, page.with_suffix("") / "zh.md"))
    assert 1 <= english.count("**Example") == chinese.count("**示例")
