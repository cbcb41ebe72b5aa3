"""`blip3o bench host` compares like with like."""

import io
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import host
from tests.support.device import needs_cpu


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.long
@needs_cpu
def test_the_host_and_the_library_draw_the_same_picture(monkeypatch, server, client):
    """An overhead that is another dtype, other settings, or a cached result of the server."""
    library, results = [], []
    compare, finished = host._compare, host._finished

    def looking(pipeline, client, folder, *rest):
        row = compare(pipeline, client, folder, *rest)
        library.append(pixels(folder / "0.png"))
        return row

    def noting(result):
        results.append(result)
        return finished(result)

    monkeypatch.setattr(host, "_compare", looking)
    monkeypatch.setattr(host, "_finished", noting)
    monkeypatch.setattr("tools.comfyui.server.Server", lambda *_, **__: nullcontext(server))
    [row] = host.run(torch.device("cpu"), 2, quick=True)
    assert row["batch"] == 1 and row["pixels"] == 64 and row["runs"] == 2
    assert {"library_s", "server_s", "asked_s", "added_percent"} <= row.keys()
    # The last of three seeds: nothing came from the server's cache, and nothing is saved twice.
    images = [pixels(io.BytesIO(client.view(**result.images[0]))) for result in results]
    assert len(images) == 3 and abs(library[0] - images[-1]).max() <= 1
    assert abs(images[0] - images[1]).max() > 20
