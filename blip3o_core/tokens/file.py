"""Image tokens in a safetensors file, with everything that reproduces the image: codes, prompts, seeds, hidden states.

The file says which codes it holds by content (codebook, tokenizer, grid), so a copy of the checkpoint, or one that was
saved again, understands it. Writing the same tokens gives the same bytes.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import Blip3oError, shown
from ..files import atomic_write, parse_json
from ..models.language import PromptFeatures
from ..prompts.vocabulary import CodesId
from ..weights.safetensors_file import TensorIndex, read_header, read_metadata, read_tensor, to_bytes
from .image_tokens import ImageTokens

KEY, VERSION = "blip3o_tokens", 1
REMEDY = "Save the tokens again with BLIP3o Save Tokens, or choose another file."
MAX_ROWS, MAX_CELLS = 1024, 2**20


def save_tokens(path: Path, tokens: ImageTokens, metadata: dict[str, str] | None = None, replace: bool = True) -> None:
    """Write `path` whole or not at all. `metadata`: more text to keep in the file, such as a workflow.

    `replace` False: raises NameTaken where `path` exists.
    """
    tensors = {"codes": tokens.codes}
    if tokens.hidden is not None:
        tensors["hidden"] = tokens.hidden
    if tokens.features is not None:
        tensors["features"] = tokens.features.values
    facts = {
        "version": VERSION,
        "grid": list(tokens.grid),
        "prompts": list(tokens.prompts),
        "prompt_ids": tokens.prompt_ids and [list(row) for row in tokens.prompt_ids],
        "seeds": list(tokens.seeds),
        "lengths": list(tokens.lengths),
        "codes_id": asdict(tokens.codes_id),
        "hidden_source": tokens.hidden_source,
        "features_behind": None if tokens.features is None else tokens.features.behind,
    }
    content = to_bytes(tensors, {**(metadata or {}), KEY: json.dumps(facts, sort_keys=True)})
    with atomic_write(path, replace=replace) as scratch:
        scratch.write_bytes(content)


def load_tokens(path: Path) -> ImageTokens:
    """Raises Blip3oError for a file that is missing, damaged, or holds anything else."""
    index, text = read_header(path), read_metadata(path).get(KEY)
    if text is None:
        raise Blip3oError(f"{path} holds no image tokens. Choose a file of BLIP3o Save Tokens.")
    facts = parse_json(text, f"The description of the tokens in {path}", REMEDY)
    version = facts.get("version") if isinstance(facts, dict) else None
    if type(version) is int and version > VERSION:
        raise Blip3oError(
            f"{path} was written by a newer version of this pack (format {version}, this one reads {VERSION}). Update "
            "the pack."
        )
    try:
        return _tokens(facts, index)
    except (_Wrong, Blip3oError) as error:
        raise Blip3oError(f"{path} does not hold image tokens as it should: {error} {REMEDY}") from error


class _Wrong(Exception):
    """What is wrong with a file, as a sentence."""


def _tokens(facts: Any, index: TensorIndex) -> ImageTokens:
    if not isinstance(facts, dict):
        raise _Wrong("its description must be a JSON object.")
    grid = _numbers(facts, "grid", 2)
    if not all(1 <= side <= MAX_CELLS for side in grid) or grid[0] * grid[1] > MAX_CELLS:
        raise _Wrong(f"grid is {shown(grid)}.")
    entry = index.get("codes")
    if entry is None or entry.dtype != "I64" or len(entry.shape) != 2 or not 1 <= entry.shape[0] <= MAX_ROWS:
        raise _Wrong(f"codes are {entry and (entry.dtype, entry.shape)}.")
    rows, width = entry.shape
    if not 1 <= width <= grid[0] * grid[1]:
        raise _Wrong(f"a row has {width} codes for a grid of {grid[0]}x{grid[1]}.")
    lengths = _numbers(facts, "lengths", rows)
    if not all(0 <= length <= width for length in lengths):
        raise _Wrong(f"lengths are {shown(lengths)} for rows of {width} codes.")
    prompts = facts.get("prompts")
    if not isinstance(prompts, list) or len(prompts) != rows or not all(isinstance(each, str) for each in prompts):
        raise _Wrong(f"prompts are {shown(prompts)} for {rows} rows.")
    hidden = index.get("hidden")
    if hidden is not None and (len(hidden.shape) != 3 or hidden.shape[:2] != (rows, 1 + width)):
        raise _Wrong(f"hidden states have the shape {hidden.shape}.")
    source = facts.get("hidden_source")
    return ImageTokens(
        codes=read_tensor(entry),
        grid=(grid[0], grid[1]),
        prompts=prompts,
        prompt_ids=_prompt_ids(facts.get("prompt_ids"), rows),
        seeds=_numbers(facts, "seeds", rows),
        lengths=lengths,
        codes_id=_codes_id(facts.get("codes_id")),
        hidden=None if hidden is None else _floats(read_tensor(hidden), "hidden states"),
        hidden_source=source if isinstance(source, str) else None,
        features=_features(facts.get("features_behind"), index),
    )


def _numbers(facts: dict, name: str, count: int) -> list[int]:
    value = facts.get(name)
    if not isinstance(value, list) or len(value) != count or not all(type(each) is int for each in value):
        raise _Wrong(f"{name} is {shown(value)}, not {count} whole numbers.")
    return value


def _prompt_ids(value: Any, rows: int) -> list[list[int]] | None:
    if value is None:
        return None
    lists = isinstance(value, list) and len(value) == rows and all(isinstance(row, list) and row for row in value)
    if not lists or not all(type(each) is int and 0 <= each < 2**31 for row in value for each in row):
        raise _Wrong(f"prompt_ids is {shown(value)}.")
    return value


def _codes_id(value: Any) -> CodesId:
    kinds = {"num_codes": int, "image_start": int, "grid": list, "tokenizer": str, "codebook": str}
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise _Wrong(f"codes_id is {shown(value)}.")
    for name, kind in kinds.items():
        if value[name] is not None and type(value[name]) is not kind:
            raise _Wrong(f"codes_id.{name} is {shown(value[name])}.")
    grid = value["grid"] and tuple(value["grid"])
    return CodesId(**{**value, "grid": grid})


def _features(behind: Any, index: TensorIndex) -> PromptFeatures | None:
    entry = index.get("features")
    if entry is None:
        return None
    if type(behind) is not int or behind < 0 or len(entry.shape) != 2:
        raise _Wrong(f"features have the shape {entry.shape}, {shown(behind)} tokens before the end of the prompt.")
    return PromptFeatures(_floats(read_tensor(entry), "features"), behind)


def _floats(tensor: torch.Tensor, what: str) -> torch.Tensor:
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        raise _Wrong(f"{what} are {tensor.dtype}, or not finite.")
    return tensor
