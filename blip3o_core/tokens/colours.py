"""The colours in which image tokens are shown: a pixel a token."""

import torch


def code_colours(embedding: torch.Tensor) -> torch.Tensor:
    """(K, D) embeddings of the image tokens -> (K, 3) uint8: similar codes get similar colours.

    Three fixed random directions of the embedding, each stretched so that two standard deviations fill the range.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    directions = torch.randn(embedding.shape[1], 3, generator=generator).to(embedding)
    places = (embedding @ directions).float()
    places = (places - places.mean(0)) / places.std(0).clamp(min=1e-12)
    return ((places / 4 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


ACROSS, MOST_SHOWN = 8, 64  # images of a mosaic


def mosaic(codes: torch.Tensor, colours: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The first n codes of rows (B, n) -> (h, w, 3) uint8, one pixel a token, black where none is written yet.

    Images stand side by side, ACROSS in a line; only the first MOST_SHOWN are shown. So the shape stays near a square
    however many there are: a strip of a thousand, made small, has no height.
    """
    height, width = grid
    codes = codes[:MOST_SHOWN].cpu()
    across = min(len(codes), ACROSS)
    lines = -(-len(codes) // across)
    canvas = torch.zeros(lines * across, height * width, 3, dtype=torch.uint8)
    canvas[: len(codes), : codes.shape[1]] = colours[codes.clamp(0, len(colours) - 1)]
    return canvas.view(lines, across, height, width, 3).movedim(1, 2).reshape(lines * height, across * width, 3)
