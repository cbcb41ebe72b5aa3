import pytest

from tools.comfyui.frontend import open_frontend
from tools.environment import browser_path, why_no_browser


@pytest.fixture(scope="session")
def browser():
    if browser_path() is None:
        pytest.skip(why_no_browser())


@pytest.fixture
def frontend(browser, server):
    with open_frontend(server.address) as opened:
        yield opened
        assert not opened.errors, "uncaught exceptions in the page"
