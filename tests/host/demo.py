"""`make demo` and `make serve`: the pack in a real ComfyUI, on a tiny random checkpoint, with nothing to download."""

import argparse
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.environment import TOP
from tests.host.server import Server
from tests.host.workflow import load_workflow, to_prompt
from tests.tiny_checkpoint import make_checkpoint

# The tiny checkpoint stands in under the name that the sample workflows ask for, so they run as they are.
CHECKPOINT = "BLIP3o-NEXT-GRPO-TexT-3B"


@contextmanager
def tiny_server(base: Path | None = None, **options):
    """A running Server whose one checkpoint is the tiny one; `base` as for Server, a temporary folder if not given."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(base or scratch)
        make_checkpoint(base / "models" / "blip3o" / CHECKPOINT)
        with Server(base, **options) as server:
            yield server


def draw(output: Path) -> list[Path]:
    """Run workflows/text_to_image.json over HTTP and keep its pictures in `output`."""
    with tiny_server() as server, server.client() as client:
        started = time.monotonic()
        result = client.run(to_prompt(load_workflow("text_to_image"), client.object_info()), timeout=600)
        if result.status != "success":
            raise SystemExit(f"{result.status}: {result.error.get('exception_message')}\n{server.log_text()[-4000:]}")
        print(f"drew in {time.monotonic() - started:.1f} s, {len(result.previews)} previews on the way")
        output.mkdir(exist_ok=True)
        files = []
        for image in result.images:
            files.append(output / image["filename"])
            files[-1].write_bytes(client.view(**image))
        return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--port", type=int, default=8188)
    arguments = parser.parse_args()
    if not arguments.serve:
        for file in draw(TOP / "output"):
            print(f"picture: {file} (a random model draws noise; it shows that everything works)")
        return
    with suppress(KeyboardInterrupt), tiny_server(port=arguments.port) as server:
        print(f"ComfyUI with the pack: http://{server.address} (log: {server.log}; Ctrl-C ends it)", flush=True)
        server.process.wait()


if __name__ == "__main__":
    main()
