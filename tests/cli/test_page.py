"""docs/cli.md lists the options that there are."""

from tools import command_page


def test_the_page_has_every_option():
    """Catches a page that was not written again after an option changed: run python -m tools.command_page."""
    assert command_page.PAGE.read_text(encoding="utf-8") == command_page.page()
