"""Pictures on disk: whole or not at all, settings inside."""

import zlib

import pytest
import torch
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.images.png import is_made_with, read_settings, save_png
from tests.support.image_files import chunk, png

PICTURE = torch.rand(6, 9, 3, generator=torch.Generator().manual_seed(0))
SETTINGS = {"prompt": 'naïve 日本 🦊 "quoted" \n two lines', "seed": 2**64 - 1, "guidance": 2.0, "size": "9x6"}


def test_a_picture_keeps_its_pixels_and_settings(tmp_path):
    """Catches swapped sides, truncated instead of rounded values, and settings that lose a character."""
    path = tmp_path / "a.png"
    save_png(path, PICTURE, SETTINGS)
    with Image.open(path) as saved:
        assert (saved.format, saved.size, saved.mode) == ("PNG", (9, 6), "RGB")
        pixels = torch.tensor(list(saved.tobytes())).reshape(6, 9, 3)
    assert torch.equal(pixels, (PICTURE * 255).round().long())
    assert read_settings(path) == SETTINGS
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_named_in_bytes_that_are_no_text_loses_no_image(tmp_path):
    """Catches an image that is drawn for minutes and then not saved, because its checkpoint's name is no UTF-8."""
    settings = {"checkpoint": "\udcc4\udce3", "prompt": "日本"}
    save_png(tmp_path / "a.png", PICTURE, settings)
    assert read_settings(tmp_path / "a.png") == settings


def of(text: bytes, compressed: int = 0) -> bytes:
    """A PNG with `text` where our settings stand."""
    return png(2, 1, b"\0\0\0", before=chunk(b"iTXt", b"blip3o\0" + bytes([compressed]) + b"\0\0\0" + text))


NOT_OURS = {
    "no text": (png(2, 1, b"\0\0\0"), "contains no blip3o settings"),
    "settings that are a number": (of(b"5"), "contains no blip3o settings"),
    "settings that are no JSON": (of(b"a red circle"), "cannot be read as JSON"),
    "settings 100,000 deep": (of(b"[" * 10**5), "nested too deeply"),
    "a text of 100 MB": (of(zlib.compress(b"[" * 10**8, 9), 1), "is not a whole PNG image"),
    "half a file": (of(b"{}")[:70], "is not a whole PNG image"),
    "another format": (b"GIF89a", "is not a whole PNG image"),
    "nothing": (b"", "is not a whole PNG image"),
    "2^31 pixels a side": (png(2**31 - 1, 2**31 - 1, b""), "is not a whole PNG image"),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_an_image_that_is_not_ours_has_no_settings(name, tmp_path):
    """Catches an empty answer or a traceback for a file of another program, and one taken for an image of a run."""
    data, reason = NOT_OURS[name]
    (tmp_path / "other.png").write_bytes(data)
    with pytest.raises(Blip3oError, match=f"other.png.*{reason}.*Use the file as it was made"):
        read_settings(tmp_path / "other.png")
    assert not is_made_with(tmp_path / "other.png", {})


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "^C"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_an_interrupted_save_leaves_no_partial_file(error, existing, tmp_path, monkeypatch):
    """Catches half a PNG under the final name, a lost earlier picture, and temporary files left behind."""
    path = tmp_path / "a.png"
    if existing:
        path.write_bytes(b"earlier")

    def half(self, target, *args, **kwargs):
        with open(target, "wb") as file:
            file.write(b"\x89PNG half")
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    expected = Blip3oError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_png(path, PICTURE, {})
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    assert not existing or path.read_bytes() == b"earlier"


def test_a_failed_rename_leaves_no_temporary_file(tmp_path):
    """Catches temporary files left where the final name is taken by a folder."""
    (tmp_path / "a.png" / "inside").mkdir(parents=True)
    with pytest.raises(Blip3oError, match="a.png"):
        save_png(tmp_path / "a.png", PICTURE, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
