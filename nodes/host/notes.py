"""Text on a node: its progress while it runs, and notes on its result that do not stop the run.

Progress is ComfyUI's own text under the widgets. Notes travel with the result, so that a result from the cache shows
them, too, and one without any takes the old ones away; web/js shows them.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import Image

from ...blip3o_core.checkpoint import bundled
from ...blip3o_core.prompts.encoder import PromptEncoder
from ...blip3o_core.tiny.scenes.flat import is_flat
from ...blip3o_core.tiny.scenes.known_words import unknown_words

# What web/js looks for in the result of a node: its notes, and who tells them. A one-click node shows those of all the
# nodes in it.
NOTES, TELLER = "blip3o_notes", "blip3o_teller"
MOST_WORDS = 12  # of a prompt, in a note
PROGRESS_SECONDS = 0.25  # at least, between two texts

_told: ContextVar[list[str] | None] = ContextVar("told", default=None)


def is_bundled(folder) -> bool:
    return str(folder) == str(bundled.BUNDLED)


def show(text: str) -> None:
    """On the node that is running, where the host has a page and can say which node that is."""
    try:
        from comfy_execution.progress import get_progress_state
        from comfy_execution.utils import get_executing_context
        from server import PromptServer
    except ImportError:
        return
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and hasattr(server, "send_progress_text"):
        # A node in a one-click node is not on the page: the text stands on the one that is.
        shown = get_progress_state().dynprompt.get_display_node_id(context.node_id)
        server.send_progress_text(text, shown, server.client_id)


@contextmanager
def collected() -> Iterator[list[str]]:
    """The notes that are told inside, in order."""
    told: list[str] = []
    before = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(before)


def tell(notes: list[str], level: int = logging.WARNING) -> None:
    """On the node, once its result is there, and in the log."""
    told = _told.get()
    for note in notes:
        if told is not None:
            told.append(note)
        logging.getLogger(__name__).log(level, "BLIP3o: %s", note)


class Speed:
    """Shows how many of `total` tokens are written, how fast, and how long the rest takes."""

    def __init__(self, total: int, rows: int):
        self._total, self._rows, self._first, self._shown = total, rows, 0, 0.0
        self._started: float | None = None

    def step(self, done: int) -> None:
        now = time.monotonic()
        if self._started is None:  # the first token waits for the prompt, so it tells nothing about the speed
            self._started, self._first = now, done
        elif done == self._total or now - self._shown >= PROGRESS_SECONDS:
            rate = (done - self._first) / max(now - self._started, 1e-9)
            images = f" in {self._rows} images" if self._rows > 1 else ""
            show(f"Tokens {done}/{self._total}{images}, {rate:.0f}/s, {(self._total - done) / rate:.0f} s left")
            self._shown = now


def of_prompts(prompts: list[str], encoder: PromptEncoder) -> list[str]:
    """Which words the bundled model, whose encoder it is, does not know."""
    words = list(dict.fromkeys(word for prompt in prompts for word in unknown_words(prompt, encoder.is_token)))
    if not words:
        return []
    more = f" and {len(words) - MOST_WORDS} more" if len(words) > MOST_WORDS else ""
    return [
        f"The bundled model knows few words. It does not know: {', '.join(words[:MOST_WORDS])}{more}. "
        "For photographs choose a published checkpoint in BLIP3o Loader."
    ]


def of_size(width: int, height: int, trained: int) -> list[str]:
    """That a size, in pixels, is far from the bundled model's."""
    if max(width, height) <= 2 * trained and min(width, height) >= trained / 2:
        return []
    return [
        f"The bundled model was trained at {trained}x{trained} pixels, and this image has {width}x{height}: shapes get "
        f"lost or repeat. Choose {trained}x{trained}, and enlarge the image with Upscale Image."
    ]


def of_photographs(images: list[Image.Image]) -> list[str]:
    """That the bundled model does not know what is on a reference image."""
    found = [str(k) for k, image in enumerate(images, 1) if not is_flat(image)]
    if not found:
        return []
    return [
        f"Reference image {' and '.join(found)} looks like a photograph. The bundled model knows only coloured "
        "shapes and short words, and will not keep it. To edit photographs choose a published edit checkpoint in "
        "BLIP3o Loader."
    ]


def of_batch(latents: int, rows: int) -> list[str]:
    """That more latents than token rows give nearly equal images."""
    if latents <= rows:
        return []
    return [
        f"latent_image has {latents} rows for {rows} row{'s' if rows > 1 else ''} of tokens: images of the same tokens "
        f"are nearly equal. For different images set batch_size of BLIP3o Token Generator to {latents}, and of the "
        "latent to 1."
    ]


def of_reference(tokens_have: bool, connected: bool) -> list[str]:
    """That a reference reaches only one of generator and conditioner."""
    if tokens_have == connected:
        return []
    here, there = ("this node", "BLIP3o Token Generator") if connected else ("BLIP3o Token Generator", "this node")
    return [f"The reference is connected to {here}, but not to {there}. For an edit connect it to both."]
