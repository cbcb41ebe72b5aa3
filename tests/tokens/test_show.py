"""Image tokens to look at."""

import torch

from blip3o_core.tokens.show import codes_as_text, grid_images, side_by_side


def test_a_cell_has_the_colour_of_its_code(pipeline):
    """Catches a grid that is turned, and images of a batch that are mixed up."""
    tokens = pipeline.generate_tokens(["a", "b"], [1, 2])
    colours = torch.randint(0, 256, (96, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = grid_images(tokens, 4, colours)
    height, width = tokens.grid
    assert image.shape == (2, 4 * height, 4 * width, 3)
    cells = (image[:, ::4, ::4] * 255).round().byte()
    assert torch.equal(cells.reshape(2, -1, 3), colours[tokens.codes])
    assert torch.equal(image[1, 4:8, :4], image[1, 4, 0].expand(4, 4, 3))


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
