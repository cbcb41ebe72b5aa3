"""`make screenshots`: what README and docs show of the sample workflows, taken in ComfyUI's own frontend.

Each workflow is opened and run, and the page with its results is written to docs/images.
"""

import tempfile
from pathlib import Path

from tools.comfyui.frontend import Frontend, open_frontend
from tools.comfyui.server import Server
from tools.comfyui.workflow import load_workflow
from tools.environment import TOP

IMAGES = TOP / "docs" / "images"
SHOWN = {"text_to_image.png": "BLIP3o-1-Text-to-Image"}  # the image's name: the workflow's
SIZE = {"width": 2200, "height": 1100}  # pixels
READABLE = 0.62  # the canvas leaves out all text below 60 % zoom


def run_in_page(frontend: Frontend, workflow: dict) -> list[tuple[str, dict]]:
    """Open a UI-format workflow and run it; gives the events of the run."""
    frontend.load(workflow)
    ended, events = frontend.run(timeout=300)
    if ended != "execution_success":
        raise RuntimeError(f"the run ended with {ended}: {events[-1]}")
    return events


def take(frontend: Frontend, name: str, file: Path) -> None:
    """Run the workflow and write the page, as large as its texts need, to `file`."""
    run_in_page(frontend, load_workflow(name))
    frontend.page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    frontend.page.get_by_text("Job completed").wait_for()
    frontend.page.get_by_text("Job completed").wait_for(state="hidden")
    frontend.page.set_viewport_size(SIZE)
    frontend.screenshot(file)
    zoom = frontend.page.evaluate("() => window.app.canvas.ds.scale")
    if zoom < READABLE:
        frontend.page.set_viewport_size({side: round(length * READABLE / zoom) for side, length in SIZE.items()})
        frontend.screenshot(file)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server, server.client() as client:
        for file, name in SHOWN.items():
            client.free()  # tokens from the cache of another workflow would show no preview
            with open_frontend(server.address) as frontend:
                take(frontend, name, IMAGES / file)
                print(f"docs/images/{file}")


if __name__ == "__main__":
    main()
