"""Rough renders while tokens are written: what is shown changes, what is written does not, and nothing ends the run."""

import io

import pytest
from PIL import Image

from tools.comfyui.graphs import equal, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]


def with_renders(checkpoint: str = "tiny", **changes) -> dict:
    graph = text_to_image(checkpoint, **changes)
    graph["generate"]["inputs"] |= {"model": ["load", 1], "vae": ["load", 2]}
    return graph


def shown(result) -> list[tuple[int, int]]:
    """Sizes of what Token Generator showed."""
    previews = [preview for preview in result.previews if preview.metadata.get("node_id") == "generate"]
    return [Image.open(io.BytesIO(preview.image)).size for preview in previews]


def test_renders_take_the_place_of_the_mosaic_and_change_no_token(client, server):
    """Catches tokens, seeds or states that depend on what is shown, and renders that are not."""
    plain = client.run(text_to_image(seed=91, batch=5))
    rough = client.run(with_renders(seed=91, batch=5))
    assert rough.status == "success", rough.error
    assert equal(latents(server, rough), latents(server, plain))
    mosaics, renders = shown(plain), shown(rough)
    assert len(mosaics) == 5 and len(renders) == 3  # of 5 rows, 3 end a quarter
    assert set(renders).isdisjoint(mosaics) and all(width == 4 * height for width, height in renders)


def test_a_render_that_fails_leaves_the_mosaic(client, server):
    """Catches a preview that ends a run, or is tried again for every token."""
    before = len(server.log.read_text(errors="replace"))
    graph = with_renders(seed=92)
    graph["pixels"] = node("VAELoader", vae_name="pixel_space")
    graph["generate"]["inputs"]["vae"] = ["pixels", 0]
    result = client.run(graph)
    assert result.status == "success", result.error
    assert len(shown(result)) == 5
    assert server.log.read_text(errors="replace")[before:].count("the tokens so far are not rendered") == 1


def test_an_error_in_a_render_stops_rendering_and_nothing_else(in_host):
    """Catches an error that ends the whole run or comes again at each quarter, and a cancel that is swallowed."""

    def look(module):
        import comfy.model_management as mm
        import torch

        kind, calls = module(".nodes.host.rough").RoughRenders, []
        rough = object.__new__(kind)
        rough._works, rough._due, rough._rows, rough.shown = True, {5, 10}, 1, False

        def failing(codes):
            calls.append(codes.shape[1])
            raise errors.pop(0)

        kind._pixels = staticmethod(failing)
        errors, found = [mm.InterruptProcessingException(), torch.OutOfMemoryError("full")], []
        try:
            rough(5, lambda: torch.zeros(1, 5))
        except mm.InterruptProcessingException:
            found.append("cancelled")
        found += [rough(done, lambda: torch.zeros(1, 5)) for done in (4, 5, 10)]
        return [found, calls, rough.shown]

    assert in_host(look) == [["cancelled", None, None, None], [5, 5], False]


def test_cancelling_works_as_without(client, long_checkpoint):
    """Catches an interrupt that a render takes for an error of its own."""
    rows = []

    def stop(kind, data):
        if kind == "preview" and data.metadata.get("node_id") == "generate":
            rows.append(data)
            client.interrupt()

    result = client.run(with_renders("long", seed=93), on_event=stop)
    assert result.status == "interrupted" and result.error["node_id"] == "generate" and len(rows) < 40
