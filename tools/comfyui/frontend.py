"""ComfyUI's own frontend, driven as a user's browser would be.

The canvas has no DOM nodes to click, so graphs go in and out through the page's `app`; what users see comes back as
screenshots. Playwright drives the system's Chromium: it needs no browser of its own, and makes a fresh profile itself.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import requests

from tools.environment import browser_path, why_no_browser

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
EVENTS = ["execution_start", "execution_cached", "executing", "executed", "progress_state", "b_preview_with_metadata",
          "execution_success", "execution_error", "execution_interrupted"]  # fmt: skip
MOST_SHOTS = 30
ENDS = ["execution_success", "execution_error", "execution_interrupted"]
WATCH = """kinds => {
    window.__events = [];
    for (const kind of kinds) window.app.api.addEventListener(kind, event => {
        const blob = event.detail?.blob;
        window.__events.push([kind, blob ? {bytes: blob.size, node: event.detail.nodeId} : event.detail ?? null]);
    });
}"""


SIZE = {"width": 1600, "height": 900}  # pixels of the page
# A node that still hangs on the pointer would let it move what the next graph has selected.
RESET = """() => {
    window.app.canvas.finalizeGhostPlacement?.(true);
    window.app.clean();
    window.app.extensionManager.toast.removeAll();
    window.__events = [];
}"""
# ComfyUI's own command for it glides there.
FIT = """() => {
    const canvas = window.app.canvas, boxes = [...canvas.positionableItems].map(item => item.boundingRect);
    const [left, top] = [0, 1].map(axis => Math.min(...boxes.map(box => box[axis])));
    const [right, bottom] = [0, 1].map(axis => Math.max(...boxes.map(box => box[axis] + box[axis + 2])));
    canvas.ds.fitToBounds([left, top, right - left, bottom - top]);
    canvas.setDirty(true, true);
}"""
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@contextmanager
def open_frontend(address: str):
    """`with open_frontend(server.address) as frontend:`; RuntimeError naming the reason where there is no browser."""
    from playwright.sync_api import sync_playwright

    if browser_path() is None:
        raise RuntimeError(why_no_browser())
    # What the frontend notes after a user's first visit, which it covers with a dialog of templates.
    requests.post(f"http://{address}/settings/Comfy.TutorialCompleted", json=True, timeout=30).raise_for_status()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), headless=True, args=ARGUMENTS)
        try:
            yield Frontend(browser.new_page(viewport=SIZE), f"http://{address}")
        finally:
            browser.close()


class Frontend:
    """`.errors` holds the page's uncaught exceptions and `.foreign` the addresses it asked of other hosts, if any."""

    def __init__(self, page, base: str):
        self.page = page
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._note_request(request.url, base))
        page.goto(base, wait_until="domcontentloaded")
        # clientId is set once the websocket is up; before that, events would be lost.
        page.wait_for_function("() => window.app?.vueAppReady && window.app?.api?.clientId", timeout=120_000)
        page.evaluate(WATCH, EVENTS)

    def reset(self) -> None:
        """Leave nothing of what was opened or run before; loading the page anew takes five seconds."""
        self.page.set_viewport_size(SIZE)
        self.page.evaluate(RESET)
        self.page.wait_for_function("() => !document.querySelector('.p-toast-message')")
        self.errors.clear()

    def load(self, workflow: dict, template: bool = False) -> None:
        """Open a UI-format workflow, as dropping its file on the page or choosing it among the templates does."""
        source = {"openSource": "template"} if template else {}
        self.page.evaluate(
            "([workflow, how]) => window.app.loadGraphData(workflow, true, true, null, how)", [workflow, source]
        )

    def load_prompt(self, prompt: dict, name: str = "test") -> None:
        """Open an API-format prompt; the frontend lays its nodes out anew."""
        self.page.evaluate("([prompt, name]) => window.app.loadApiJson(prompt, name)", [prompt, name])

    def save(self) -> tuple[dict, dict]:
        """The open graph as (UI-format workflow, API-format prompt)."""
        # Through JSON, as saving to a file goes: fields that are undefined disappear.
        both = json.loads(self.page.evaluate("async () => JSON.stringify(await window.app.graphToPrompt())"))
        return both["workflow"], both["output"]

    def run(self, timeout: float = 120) -> tuple[str, list[tuple[str, dict]]]:
        """Queue the open graph and follow it to its end: which of ENDS it was, and all events so far."""
        self.page.evaluate("() => { window.__events = [] }")
        if self.page.evaluate("() => window.app.queuePrompt(0, 1)") is False:
            raise RuntimeError(f"the frontend did not queue the graph: {self.toasts()}")
        self.page.wait_for_function("ends => window.__events.some(event => ends.includes(event[0]))", arg=ENDS,
                                    timeout=timeout * 1000)  # fmt: skip
        events = [(kind, data) for kind, data in self.page.evaluate("() => window.__events")]
        return next(kind for kind, _ in events if kind in ENDS), events

    def toasts(self) -> list[str]:
        """What the page tells its user in notifications: red ones are how it reports a refused prompt."""
        return self.page.locator(".p-toast-message").all_inner_texts()

    def shown_images(self) -> list[str]:
        """File names of the images that nodes show."""
        return self.page.evaluate(
            "() => Object.values(window.app.nodeOutputs).flatMap(output => output.images ?? []).map(i => i.filename)"
        )

    def screenshot(self, file: Path) -> Path:
        """The page with the whole graph in view, once nothing moves any more: images fade in."""
        self.page.evaluate(TWO_FRAMES)  # the canvas takes the size of the page
        self.page.evaluate(FIT)
        self.page.evaluate(TWO_FRAMES)
        shots = [self.page.screenshot(animations="disabled")]
        while len(shots) < 2 or shots[-1] != shots[-2]:
            if len(shots) == MOST_SHOTS:
                raise RuntimeError(f"the page still changes after {MOST_SHOTS} screenshots")
            shots.append(self.page.screenshot(animations="disabled"))
        file.write_bytes(shots[-1])
        return file

    def _note_request(self, url: str, base: str) -> None:
        if url.startswith("http") and not url.startswith(base):
            self.foreign.append(url)
