"""YAML of people's settings: plain values alone, and a sentence with the line for everything else."""

from typing import Any

from .errors import Blip3oError, first_line, shown

YAML_DEPTH, NUMBER_LENGTH = 20, 64


def parse_yaml(text: str, source: str, remedy: str) -> Any:
    """What a YAML text holds of mappings, lists, text, numbers, true, false and null; a date is text.

    Raises Blip3oError, which names `source`, for everything else: aliases, which let a few lines stand for terabytes,
    tags, which name classes, names that are given twice, nesting without end.
    """
    import yaml

    try:
        depth = documents = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += {yaml.SequenceStartEvent: 1, yaml.MappingStartEvent: 1}.get(type(event), 0)
            depth -= {yaml.SequenceEndEvent: 1, yaml.MappingEndEvent: 1}.get(type(event), 0)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise _YamlFault("a second document begins here; one is read", event)
            if depth > YAML_DEPTH:
                raise _YamlFault(f"it is nested more than {YAML_DEPTH} deep", event)
            if getattr(event, "anchor", None) is not None:
                raise _YamlFault("an anchor (&) or alias (*) is not allowed: write the value out", event)
            if getattr(event, "tag", None) is not None:
                raise _YamlFault(f"the tag {shown(event.tag)} is not allowed: write the value alone", event)
        return _from_yaml(yaml.compose(text, Loader=yaml.SafeLoader))
    except _YamlFault as fault:
        reason = str(fault)
    except yaml.MarkedYAMLError as error:
        reason = f"line {error.problem_mark.line + 1}: {error.problem}" if error.problem_mark else str(error.problem)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"line {line}: the character {chr(error.character)!r} is not allowed"
    except yaml.YAMLError as error:
        reason = first_line(error)
    raise Blip3oError(f"{source} cannot be read as YAML: {reason}. {remedy}".rstrip())


class _YamlFault(Exception):
    def __init__(self, reason: str, at: Any):
        super().__init__(f"line {at.start_mark.line + 1}: {reason}")


def _from_yaml(node: Any) -> Any:
    """The value of a node without anchors, tags and deep nesting; None for an empty text."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_from_yaml(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, value in node.value:
            name = _from_yaml(key)
            if not isinstance(name, str):
                raise _YamlFault(f"{shown(name)} is not a name: put it in quotes", key)
            if name in values:
                raise _YamlFault(f"{shown(name)} is given twice", key)
            values[name] = _from_yaml(value)
        return values
    if node is None:
        return None
    kind = node.tag.rpartition(":")[2]
    if kind in ("int", "float") and len(node.value) > NUMBER_LENGTH:
        raise _YamlFault(f"a number of {len(node.value):,} characters; at most {NUMBER_LENGTH} make sense", node)
    if kind in ("int", "float", "bool", "null"):
        try:
            return yaml.SafeLoader("").construct_object(node)
        except ValueError:  # 0x_ and the like
            return node.value
    return node.value
