"""The folder of one evaluation, and whether it is the folder of this one.

DIR/run.json        the task, the checkpoint by content, the settings, the versions: what decides its images
DIR/items.jsonl     the items, a line each, with a digest of what they ask for
DIR/images/         the images, as the benchmark's own scorer expects them
DIR/samples/        single samples, of tasks whose layout has no file for each
DIR/failed/         for each image that could not be made: why
DIR/scores/         for each scorer a line for each image, and a folder for what else a scorer keeps
DIR/results.json    what was found; results.md is the same for a person, card.md for a model card
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, bullet_list, shown
from ..files import (
    NameTaken,
    atomic_write,
    check_writable,
    held,
    naming_failures,
    parse_json,
    read_json,
    read_lines,
    remove_abandoned,
    write_json,
)
from .interface import Item
from .plan import Row, digest_of

FORMAT = "blip3o evaluation"
VERSION = 1
_ELSEWHERE = "Choose another --out, or restore what was changed."
# They decide no image.
_IGNORED = ("checkpoint.name", "versions.blip3o", "versions.python")


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        return self.path / "results.md"

    @property
    def card(self) -> Path:
        return self.path / "card.md"

    @property
    def items(self) -> Path:
        return self.path / "items.jsonl"

    def scores(self, scorer: str) -> Path:
        return self.path / "scores" / f"{scorer}.jsonl"

    def kept(self, scorer: str) -> Path:
        """A folder of a scorer's own."""
        return self.path / "scores" / scorer

    def image(self, row: Row) -> Path:
        return self.path / row.file

    def failure(self, row: Row) -> Path:
        return self.path / "failed" / f"{row.item.id}.{row.sample}.json"

    def begin(self, facts: Mapping[str, Any], items: Sequence[Item]) -> None:
        """Make it the folder of this run, or see that it is. Several processes may do it at once.

        Raises Blip3oError, which names every difference, where it is the folder of another run. Versions of libraries
        may differ here: see `require_versions`.
        """
        check_writable([self._run])
        digests = {item.id: digest_of(item) for item in items}
        own = json.loads(json.dumps(_complete(facts, digests)))
        lines = "".join(json.dumps(_line(item, digests[item.id]), ensure_ascii=True) + "\n" for item in items)
        if not self._run.is_file():
            self._require_empty()
            _write_text(self.items, lines)
            try:
                with naming_failures(self._run), atomic_write(self._run, replace=False) as scratch:
                    scratch.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
                return
            except NameTaken:  # another process was faster
                pass
        before = self.run
        changed = [f"{name}: {_words(old)} in the folder, {_words(new)} now"
                   for name, old, new in differences(before, own)
                   if not name.startswith(("versions.", "task.items", "task.digest"))]  # fmt: skip
        if before.get("task", {}).get("digest") != own["task"]["digest"]:
            changed += self._changed_items(digests)
        if changed:
            raise Blip3oError(f"{shown(self.path)} belongs to a different run:\n{bullet_list(changed)}\n{_ELSEWHERE}")
        if not self.items.is_file() or self.items.read_bytes() != lines.encode():  # removed or damaged
            _write_text(self.items, lines)

    def require_versions(self, facts: Mapping[str, Any]) -> None:
        """Raise Blip3oError where other versions of libraries made the images of this folder, before more are made."""
        own = {"versions": dict(facts["versions"])}
        changed = [f"{name}: {_words(old)} in the folder, {_words(new)} now"
                   for name, old, new in differences({"versions": self.run.get("versions", {})}, own)]  # fmt: skip
        if changed:
            raise Blip3oError(
                f"Images of {shown(self.path)} were made with other versions, which may make other images:\n"
                f"{bullet_list(changed)}\nInstall those, or choose another --out."
            )

    @property
    def run(self) -> dict[str, Any]:
        """What run.json says. Raises Blip3oError where it is damaged."""
        content = read_json(self._run, _ELSEWHERE)
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise Blip3oError(
                f"{shown(self._run)} was written by another program, or by another version of this one. Choose "
                "another --out."
            )
        return content

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else scores in this folder while the block runs."""
        with held(self._run, f"Another `blip3o evaluate` works in {shown(self.path)}. Wait until it ends."):
            yield

    def tidy(self) -> None:
        """Remove what killed processes left half written."""
        for folder in (self.path, *(one for one in self.path.rglob("*") if one.is_dir())):
            remove_abandoned(folder)

    @property
    def _run(self) -> Path:
        return self.path / "run.json"

    def _require_empty(self) -> None:
        others = [one.name for one in self.path.iterdir() if one.name != "items.jsonl" and not one.name.startswith(".")]
        if others and not self._run.is_file():
            raise Blip3oError(
                f"{shown(self.path)} has other files in it, such as {shown(others[0])}, and no run.json. Choose "
                "another --out."
            )

    def _changed_items(self, digests: Mapping[str, str]) -> list[str]:
        """A line for each item that is new, gone or different."""
        before: dict[str, str] = {}
        with contextlib.suppress(Blip3oError):
            for line in read_lines(self.items):
                entry = parse_json(line, "items.jsonl", "")
                before[entry["id"]] = entry["digest"]
        lines = [f"item {one}: it asks for something else now" for one in before
                 if one in digests and digests[one] != before[one]]  # fmt: skip
        gone, new = [one for one in before if one not in digests], [one for one in digests if one not in before]
        lines += [f"item {one}: it is not asked any more" for one in gone]
        lines += [f"item {one}: it is new" for one in new]
        if len(gone) + len(new) > 10:  # as with another --limit
            lines = [f"items: {len(before):,} in the folder, {len(digests):,} now", *lines[:10]]
        return lines or ["items: their order, or what items.jsonl says of them"]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, old, new) of every value that differs; names of nested ones have dots."""
    for key in dict.fromkeys([*before, *now]):
        name, old, new = f"{place}{key}", before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}.")
        elif old != new and name not in _IGNORED:
            yield name, old, new


def _complete(facts: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    seen = hashlib.sha256(json.dumps(digests).encode("ascii")).hexdigest()[:32]
    task = {**facts["task"], "items": len(digests), "digest": seen}
    return {"format": FORMAT, "version": VERSION, **facts, "task": task}


def _line(item: Item, digest: str) -> dict[str, Any]:
    return {"id": item.id, "category": item.category, "prompt": item.prompt, "digest": digest}


def _write_text(path: Path, text: str) -> None:
    with naming_failures(path), atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _words(value: Any) -> str:
    return "nothing" if value is None else shown(value, 80)


def write_failure(folder: RunFolder, row: Row, error: BaseException, reason: str) -> None:
    """Record why an image could not be made."""
    path = folder.failure(row)
    with naming_failures(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"item": row.item.id, "sample": row.sample, "error": type(error).__name__, "reason": reason})
