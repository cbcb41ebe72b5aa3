import pytest

from tools.comfyui.frontend import open_frontend
from tools.environment import browser_path, why_no_browser


@pytest.fixture(scope="session")
def page(server):
    """One page for all tests: ComfyUI's frontend takes five seconds to start."""
    if browser_path() is None:
        pytest.skip(why_no_browser())
    with open_frontend(server.address) as opened:
        yield opened


@pytest.fixture
def frontend(page):
    page.reset()
    yield page
    assert not page.errors, "uncaught exceptions in the page"
