"""CONDITIONING of any model in a file, without losing a key."""

from pathlib import Path

import torch
from comfy import clip_vision

from ...blip3o_core import memory
from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.weights.nested_file import CannotStore, load_nested, save_nested
from . import saving

KIND = "conditioning"
REMEDY = "Save the conditioning again with BLIP3o Save Conditioning, or choose another file."
# Keys of ComfyUI whose values are models or functions, and what to do about each.
_ADVICE = {
    "control": "a ControlNet. Save the conditioning before Apply ControlNet, and apply it again after BLIP3o Load "
    "Conditioning",
    "hooks": "hooks, which hold models. Save the conditioning before the hook nodes, and set the hooks again after "
    "BLIP3o Load Conditioning",
    "gligen": "a GLIGEN model. Save the conditioning before GLIGENTextBoxApply, and apply it again after BLIP3o Load "
    "Conditioning",
}


def save(conditioning, prefix: str, end: str, hidden) -> dict:
    """Write the next free file -> how ComfyUI names it. Raises Blip3oError for what no file can hold."""
    _check(conditioning, "conditioning is {}, but it must be conditioning. Connect a node that gives it.")

    def write(path: Path, metadata: dict[str, str]) -> None:
        save_nested(path, conditioning, KIND, metadata, _pack, replace=False)

    try:
        return saving.save(prefix, end, write, hidden)
    except CannotStore as error:
        raise _explained(error) from None


def _explained(error: CannotStore) -> Blip3oError:
    names = [key for key in error.keys if isinstance(key, str)]
    entry = error.keys[0] if error.keys else 0
    if names and names[0] in _ADVICE:
        return Blip3oError(
            f"Entry {entry} of the conditioning has the key '{names[0]}' with {_ADVICE[names[0]]}. Nothing was saved."
        )
    where = f"the key '{shown('.'.join(names), 80)}', which" if names else "a part that"
    return Blip3oError(
        f"Entry {entry} of the conditioning has {where} cannot be saved: it is {error.reason}. Save the conditioning "
        "before the node that adds it. Nothing was saved."
    )


def load(path: Path) -> list:
    memory.require_memory(
        path.stat().st_size, torch.device("cpu"), f"The conditioning in {path.name}", "Close other programs."
    )
    conditioning = load_nested(path, KIND, REMEDY, _unpack)
    _check(conditioning, f"{shown(path)} holds {{}}, not conditioning. {REMEDY}")
    return conditioning


def _check(value, sentence: str) -> None:
    """Raise Blip3oError unless `value` is a list of [anything, dictionary], which is all that models agree on."""
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else f"a {type(value).__name__}"
    else:
        pairs = (isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[1], dict) for each in value)
        found = "a list of other things" if not all(pairs) else None
    if found is not None:
        raise Blip3oError(sentence.format(found))


def _pack(value):
    return ("clip_vision", dict(vars(value))) if type(value) is clip_vision.Output else None


def _unpack(name: str, value):
    if name != "clip_vision" or not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return None
    output = clip_vision.Output()
    output.__dict__.update(value)
    return output
