"""`blip3o bench host` compares like with like."""

import numpy as np
import torch
from PIL import Image

from benchmarks import host


def test_the_host_and_the_library_draw_the_same_picture(monkeypatch):
    """An overhead that is another dtype, other settings, or a cached result of the server."""
    pictures = []
    compare = host._compare

    def looking(pipeline, client, folder, batch, side, runs):
        row = compare(pipeline, client, folder, batch, side, runs)
        for path in (folder / "0.png", *sorted(folder.glob("output/picture_*.png"))):
            pictures.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
        return row

    monkeypatch.setattr(host, "_compare", looking)
    [row] = host.run(torch.device("cpu"), 2, quick=True)
    assert row["batch"] == 1 and row["pixels"] == 64 and row["runs"] == 2
    assert 0 < row["server_s"] <= row["asked_s"] and row["library_s"] > 0
    library, *server = pictures
    # The last of three seeds: nothing came from the server's cache, and nothing is saved twice.
    assert len(server) == 3 and abs(library - server[-1]).max() <= 1
    assert abs(server[0] - server[1]).max() > 20
