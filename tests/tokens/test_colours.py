"""The colours that show image tokens while they are written."""

import errno
import logging
import os

import pytest
import torch
from safetensors.torch import save_file

from blip3o_core.files import atomic_write
from blip3o_core.tokens import colours as module
from blip3o_core.tokens.colours import MOST_FILES, code_colours, grid_colours, learn, mosaic, read_colours


def test_similar_codes_get_similar_colours():
    """Catches colours drawn at random, all alike, or other ones at every start."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.randn(8, 24, generator=generator)
    embedding = kinds.repeat_interleave(12, 0) + 0.01 * torch.randn(96, 24, generator=generator)
    colours = code_colours(embedding)
    assert colours.shape == (96, 3) and colours.dtype == torch.uint8
    assert torch.equal(colours, code_colours(embedding))
    groups = colours.float().view(8, 12, 3)
    assert groups.std(1).max() < 5 < groups.mean(1).std(0).min()


def test_colours_do_not_touch_the_global_generator():
    """Catches a preview that changes other nodes' random numbers."""
    before = torch.random.get_rng_state()
    code_colours(torch.ones(4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("done", [0, 1, 7, 15])
def test_a_mosaic_shows_what_is_written_row_by_row(done):
    """Catches a preview that is transposed, mixes up rows of a batch, or fails on a text token."""
    colours = torch.arange(1, 31, dtype=torch.uint8).view(10, 3)
    codes = torch.randint(10, (2, 15), generator=torch.Generator().manual_seed(0))[:, :done]
    codes[:, :1] = -200
    picture = mosaic(codes, colours, (3, 5))
    assert picture.shape == (3, 10, 3)
    for row in range(2):
        for place in range(15):
            shown = picture[place // 5, row * 5 + place % 5]
            wanted = colours[codes[row, place].clamp(0)] if place < done else torch.zeros(3, dtype=torch.uint8)
            assert torch.equal(shown, wanted)


@pytest.mark.parametrize(("rows", "shape"), [(1, (3, 5, 3)), (9, (6, 40, 3)), (64, (24, 40, 3)), (2000, (24, 40, 3))])
def test_a_mosaic_of_many_rows_stays_near_a_square(rows, shape):
    """Catches a strip so long that it has no height when it is made small, which ends a server that sends it."""
    colours = torch.arange(30, dtype=torch.uint8).view(10, 3)
    codes = torch.randint(10, (rows, 15), generator=torch.Generator().manual_seed(0))
    picture = mosaic(codes, colours, (3, 5))
    assert picture.shape == shape
    if rows >= 9:
        assert torch.equal(picture[3:6, :5], colours[codes[8]].view(3, 5, 3))


def test_codes_without_a_learned_colour_take_it_from_around():
    """Catches arbitrary colours among true ones, a learned one that is changed, and colours of the image beside it."""
    colours = torch.tensor([[0, 0, 0], [200, 100, 0], [7, 7, 7]], dtype=torch.uint8)
    known = torch.tensor([False, True, False])
    shown = mosaic(torch.tensor([[1, 1, 1, 0, 1]]), colours, (3, 3), known)
    assert torch.equal(shown[0], colours[[1, 1, 1]]) and torch.equal(shown[1, 1], colours[1])
    assert (shown[1, 0].int() - colours[1].int()).abs().max() < 40
    assert not shown[1, 2].any() and not shown[2].any()
    alone = mosaic(torch.tensor([[0, 2]]), colours, (1, 2), known)
    assert torch.equal(alone, torch.full((1, 2, 3), 128, dtype=torch.uint8))
    apart = mosaic(torch.tensor([[1, 1], [2, 2]]), colours, (1, 2), known)
    assert torch.equal(apart[0, 2:], torch.full((2, 3), 128, dtype=torch.uint8))


def test_a_colour_is_the_mean_of_all_cells_of_its_code(tmp_path):
    """Catches a mean over images instead of cells, one that forgets, and a text token counted as a code."""
    generator, path = torch.Generator().manual_seed(2), tmp_path / "new" / "table.safetensors"
    codes = torch.randint(5, (9, 6), generator=generator)
    cells = torch.rand(9, 6, 3, generator=generator)
    images = cells.view(9, 2, 3, 3).repeat_interleave(4, 1).repeat_interleave(5, 2)
    codes[0, 0], codes[1, 1] = -3, 70
    for first, last in ((0, 1), (1, 5), (5, 9)):
        learn(path, 7, codes[first:last], (2, 3), images[first:last])
    table = read_colours(path, 7)
    for code in range(7):
        here = cells[codes == code]
        assert table.counts[code] == len(here) and table.known[code] == (len(here) > 0)
        if len(here):
            assert torch.allclose(table.means[code], here.mean(0), atol=1e-6)
    assert torch.equal(table.colours, (table.means * 255).round().to(torch.uint8))


def test_a_cell_of_the_grid_is_its_part_of_the_image():
    """Catches rows taken for columns, an alpha channel taken for a colour, sides that are no multiple of the grid."""
    image = torch.zeros(1, 10, 7, 4)
    image[:, :5, :, 0], image[:, :, 4:, 1], image[..., 3] = 1.0, 1.0, 0.5
    (top_left, top_right, low_left, low_right) = grid_colours(image, (2, 2))[0].tolist()
    assert top_left == [1, 0, 0] and low_left == [0, 0, 0]
    assert top_right == pytest.approx([1, 0.75, 0]) and low_right == pytest.approx([0, 0.75, 0])


def varied(rows: int = 1) -> torch.Tensor:
    return torch.rand(rows, 8, 8, 3, generator=torch.Generator().manual_seed(5))


FAILED = {"flat": torch.full((8, 8, 3), 0.3), "NaN": torch.rand(8, 8, 3), "infinite": torch.rand(8, 8, 3)}
FAILED["NaN"][1, 2, 0], FAILED["infinite"][3, 4, 1] = torch.nan, torch.inf


@pytest.mark.parametrize("bad", FAILED.values(), ids=FAILED)
def test_an_image_that_failed_teaches_nothing(tmp_path, bad):
    """Catches black, grey or NaN of a run that diverged, mixed into the colours for ever; its neighbours count."""
    path, codes = tmp_path / "table.safetensors", torch.arange(8).view(2, 4)
    learn(path, 8, codes[:1], (2, 2), bad[None])
    assert not path.exists()
    learn(path, 8, codes, (2, 2), torch.stack([bad, varied()[0]]))
    assert read_colours(path, 8).counts.tolist() == [0] * 4 + [1] * 4


def spoil(path, kind):
    tensors = {"means": torch.zeros(8, 3), "counts": torch.zeros(8, dtype=torch.int32)}
    content = {
        "other model": {"means": torch.zeros(9, 3), "counts": torch.zeros(9, dtype=torch.int32)},
        "weights": {"weight": torch.zeros(3)},
        "out of range": tensors | {"means": torch.full((8, 3), torch.nan)},
    }
    if kind in content:
        return save_file(content[kind], path)
    whole = path.read_bytes()
    header, padding = int.from_bytes(whole[:8], "little"), 5 * 2**20
    large = (header + padding).to_bytes(8, "little") + whole[8 : 8 + header] + b" " * padding + whole[8 + header :]
    return path.write_bytes(
        {"large": large, "cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello" * 99}[kind]
    )


KINDS = ["cut", "empty", "text", "other model", "weights", "out of range", "large"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_or_foreign_file_is_made_anew(tmp_path, caplog, kind):
    """Catches a file that stops every later run, or colours of another model."""
    path, codes = tmp_path / "table.safetensors", torch.tensor([[1, 2, 3, 4]])
    learn(path, 8, codes, (2, 2), varied())
    good = path.read_bytes()
    spoil(path, kind)
    with caplog.at_level(logging.DEBUG):
        assert not read_colours(path, 8).known.any()
    assert "are not used" in caplog.text and not [each for each in caplog.records if each.levelno > logging.DEBUG]
    learn(path, 8, codes, (2, 2), varied())
    assert path.read_bytes() == good and os.listdir(tmp_path) == [path.name]


def test_a_disk_that_is_full_loses_nothing(tmp_path, monkeypatch):
    """Catches a table that is cut or gone after a write that failed."""
    path, codes = tmp_path / "table.safetensors", torch.tensor([[1, 2, 3, 4]])
    learn(path, 8, codes, (2, 2), varied())
    good = path.read_bytes()

    def write(scratch, data):
        with open(scratch, "wb") as file:
            file.write(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", write)
    with pytest.raises(OSError, match="No space"):
        learn(path, 8, codes, (2, 2), varied())
    assert path.read_bytes() == good and os.listdir(tmp_path) == [path.name]


def test_what_another_process_has_learned_stays(tmp_path, monkeypatch):
    """Catches a table that is kept in memory and written over the other's, and a reader that meets half a file."""
    path, codes = tmp_path / "table.safetensors", torch.tensor([[1, 2, 3, 4]])
    learn(path, 8, codes, (2, 2), varied())
    before = read_colours(path, 8)

    def interrupted(target):
        assert torch.equal(read_colours(target, 8).means, before.means)
        return atomic_write(target)

    monkeypatch.setattr(module, "atomic_write", interrupted)
    learn(path, 8, codes + 3, (2, 2), varied())
    assert read_colours(path, 8).counts.tolist() == [0, 1, 1, 1, 2, 1, 1, 1]


def test_the_folder_does_not_grow_without_end(tmp_path):
    """Catches a megabyte left behind for every checkpoint that a training ever wrote, and the newest removed first."""
    for number in range(MOST_FILES + 3):
        path = tmp_path / f"{number}.safetensors"
        learn(path, 8, torch.tensor([[1, 2, 3, 4]]), (2, 2), varied())
        os.utime(path, (number, number))
    assert {int(path.stem) for path in tmp_path.iterdir()} == set(range(3, MOST_FILES + 3))


def test_the_largest_table_is_small(tmp_path):
    """Catches a table that takes longer to write than to learn: the published codebook has 65,536 codes."""
    path = tmp_path / "table.safetensors"
    learn(path, 65_536, torch.tensor([[1, 2, 3, 4]]), (2, 2), varied())
    assert path.stat().st_size < 1.5e6
