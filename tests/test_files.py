"""Files that appear whole or not at all, and files that are not what their names say."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blip3o_core import files
from blip3o_core.checks import require_finite
from blip3o_core.errors import Blip3oError, bullet_list, first_line, shown
from blip3o_core.files import (
    atomic_write,
    check_writable,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    split_lines,
    write_json,
)
from tests.support.paths import TOP


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_gets_its_name_when_it_is_whole(tmp_path, durable):
    """Catches a reader that sees half a file."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path, durable) as scratch:
        scratch.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        scratch.write_bytes(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    """Catches a failed or cancelled save that destroys the file before it, or leaves its scrap beside it."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as scratch:
        scratch.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_with_a_hole_is_refused(value):
    """Catches black pictures that nobody is told about."""
    with pytest.raises(Blip3oError, match=r"The mask contains NaN or infinite values. Draw it again\."):
        require_finite(torch.tensor([0.0, value]), "The mask", "Draw it again.")
    require_finite(torch.zeros(2), "The mask", "Draw it again.")


def test_a_long_list_says_how_much_is_left_out():
    """Catches an error of ten thousand lines."""
    assert bullet_list(["a", "b", "c"], most=2) == "  a\n  b\n  and 1 more"
    assert bullet_list(["a"], most=2) == "  a"


def test_json_that_cannot_be_written_leaves_the_file_before(tmp_path):
    """Catches a report that is cut short by the value it cannot hold."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path):
    """Catches a pipe in place of a file, which a reader waits for without end, and a device, which never ends."""
    pipe, channel = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(channel))
        for path, kind in ((pipe, "a pipe"), (tmp_path, "a folder"), (os.devnull, "a device"), (channel, "")):
            with pytest.raises(Blip3oError, match=rf"{kind}.* Choose another\.$"):
                open_regular(path, "Choose another.")
    for name in ("missing", "x" * 5000, "a\0b", "\ud800"):
        with pytest.raises(Blip3oError, match=r" Choose another\.$") as caught:
            open_regular(tmp_path / name, "Choose another.")
        assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_a_file_of_any_size_is_not_believed(tmp_path):
    """Catches a sparse file of terabytes that fills the memory."""
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(Blip3oError, match=r"has 1,099,511,627,776 bytes; at most"):
        read_json(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    """Catches advice to download again what git has to fetch."""
    path = tmp_path / "tokenizer.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 11422654\n")
    with pytest.raises(Blip3oError, match="is a Git LFS pointer.*git lfs pull"):
        read_json(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "1" * 5000, "[]", ""])
def test_json_that_is_no_object_is_one_sentence(tmp_path, text):
    """Catches RecursionError and other tracebacks out of a config file."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(Blip3oError, match=r"config\.json .*Copy it again") as caught:
        read_json(path)
    assert len(str(caught.value)) < 500


def test_lines_are_what_editors_call_lines(tmp_path):
    """Catches a prompt that is cut in two at U+2028 or a vertical tab, a byte-order mark, and Windows' line ends."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa\u2028b\r\nc\x0bd\x85\n\re\n".encode())
    assert read_lines(path) == ["a\u2028b", "c\x0bd\x85", "", "e"]
    assert split_lines("") == []
    path.write_bytes("\ufeffa\n\ufeffb\n".encode())
    assert read_lines(path) == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "says"),
    [("cp1252", "line 2"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32-be", "UTF-16"), ("gbk", "line 2")],
)
def test_text_in_another_encoding_is_named(tmp_path, encoding, says):
    """Catches a UnicodeDecodeError that names neither the file nor what to do."""
    path = tmp_path / "prompts.txt"
    text = "first\n\u7ea2 second" if encoding != "cp1252" else "first\ncaf\xe9 second"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(Blip3oError, match=r"prompts\.txt.*not UTF-8.*Save it") as caught:
        read_text(path)
    assert says in str(caught.value)


def test_the_faulty_byte_is_where_the_message_says(tmp_path):
    """Catches a place counted without the byte-order mark, or with lines of one system only."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa\rb\r\nc\n d\xff")
    with pytest.raises(Blip3oError, match=r"line 4, is not UTF-8 text: byte 12 is 0xff"):
        read_text(path)


def test_a_line_that_is_no_line_is_refused(tmp_path, monkeypatch):
    """Catches a prompt of a gigabyte that keeps the tokenizer busy for hours."""
    monkeypatch.setattr(files, "LINE_LIMIT", 10)
    (tmp_path / "a.txt").write_text("a\n" + "b" * 11)
    with pytest.raises(Blip3oError, match=r"a\.txt, line 2, has 11 characters"):
        read_lines(tmp_path / "a.txt")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="a file of the system, of Linux")
def test_a_file_that_says_it_is_empty_is_not_read_without_end():
    """Catches a limit that believes the size in the folder: files of the system have none."""
    with pytest.raises(Blip3oError, match="more than 10 bytes"):
        read_bytes(Path("/proc/self/maps"), "Choose another.", 10)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_a_name_that_stands_twice_is_refused(text):
    """Catches the first of two images dropped without a word."""
    with pytest.raises(Blip3oError, match="x cannot be read as JSON: 'a' stands in one object twice. Mend it"):
        parse_json(text, "x", "Mend it.")


def test_a_reason_is_never_empty():
    """Catches messages that end in a colon, and ones that are many lines long."""
    assert first_line(RuntimeError()) == "RuntimeError"
    assert first_line(RuntimeError("\n a \n b")) == "a"
    assert shown("a\0" * 500) == repr("a\0" * 500)[:200] + "... (2,502 characters)"


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    """Catches a scratch name that is longer than its file's and too long."""
    path = tmp_path / ("\u4e00" * 85)
    with atomic_write(path) as scratch:
        scratch.write_bytes(b"a")
    assert path.read_bytes() == b"a"


def test_a_folder_is_tried_before_work_begins(tmp_path):
    """Catches minutes of drawing thrown away for a folder that cannot be written, and traces of the trial."""
    check_writable([tmp_path / "new" / "deep" / "a.png", tmp_path / "b.png"])
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "file").touch()
    for name, reason in (
        ("file/below", "file"), ("x" * 300, "File name too long"), ("a\0b", "null"), ("new", "it is a folder"),
    ):  # fmt: skip
        with pytest.raises(Blip3oError, match=reason):
            check_writable([tmp_path / name])


ROOT = hasattr(os, "geteuid") and os.geteuid() == 0  # root may write everywhere


@pytest.mark.parametrize("how", ["simulated", *([] if ROOT or os.name == "nt" else ["chmod"])])
def test_a_read_only_folder_is_refused(how, tmp_path, monkeypatch):
    """Catches a read-only folder noticed only when the picture is finished, or as a bare PermissionError."""
    if how == "chmod":
        tmp_path.chmod(0o500)
    else:
        real = os.open

        def refuse(path, flags, *args, **kwargs):
            if Path(path).is_relative_to(tmp_path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)
    try:
        with pytest.raises(Blip3oError, match="Cannot write") as caught:
            check_writable([tmp_path / "a.png"])
    finally:
        tmp_path.chmod(0o700)
    message = str(caught.value)
    assert str(tmp_path) in message and "Permission denied" in message and "Choose another --out" in message
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    """Catches scraps that stay for ever, a file taken from under a running process, and a user's file deleted."""
    others = [".00000.png.part", ".a.png.0123456g.part", "a.png.01234567.part", ".part"]
    for name in [".00000.png.01234567.part", *others]:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "a.png") as scratch:
        check_writable([tmp_path / "b.png"])
        assert {path.name for path in tmp_path.iterdir()} == {*others, scratch.name}
        scratch.write_bytes(b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "a.png"}


@pytest.mark.skipif(os.name == "nt", reason="a limit on a file's size")
def test_a_full_disk_is_said_in_one_sentence(tmp_path):
    """Catches a traceback, half a file and a lost earlier one where no room is left."""
    code = (
        "import resource, pathlib; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from blip3o_core.files import write_json; write_json(pathlib.Path('a.json'), {'a': 'x' * 9999})"
    )
    (tmp_path / "a.json").write_text("earlier")
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Blip3oError: Cannot write a.json: File too large. Free some space" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "earlier"
