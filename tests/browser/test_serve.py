"""The address that `make serve` prints."""

import requests

from tools.serve import SAMPLE, sample_url

NAMED = "name => window.app?.extensionManager?.workflow.activeWorkflow?.filename.includes(name)"


def test_the_address_opens_the_sample(page, server):
    """Catches an address that opens an empty graph, or the list of templates that covers a first visit."""
    seen = f"http://{server.address}/settings/Comfy.TutorialCompleted"
    requests.post(seen, json=False, timeout=30).raise_for_status()
    opened = page.page.context.browser.new_page()
    try:
        opened.goto(sample_url(server.address), wait_until="domcontentloaded")
        opened.wait_for_function(NAMED, arg=SAMPLE, timeout=60_000)
        types = opened.evaluate("() => window.app.graph.nodes.map(node => node.type)")
        assert "BLIP3oTokenGenerator" in types and "SaveImage" in types
        assert opened.locator("[role=dialog]:visible").count() == 0
    finally:
        opened.close()
        requests.post(seen, json=True, timeout=30).raise_for_status()
