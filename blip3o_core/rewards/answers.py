"""A file of answers that grows by a line for each, and is looked into before anything is asked: JSON lines.

Several processes may write to one file. A line that was cut off when a process was killed is left out, so its question
is asked again; every other answer is asked for once.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import Blip3oError
from ..files import LINE_LIMIT, check_writable, naming_failures, open_regular

_REMEDY = "Choose another file for the answers."


class AnswerFile:
    """The texts that were answered, by the key of their question. Without a path they are kept in memory alone."""

    def __init__(self, path: Path | None):
        self.path, self._lock = path, threading.Lock()
        self._texts: dict[str, list[str]] = {}
        if path is None:
            return
        check_writable([path], "file for the answers")
        if os.path.lexists(path):
            self._read(path)

    def texts(self, key: str) -> list[str]:
        """The answers to one question, in their order."""
        with self._lock:
            return list(self._texts.get(key, ()))

    def text(self, key: str, number: int, ask: Callable[[], tuple[str, dict]]) -> str:
        """Answer `number` to a question, counted from 0: the one that is kept, or else what `ask` gives, which is kept.

        `ask` gives a text and the facts of `add`.
        """
        texts = self.texts(key)
        if number < len(texts):
            return texts[number]
        text, facts = ask()
        self.add(key, text, facts)
        return text

    def add(self, key: str, text: str, facts: dict) -> None:
        """Keep an answer. `facts`: what else its line says. It is in the file when this returns."""
        with self._lock:
            if self.path is not None:
                line = json.dumps({"key": key, "text": text, **facts}) + "\n"
                with naming_failures(self.path):
                    _append(self.path, line.encode())
            self._texts.setdefault(key, []).append(text)

    def _read(self, path: Path) -> None:
        lines = others = 0
        with open_regular(path, _REMEDY) as file:
            while line := file.readline(LINE_LIMIT):
                try:
                    entry = json.loads(line)
                    self._texts.setdefault(str(entry["key"]), []).append(str(entry["text"]))
                    lines += 1
                except (ValueError, TypeError, KeyError, RecursionError):
                    others += 1
        if others > lines + 1:
            raise Blip3oError(f"{path} holds other lines than answers. {_REMEDY}")


def _append(path: Path, line: bytes) -> None:
    """Add a line at the end in one call, so that lines of several processes do not mix."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, size - 1, os.SEEK_SET)
            if os.read(handle, 1) != b"\n":  # what a killed process began
                line = b"\n" + line
        written = os.write(handle, line)
        if written != len(line):
            raise OSError("the disk is full")
    finally:
        os.close(handle)
