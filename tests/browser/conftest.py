import pytest

from tests.browser.frontend import NO_BROWSER, open_frontend
from tests.environment import browser_path


@pytest.fixture(scope="session")
def browser():
    if browser_path() is None:
        pytest.skip(NO_BROWSER)


@pytest.fixture
def frontend(browser, server):
    with open_frontend(server.address) as opened:
        yield opened
        assert not opened.errors, "uncaught exceptions in the page"
