"""Writes the list of all options into docs/cli.md, from the parsers themselves: `python -m tools.command_page`."""

import argparse
from collections.abc import Iterator

from blip3o_core.cli.main import build_parser
from blip3o_core.cli.parser import Parser
from tools.environment import TOP

PAGE = TOP / "docs" / "cli.md"
START = "<!-- From here on made by python -m tools.command_page -->\n"


def page() -> str:
    """docs/cli.md as it should be: what a person wrote, then the commands with their options by group."""
    head = PAGE.read_text(encoding="utf-8").partition(START)[0]
    return f"{head}{START}\n" + "\n".join(_sections(build_parser(), "blip3o")).rstrip() + "\n"


def _sections(parser: Parser, name: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from _sections(command, f"{name} {word}")
            return
    yield f"## {name}\n"
    yield f"{parser.description}\n".replace("\n", " ").rstrip() + "\n"
    if parser.example:
        yield f"```\n{parser.example}\n```\n"
    for group in parser._action_groups:
        options = [each for each in group._group_actions if "--help" not in each.option_strings]
        if not options:
            continue
        title = group.title if options[0].option_strings else "Words"
        yield f"**{title[0].upper()}{title[1:]}**\n"
        yield "".join(f"- `{_name(each)}`: {_help(parser, each)}\n" for each in options)
    for word, command in parser.inner.items():
        yield from _sections(command, f"{name} {word}")


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    if action.nargs == 0:
        return action.option_strings[-1]
    takes = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    return f"{action.option_strings[-1]} {action.metavar or takes}"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action).replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
