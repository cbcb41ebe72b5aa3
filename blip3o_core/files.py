"""Files: written whole or not at all, and read only when they are regular files of a plausible size.

Every reader of text, JSON and lists goes through here, so that all of them agree on what a line and a character is, and
none waits for a pipe, reads a device or believes a file of any size.
"""

import contextlib
import csv
import io
import json
import os
import re
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .errors import Blip3oError, first_line, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEXT_LIMIT = 256 * 2**20  # bytes; the largest text of a checkpoint, tokenizer.json, has 11 MB
LINE_LIMIT = 16 * 2**20  # bytes
_ABANDONED = 24 * 3600  # seconds until a scratch file counts as left behind where files cannot be locked
_POINTER = b"version https://git-lfs"


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False, replace: bool = True) -> Iterator[Path]:
    """Yields a path beside `path` to write a file to; it becomes `path` when the block ends without an error.

    On an error `path` is as it was and nothing is left beside it. Several processes may write the same `path`: the last
    one wins. `durable`: the file is on the disk itself before it gets its name, for what must survive a power cut.
    `replace` False: raises NameTaken where `path` exists by then, also when another process has just made it.
    What a killed process leaves beside it, `remove_abandoned` removes.
    """
    # Short, because the name of `path` may be as long as the system allows; random, because threads write, too.
    scratch = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.part")
    try:
        with _locked(scratch):
            yield scratch
            if durable:
                sync(scratch)
            if replace:
                os.replace(scratch, path)
            else:
                _give_new_name(scratch, path)
        if durable:
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


class NameTaken(Blip3oError):
    """A file that was to be new has a name that exists."""


def _give_new_name(scratch: Path, path: Path) -> None:
    try:
        os.link(scratch, path)
    except OSError:
        # It exists, or the disk knows no links: there only the moment between these lines is open.
        if os.path.lexists(path):
            raise NameTaken(f"{shown(path)} exists already.") from None
        os.rename(scratch, path)


@contextlib.contextmanager
def _locked(scratch: Path) -> Iterator[None]:
    """Create the file and lock it; the lock ends with the process, however that ends. Windows has no such lock."""
    if fcntl is None:
        yield
        return
    handle = os.open(scratch, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a share without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(path: Path, refusal: str) -> Iterator[None]:
    """Nobody else holds the file `path` while the block runs; the hold ends with the process, however that ends.

    Raises Blip3oError, which says `refusal`, where somebody does. Windows and shares without locks hold nothing.
    """
    if fcntl is None:
        yield
        return
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Blip3oError(refusal) from None
        except OSError:  # a share without locks
            pass
        yield


def remove_abandoned(folder: Path) -> None:
    """Remove the scratch files in `folder` whose writers were killed."""
    for scratch in folder.glob(".*.part"):
        if re.fullmatch(r"\..{1,40}\.[0-9a-f]{8}\.part", scratch.name, re.DOTALL):
            with contextlib.suppress(OSError):
                if _is_abandoned(scratch):
                    scratch.unlink()


def _is_abandoned(scratch: Path) -> bool:
    facts = scratch.lstat()
    if not stat.S_ISREG(facts.st_mode):
        return False
    if fcntl is None:
        return time.time() - facts.st_mtime > _ABANDONED
    handle = os.open(scratch, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False  # somebody writes it
    except OSError:
        return time.time() - facts.st_mtime > _ABANDONED
    finally:
        os.close(handle)


def check_writable(paths: Sequence[Path], option: str = "--out") -> None:
    """Make the folders of the files `paths` where needed and try to write in them, before any work is done.

    Raises Blip3oError, which names `option`, also for names that no file can have and for folders, pipes and devices.
    What killed runs left half written in these folders is removed.
    """
    remedy = f"Choose another {option}."
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            reason = "it is a file" if isinstance(error, FileExistsError) else first_line(error)
            raise Blip3oError(f"Cannot write to the folder {shown(folder)}: {reason}. {remedy}") from error
        remove_abandoned(folder)
    for path in paths:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Blip3oError(f"Cannot write {shown(path)}: {first_line(error)}. {remedy}") from error
        if not stat.S_ISREG(mode):  # the finished file would take its place
            raise Blip3oError(f"Cannot write {shown(path)}: it is {_kind(mode)}. {remedy}")


@contextlib.contextmanager
def naming_failures(path: Path) -> Iterator[None]:
    """An OSError raised while `path` is written becomes a Blip3oError that names it."""
    try:
        yield
    except OSError as error:
        raise Blip3oError(
            f"Cannot write {shown(path)}: {first_line(error)}. Free some space, or choose another place."
        ) from error


def write_json(path: Path, content: dict) -> None:
    """`content` as an indented JSON file, whole or not at all."""
    with naming_failures(path), atomic_write(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add whole lines to a text file that may not be there yet, and flush them to the disk."""
    with naming_failures(path), open(path, "a+b") as file:
        if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":  # a line that a kill cut short
            file.write(b"\n")
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        sync(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, where the system can: Windows opens no folders, some shares sync none."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_regular(path: Path, remedy: str, limit: int | None = None) -> BinaryIO:
    """The file opened for reading bytes. Raises Blip3oError, which ends with `remedy`, for anything but a regular file.

    Pipes, sockets and devices are refused without waiting for them; so are files above `limit` bytes, and the pointers
    that git leaves in place of large files.
    """
    name = shown(path)
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        broken = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise Blip3oError(f"{name} {broken}. {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise Blip3oError(f"{name} cannot be read: {first_line(error)}. {remedy}") from error
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise Blip3oError(f"{name} is {_kind(facts.st_mode)}, not a regular file. {remedy}")
        if limit is not None and facts.st_size > limit:
            raise Blip3oError(
                f"{name} has {facts.st_size:,} bytes; at most {limit:,} make sense here. It is not the file that its "
                f"name says. {remedy}"
            )
        if facts.st_size < 1024 and os.read(handle, len(_POINTER)) == _POINTER:
            raise Blip3oError(
                f"{name} is a Git LFS pointer: it stands for the file and does not contain it. Run `git lfs pull` in "
                "its folder, or download the file itself."
            )
        os.lseek(handle, 0, os.SEEK_SET)
    except (Blip3oError, OSError):
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, remedy: str, limit: int = TEXT_LIMIT) -> bytes:
    """All of a regular file of at most `limit` bytes; raises Blip3oError as `open_regular` does."""
    with open_regular(path, remedy, limit) as file:
        try:
            data = file.read(limit + 1)  # files of the system say that they have no bytes
        except OSError as error:
            raise Blip3oError(f"{shown(path)} cannot be read: {first_line(error)}. {remedy}") from error
    if len(data) > limit:
        raise Blip3oError(f"{shown(path)} has more than {limit:,} bytes. {remedy}")
    return data


def read_text(path: Path, remedy: str = "Save it again as UTF-8 text.", limit: int = TEXT_LIMIT) -> str:
    """A UTF-8 text file, with or without a byte-order mark."""
    return decode_text(read_bytes(path, remedy, limit), str(path))


def decode_text(data: bytes, source: str) -> str:
    """UTF-8 bytes, with or without a byte-order mark -> text. `source`: what errors call them."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.count(0) * 4 > len(data)
    try:
        if not wide:
            return data.decode("utf-8-sig")
        number, reason = 1, "it looks like UTF-16, or it is damaged"
    except UnicodeDecodeError as error:
        # The codec counts from behind the mark.
        start = error.start + len(data) - len(error.object)
        number = len(split_lines(data[:start].decode("utf-8", "replace") + "."))
        reason = f"byte {start} is 0x{data[start]:02x}"
    raise Blip3oError(
        f"{shown(source)}, line {number}, is not UTF-8 text: {reason}. Save it again with the encoding UTF-8."
    )


def split_lines(text: str) -> list[str]:
    """The lines of a text, empty ones included, without their ends: \\n, \\r\\n or \\r.

    str.splitlines also cuts at characters that a prompt may contain, such as U+2028 and the vertical tab. Byte-order
    marks at the start of lines, as in files that were put together, belong to no line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.lstrip("\ufeff") for line in (lines[:-1] if lines[-1] == "" else lines)]


def read_lines(path: Path, remedy: str = "Save it again as UTF-8 text.") -> list[str]:
    """The lines of a UTF-8 text file, see `split_lines`."""
    lines = split_lines(read_text(path, remedy))
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_LIMIT:
            raise Blip3oError(
                f"{shown(path)}, line {number}, has {len(line):,} characters; a line may have {LINE_LIMIT:,}. {remedy}"
            )
    return lines


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each row of a CSV file in UTF-8, the names of its columns first; empty rows are left out.

    A row whose cells hold several lines has the number of its first. Raises Blip3oError for what is not CSV.
    """
    text = "\n".join(split_lines(read_text(path, "Save it again as CSV with the encoding UTF-8.")))
    lines, rows, first = csv.reader(io.StringIO(text), strict=True), [], 1
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                rows.append((first, cells))
            first = lines.line_num + 1
    except csv.Error as error:
        raise Blip3oError(
            f"{shown(path)}, line {lines.line_num}, is not CSV: {error}. Put texts with quotes or commas in quotes."
        ) from error
    return rows


def parse_json(text: str, source: str, remedy: str) -> Any:
    """What a JSON text holds. Raises Blip3oError, which names `source`, for anything else, however deeply nested.

    A name that an object has twice is refused, too: Python would take the last and drop the others without a word.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise Blip3oError(f"{source} cannot be read as JSON: it is nested too deeply. {remedy}") from None
    except ValueError as error:
        # Python's own sentence about digits says which switch of Python to turn.
        reason = "a number has too many digits" if "int_max_str_digits" in str(error) else first_line(error)
        raise Blip3oError(f"{source} cannot be read as JSON: {reason}. {remedy}") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{shown(name, 60)!r} stands in one object twice")
        content[name] = value
    return content


def read_json(path: Path, remedy: str = "Copy it again from where it came from.") -> dict:
    """The object in a JSON file. Raises Blip3oError when the file is missing, damaged or holds anything else."""
    content = parse_json(read_text(path, remedy), str(path), remedy)
    if not isinstance(content, dict):
        raise Blip3oError(f"{path} must contain a JSON object, but contains a {type(content).__name__}. {remedy}")
    return content


def read_optional_json(path: Path, remedy: str = "Copy it again from where it came from.") -> dict:
    """The object in a JSON file, {} where there is no such file."""
    return read_json(path, remedy) if os.path.lexists(path) else {}


def _kind(mode: int) -> str:
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, test in kinds.items() if test(mode)), "a device")


def size_in_words(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
