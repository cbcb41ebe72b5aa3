"""Image tokens to look at."""

import torch

from blip3o_core.tokens.show import codes_as_text, grid_images, side_by_side


def test_a_cell_has_the_colour_of_its_code():
    """Catches a grid that is turned, and codes of words that stop the run."""
    colours = torch.arange(9, dtype=torch.uint8).view(3, 3) * 20
    image = grid_images(torch.tensor([[0, 1, 2, 99, -5]]), colours, (2, 3), 4)
    assert image.shape == (1, 8, 12, 3)
    cells = (image[0, ::4, ::4] * 255).round().byte()
    assert torch.equal(cells[0], colours) and torch.equal(
        cells[1], torch.stack([colours[2], colours[0], colours[0] * 0])
    )
    assert torch.equal(image[0, :4, :4], image[0, 0, 0].expand(4, 4, 3))


def test_only_different_cells_are_bright():
    """Catches marks that are in another cell than the difference."""
    one, other = torch.full((1, 8, 8, 3), 0.5), torch.full((1, 8, 8, 3), 0.7)
    differ = torch.tensor([[[False, True], [False, False]]])
    both = side_by_side((one, other), differ, 4)
    assert both.shape == (1, 8, 8 + 4 + 8, 3)
    assert both[0, 0, 4].tolist() == [1, 1, 1] and bool((both[0, 1:3, 5:7] == 0.5).all())
    assert bool((both[0, 1:3, 17:19] == 0.7).all()) and float(both[0, 4:].max()) < 0.2


def test_every_token_has_a_line(pipeline):
    """Catches rows and columns mixed up, and images that cannot be told apart."""
    tokens = pipeline.generate_tokens(["a", "b"], [1, 2])
    lines = codes_as_text(tokens).splitlines()
    width, cells = tokens.grid[1], tokens.codes.shape[1]
    assert len(lines) == 1 + 2 * cells and lines[0] == "image,row,column,code"
    assert lines[1 + cells + width + 2] == f"1,1,2,{int(tokens.codes[1, width + 2])}"
