"""Fetch a published checkpoint with huggingface_hub: it resumes and follows redirects; here are what it lacks.

Files are fetched into a hidden folder inside the target and get their place when size and checksum are right,
config.json last: what is in the target is whole, and a checkpoint appears in the lists when all of it is there.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import Blip3oError, first_line, shown
from ..files import size_in_words
from .published import Published

DEFAULT_ENDPOINT = "https://huggingface.co"
SCRATCH = ".download"  # hidden, so that it is in no list
SPARE = 2**28  # bytes that stay free on the disk
_WINDOW = 2**20
_AGAIN = "Run the same command again to resume."


@dataclass(frozen=True)
class RemoteFile:
    name: str
    size: int
    checksum: str | None  # sha256 of a large file, git's sha1 of a small one; None: the server publishes none


@dataclass(frozen=True)
class Remote:
    """A repository at one moment."""

    published: Published
    endpoint: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def ask(published: Published, endpoint: str | None = None) -> Remote:
    """What the server has of a checkpoint. Raises Blip3oError where it does not answer, or has none."""
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint).model_info(published.repository, files_metadata=True)
    except Exception as error:  # the library's own, and those of whichever library it speaks HTTP with
        raise explained(error, published, endpoint) from error
    files = [
        RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else each.blob_id)
        for each in info.siblings or ()
        if published.wants(each.rfilename)
    ]
    if not any(file.name.endswith((".safetensors", ".pth")) for file in files):
        raise Blip3oError(
            f"{published.repository} at {shown(endpoint)} has no weights that this program can load. Look at its page, "
            "or choose another --endpoint."
        )
    # The weights first: a folder with a config.json counts as a checkpoint.
    files.sort(key=lambda file: (file.name == "config.json", not file.name.endswith(".safetensors"), file.name))
    licence = info.card_data.get("license") if info.card_data else None
    return Remote(published, endpoint, info.sha, tuple(files), licence if isinstance(licence, str) else None)


def missing(remote: Remote, folder: Path) -> list[RemoteFile]:
    """The files that are not in `folder`, or differ there."""
    return [file for file in remote.files if not _is_right(folder / file.name, file)]


def fetch(remote: Remote, folder: Path, files: list[RemoteFile], say: Callable[[str], None]) -> None:
    """Fetch `files` into `folder`. Raises Blip3oError; what was fetched by then is kept, and resumed next time."""
    scratch = folder / SCRATCH
    for number, file in enumerate(files, 1):
        say(f"{number}/{len(files)} {file.name} ({size_in_words(file.size)})")
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            part = scratch / f"{file.name}.{(file.checksum or remote.commit)[:12]}.part"
            _fetch_part(remote, file, part)
            right = _is_right(part, file)
            if right:
                os.replace(part, folder / file.name)
        except Exception as error:
            raise explained(error, remote.published, remote.endpoint, folder) from error
        if not right:
            shutil.rmtree(scratch, ignore_errors=True)
            raise Blip3oError(
                f"{file.name} does not have the size and checksum that {shown(remote.endpoint)} says, so it was "
                f"deleted. Run the same command again; if that does not help, try another --endpoint."
            )
    shutil.rmtree(scratch, ignore_errors=True)


def _fetch_part(remote: Remote, file: RemoteFile, part: Path) -> None:
    """Fetch what is missing of `part`. huggingface_hub resumes by itself only while its process lives."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(remote.published.repository, file.name, revision=remote.commit)
    # hf_hub_url looks for the endpoint that the library was imported with.
    url = remote.endpoint + url[url.index(f"/{remote.published.repository}/") :]
    with open(part, "ab") as opened:
        if opened.tell() > file.size:
            opened.truncate(0)
            opened.seek(0)
        http_get(
            url, opened, resume_size=opened.tell(), headers=build_hf_headers(), expected_size=file.size,
            displayed_filename=file.name,
        )  # fmt: skip


def check_space(folder: Path, files: list[RemoteFile]) -> None:
    """Raise Blip3oError unless the disk of `folder`, which need not exist yet, has room for what `fetch` fetches."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    needed, free = sum(file.size for file in files) - _fetched(folder / SCRATCH) + SPARE, free_space(existing)
    if needed > free:
        raise Blip3oError(
            f"The download needs {size_in_words(needed)}, and the disk of {shown(folder)} has {size_in_words(free)} "
            "free. Free some space, or choose another folder with --to."
        )


def free_space(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def explained(error: Exception, published: Published, endpoint: str, folder: Path | None = None) -> Blip3oError:
    """What went wrong, in one sentence, and what to do next."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    server, page = shown(endpoint), f"{endpoint}/{published.repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return Blip3oError(
            f"{published.repository} asks for consent. Accept its terms at {page}, make a token there, set it as "
            "HF_TOKEN, and run the same command again."
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return Blip3oError(
            f"{server} does not show {published.repository}: it is not there, or it needs a token. Look at {page}, set "
            "HF_TOKEN if the page asks you to log in, or choose another --endpoint."
        )
    if status == 404:
        return Blip3oError(f"{server} has no such file of {published.repository} any more. {_AGAIN}")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Blip3oError(f"The disk of {shown(folder)} is full. Free some space. {_AGAIN}")
    if isinstance(error, UnicodeEncodeError):  # of a header; everything else that is sent is ASCII
        return Blip3oError(
            "HF_TOKEN, or the token that you logged in with, contains a character that no token has. Copy the token "
            "again, and run the same command again."
        )
    if isinstance(error, PermissionError):
        return Blip3oError(f"Cannot write to {shown(folder)}: {first_line(error)}. Choose another folder with --to.")
    reason = first_line(error.__cause__ or error)
    return Blip3oError(
        f"The download of {published.repository} from {server} failed: {shown(reason)}. Check the network or choose "
        f"another --endpoint. {_AGAIN}"
    )


def _fetched(scratch: Path) -> int:
    """Bytes of an interrupted download, which need no room any more."""
    files = [path for path in scratch.rglob("*") if path.is_file()] if scratch.is_dir() else []
    return sum(path.stat().st_size for path in files)


def _is_right(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.checksum is None:
        return True
    if len(file.checksum) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as opened:
        while block := opened.read(_WINDOW):
            digest.update(block)
    return digest.hexdigest() == file.checksum
