"""The parser of the command line: options in groups, and every mistake in its words answered in a sentence or two.

Nothing heavy is imported here: a spelling mistake and `--help` need not wait for torch.
"""

import argparse
import re
import sys
from pathlib import Path

from ..errors import Blip3oError, did_you_mean, shown

# How argparse begins to say that something is missing.
_MISSING = ("the following arguments are required", "one of the arguments")


class UsageError(Blip3oError):
    """A mistake that the words of a command alone show. The command ends with status 2."""


class Parser(argparse.ArgumentParser):
    """Knows what its command needs, and an example of it. Options are not abbreviated: a new one changes no command.

    `needs`: a sentence for those who leave out what cannot be left out.
    """

    def __init__(self, needs: str = "", example: str = "", **settings):
        if example:
            settings.setdefault("epilog", f"example: {example}")
        super().__init__(allow_abbrev=False, **settings)
        self.needs, self.example = needs, example
        self.inner: dict[str, Parser] = {}

    def group(self, title: str):
        """The group of options with this title, made on first use."""
        known = {group.title: group for group in self._action_groups}
        return known.get(title) or self.add_argument_group(title)

    def add_inner(self, word: str, **settings) -> "Parser":
        """A command of its own for who writes `word` first, where other first words are values, such as a task's."""
        self.inner[word] = Parser(prog=f"{self.prog} {word}", **settings)
        return self.inner[word]

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        if words and words[0] in self.inner:
            return self.inner[words[0]].parse_known_args(words[1:], namespace)
        self._check_names(words)
        return super().parse_known_args(words, namespace)

    def _check_names(self, words: list[str]) -> None:
        """Say the first option or command that does not exist, before argparse says what else is missing."""
        commands = next((each for each in self._actions if isinstance(each, argparse._SubParsersAction)), None)
        for word in words:
            if word == "--":
                return
            if re.match(r"--?[A-Za-z][\w-]*(=|$)", word):
                name = word.partition("=")[0]
                if name not in self._option_string_actions:
                    hint = did_you_mean(name, [each for each in self._option_string_actions if each.startswith("--")])
                    self.exit_with(f"unknown option {shown(name, 60)}. {hint or self._where()}")
            elif commands is not None:
                if word not in commands.choices:
                    kind = "command" if commands.metavar == "COMMAND" else "word"
                    known = list(commands.choices)
                    hint = did_you_mean(word, known, 0.7) or f"Write one of {', '.join(known)}."
                    self.exit_with(f"unknown {kind} {quoted(word)}. {hint}")
                return

    def error(self, message: str):
        """Called by argparse, too."""
        if self.needs and message.startswith(_MISSING):
            self.exit_with(f"{self.needs} Example: {self.example}")
        self.exit_with(f"{message}. {self._where()}")

    def exit_with(self, message: str):
        self.exit(2, f"error: {message}\n")

    def _where(self) -> str:
        return f"'{self.prog} --help' lists the options."

    def format_help(self) -> str:
        self.usage = " ".join(["%(prog)s", *map(_place, self._get_positional_actions()), "[options]"])
        return super().format_help()


def _place(action: argparse.Action) -> str:
    """A word of a command that is no option, as the usage line shows it."""
    name = str(action.metavar or action.dest)
    return {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name)


def quoted(text: str) -> str:
    """Words of the command line as messages show them: in quotes, printable, cut when they are long."""
    return shown(repr(text), 60)


def program() -> str:
    """How this program was called."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        return "python -m blip3o_core"
    return f"python {shown(sys.argv[0])}" if name == "blip3o_core" else "blip3o"
