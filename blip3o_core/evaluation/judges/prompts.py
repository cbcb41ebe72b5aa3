"""What a benchmark's judge is asked, read from the user's copy of the benchmark. Nothing in it is executed.

Benchmarks keep these texts in three ways: a JSON object, text constants of a Python file, and messages that a function
of a Python file returns.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Blip3oError, first_line, shown
from ...files import parse_json, read_text

_LIMIT = 2**20  # bytes


@dataclass(frozen=True)
class Hole:
    """A place in a text where something of an item stands, by the name that the benchmark's file gives it."""

    name: str


Template = Sequence[str | Hole]


@dataclass(frozen=True)
class PromptFile:
    """A file with texts for a judge. `published`: where its users get it."""

    path: Path
    published: str

    @classmethod
    def find(cls, given: str, names: Sequence[str], published: str) -> "PromptFile":
        """The file `given`, or the first of `names` in the folder `given`. Raises Blip3oError where there is none."""
        path = Path(given)
        if path.is_dir():
            found = next((path / name for name in names if (path / name).is_file()), None)
            if found is None:
                raise Blip3oError(
                    f"The folder {shown(path)} has none of {', '.join(names)}. prompts must name the file with the "
                    f"judge's prompts, or the folder that it is in. {published}"
                )
            path = found
        return cls(path, published)

    @property
    def digest(self) -> str:
        """Of its text, another one for other prompts."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:16]

    def json_texts(self) -> dict[str, str]:
        """The texts of a JSON object."""
        content = parse_json(self._text(), str(self.path), self.published)
        if not isinstance(content, dict) or not content or not all(isinstance(each, str) for each in content.values()):
            raise self._fault("it must contain a JSON object of texts.")
        return content

    def constants(self, names: Sequence[str]) -> dict[str, str]:
        """Text constants of a Python file: the values of `names`, which are assigned outside of functions."""
        found = {}
        for node in self._tree().body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                    found[node.targets[0].id] = node.value.value
        if missing := [name for name in names if name not in found]:
            raise self._fault(f"it has no text with the name {', '.join(missing)}.")
        return {name: found[name] for name in names}

    def returned(self, function: str) -> Any:
        """What a function of a Python file returns, where that is written out as lists, mappings and texts.

        A text with holes, an f-string, becomes a Template; every other text is a str.
        """
        for node in self._tree().body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                last = node.body[-1]
                if isinstance(last, ast.Return) and last.value is not None:
                    return self._value(last.value)
        raise self._fault(f"it has no function {function} that ends with what it returns.")

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return [self._piece(each) for each in node.values]
        if isinstance(node, ast.List):
            return tuple(map(self._value, node.elts))
        if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
            names = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            return dict(zip(names, map(self._value, node.values), strict=True))
        raise self._fault(f"line {node.lineno} computes something; only texts that are written out can be read.")

    def _piece(self, node: ast.expr) -> str | Hole:
        """A part of an f-string: its text, or the name in prompt_data['NAME'] or NAME."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
            inner = node.value
            if isinstance(inner, ast.Name):
                return Hole(inner.id)
            if isinstance(inner, ast.Subscript) and isinstance(inner.slice, ast.Constant):
                return Hole(str(inner.slice.value))
        raise self._fault(f"line {node.lineno} has a text with a hole of an unknown form.")

    def _tree(self) -> ast.Module:
        text = self._text()
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._fault(f"it cannot be read as Python: {first_line(error)}.") from error

    def _text(self) -> str:
        return read_text(self.path, self.published, _LIMIT)

    def _fault(self, what: str) -> Blip3oError:
        return Blip3oError(
            f"{shown(self.path)} does not have the judge's prompts in a known form: {what} {self.published}"
        )


def filled(template: str | Template, values: Mapping[str, str]) -> str:
    """A template with its holes filled."""
    parts = [template] if isinstance(template, str) else template
    return "".join(values[part.name] if isinstance(part, Hole) else part for part in parts)
