"""One page for each look: the renderer of nodes, and the language. Rows of a look follow each other."""

import os
from pathlib import Path

import pytest
import requests

from tests.browser.tour.steps import LOOKS, Tour
from tools.comfyui.frontend import SIZE, Frontend

PLAIN = {"Comfy.VueNodes.Enabled": False, "Comfy.Locale": "en"}


@pytest.fixture(scope="module")
def look(request, page, server):
    """ComfyUI keeps settings for all pages of a user: those of other modules must find the usual ones."""
    base = f"http://{server.address}"
    for name, value in LOOKS[request.param].items():
        requests.post(f"{base}/settings/{name}", json=value, timeout=30).raise_for_status()
    context = page.page.context.browser.new_context(viewport=SIZE)
    try:
        yield request.param, Frontend(context.new_page(), base)
    finally:
        context.close()
        for name, value in PLAIN.items():
            requests.post(f"{base}/settings/{name}", json=value, timeout=30).raise_for_status()


@pytest.fixture
def tour(look, client, tmp_path):
    """Screenshots go to the test's folder, or to the one that BLIP3O_TEST_SCREENSHOTS names."""
    name, frontend = look
    frontend.reset()
    folder = Path(os.environ.get("BLIP3O_TEST_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    yield Tour(frontend, client, folder, name)
    assert not frontend.errors, "uncaught exceptions in the page"
