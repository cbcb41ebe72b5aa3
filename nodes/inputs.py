"""What enters a node is checked here, once for all nodes, before any of it is used.

ComfyUI checks the numbers and choices that a prompt spells out. A value that comes over a link, and anything at all
where a link belongs, reaches the node as it is.
"""

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass

from ..blip3o_core.errors import Blip3oError, first_line, shown
from . import requirements
from .comfy_api import io


class Node(io.ComfyNode):
    """A node of this pack: ComfyUI calls `execute`, which checks the inputs and calls the `run` of the node."""

    # Choices whose lists change while the server runs. `host.folders` checks them, against the folders of that moment.
    FILES: tuple[str, ...] = ()
    # Of a node with `is_input_list`, the inputs that are lists of numbers; of every other one it takes a single value.
    LISTS: tuple[str, ...] = ()
    # As LISTS, of inputs that are lists of anything else; `run` gets the list.
    MANY: tuple[str, ...] = ()
    # Inputs that take what nodes of any model give on that wire; `run` checks them.
    ANY_MODEL: tuple[str, ...] = ()
    run: Callable[..., io.NodeOutput]  # what a node does with inputs that were checked, a class method

    @classmethod
    def execute(cls, *args, **inputs) -> io.NodeOutput:
        requirements.check()
        schema = cls.SCHEMA or cls.GET_SCHEMA()
        parameters = inspect.signature(cls.run).parameters
        given = {**dict(zip(parameters, args, strict=False)), **inputs}
        for name in given.keys() - parameters.keys():
            raise Blip3oError(
                f"{schema.display_name} has no input {shown(name)!r}. Its inputs are: {', '.join(_names(schema))}."
            )
        if schema.is_input_list:
            given = {name: cls._of_list(name, value) for name, value in given.items()}
        for slot in schema.inputs:
            if slot.id not in cls.ANY_MODEL and (slot.id in given or isinstance(slot, io.DynamicCombo.Input)):
                given[slot.id] = cls._checked_value(slot, given.get(slot.id))
        try:
            return cls._run_with_notes(schema, given)
        except ImportError as error:
            raise requirements.explained(error) from error
        except BaseException as error:
            # The panic of a library written in Rust is no Exception: ComfyUI's only worker would end, and the queue
            # stand still. Its interrupt is none, either, and passes.
            if type(error).__name__ != "PanicException":
                raise
            raise Blip3oError(
                f"A library broke down in {schema.display_name}: {first_line(error)} ({type(error).__name__}). An "
                "input or a file of the checkpoint is damaged. Change the input, or copy the checkpoint again."
            ) from error

    @classmethod
    def _of_list(cls, name: str, values):
        """What `run` gets of an input for which ComfyUI gives a list."""
        if name in cls.LISTS:
            return _numbers(values)
        return values if name in cls.MANY else _single(name, values)

    @classmethod
    def _checked_value(cls, slot, value):
        if slot.id in cls.LISTS:  # a list without any number is what `run` has a word for
            return value and [each if each is None else _number(each, False, slot, slot.id) for each in value]
        if slot.id in cls.MANY and value is not None:
            return [_checked(slot, each, slot.id) for each in value]
        return _checked(slot, value, slot.id, cls.FILES)

    @classmethod
    def _run_with_notes(cls, schema, given: dict) -> io.NodeOutput:
        """What `run` gives, with the notes on it; `has_intermediate_output` shows them from the cache, too."""
        from .host import notes

        with notes.collected() as told:
            output = cls.run(**given)
        if told or schema.has_intermediate_output:
            output.ui = {**(output.ui or {}), notes.NOTES: told, notes.TELLER: [schema.node_id]}
        return output


def _single(name: str, values):
    """The value of an input for which ComfyUI gives a list."""
    if not isinstance(values, list) or len(values) != 1:
        raise Blip3oError(f"{name} is {described(values)}. Connect a node that gives one value, not a list.")
    return values[0]


def _numbers(values) -> list | None:
    """What ComfyUI gives for a list of numbers: each in an entry of its own, or all in one, also as a tensor.

    None is the place of a number that is missing; a list of nothing else is no list.
    """
    found: list = []
    for value in values if isinstance(values, list | tuple) else [values]:
        if hasattr(value, "flatten"):
            found += value.flatten().tolist()
        elif isinstance(value, list | tuple):
            found += value
        else:
            found.append(value)
    return found if any(value is not None for value in found) else None


def _names(schema) -> list[str]:
    names = []
    for slot in schema.inputs:
        inner = slot.template.names if isinstance(slot, io.Autogrow.Input) else None
        names.append(f"{slot.id}.{inner[0]} to {slot.id}.{inner[-1]}" if inner else slot.id)
    return names


def _checked(slot, value, name: str, files: tuple[str, ...] = ()):
    """`value` of the input `name` as the node may use it; Blip3oError says what is wrong with it."""
    if isinstance(slot, io.DynamicCombo.Input):
        return _chosen(slot, value)
    if isinstance(slot, io.Autogrow.Input):
        each = slot.template.input
        if not isinstance(value, dict):
            raise _wrong(name, value, WIRES[each.get_io_type()])
        return {k: v if v is None else _checked(each, v, f"{name}.{k}") for k, v in value.items()}
    if value is None and slot.optional:  # a link that is not connected
        return None
    kind = slot.get_io_type()
    if kind in WIRES:
        return _on_a_wire(value, kind, name)
    if kind in ("INT", "FLOAT"):
        return _number(value, kind == "INT", slot, name)
    if kind == "COMBO" and name not in files and value not in slot.options:
        raise Blip3oError(f"{name} is {described(value)}. Choose one of: {', '.join(slot.options)}.")
    if not isinstance(value, str):
        needed = "a name from the list" if kind == "COMBO" else "text"
        raise Blip3oError(f"{name} is {described(value)}, but it must be {needed}.")
    return value


def _chosen(slot, value) -> dict:
    """A dynamic combo with the inputs of its option. ComfyUI drops what it does not know, so `value` may be None."""
    value = value if isinstance(value, dict) else {slot.id: value}
    key = value.get(slot.id)
    option = next((option for option in slot.options if option.key == key), None)
    if option is None:
        known = " or ".join(repr(each.key) for each in slot.options)
        inner = [f"{slot.id}.{each.id}" for option in slot.options for each in option.inputs]
        raise Blip3oError(
            f"{slot.id} is missing, or not one of its options. Choose {known}. In an API prompt send it as text, and "
            f"its own inputs as {', '.join(inner)}."
        )
    given = [each for each in option.inputs if each.id in value]
    return {slot.id: key, **{each.id: _checked(each, value[each.id], f"{slot.id}.{each.id}") for each in given}}


def _number(value, whole: bool, slot, name: str) -> int | float:
    right = isinstance(value, numbers.Real) and (not whole or value % 1 == 0)
    bounds = f"{'a whole number' if whole else 'a number'} from {slot.min} to {slot.max}"
    if not right or not slot.min <= value <= slot.max:  # written so that NaN fails
        raise Blip3oError(f"{name} is {described(value)}. It must be {bounds}.")
    return int(value) if whole else float(value)


@dataclass(frozen=True)
class Wire:
    """What may travel on a link: whether a value is that, its name in a sentence, and where it comes from."""

    fits: Callable[[object], bool]
    what: str
    source: str


def _on_a_wire(value, kind: str, name: str):
    if not WIRES[kind].fits(value):
        raise _wrong(name, value, WIRES[kind])
    if kind == "IMAGE" and 0 in value.shape:
        raise Blip3oError(
            f"{name} is empty: its shape is {list(value.shape)}. The node that produced it gave no image. Connect "
            "another one."
        )
    return value


def _wrong(name: str, value, wire: Wire) -> Blip3oError:
    return Blip3oError(f"{name} is {described(value)}, but it must be {wire.what}. Connect {wire.source}.")


def described(value) -> str:
    """A value of any kind in a few words: "the number 5", "a tensor of shape (1, 2)"."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        return f"the text {shown(value, 60)!r}"
    if isinstance(value, numbers.Number):
        return f"the number {shown(value, 60)}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return "a dictionary with " + (shown(", ".join(map(str, value)), 60) if value else "nothing in it")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def _is_tensor(value, *dimensions: int) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.ndim in dimensions and value.is_floating_point()


def _is_image(value) -> bool:
    return _is_tensor(value, 4)


def _is_mask(value) -> bool:
    return _is_tensor(value, 2, 3)


def _is_latent(value) -> bool:
    return isinstance(value, dict) and _is_tensor(value.get("samples"), 3, 4, 5) and value["samples"].numel() > 0


def _is_conditioning(value) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_condition(each) for each in value)


def _is_condition(entry) -> bool:
    pair = isinstance(entry, list | tuple) and len(entry) == 2
    return pair and _is_tensor(entry[0], 3) and isinstance(entry[1], dict)


def _is_model(value) -> bool:
    import comfy.model_patcher

    return isinstance(value, comfy.model_patcher.ModelPatcher)


def _is_vae(value) -> bool:
    import comfy.sd

    return isinstance(value, comfy.sd.VAE)


def _is_language(value) -> bool:
    from .host.language import Language

    return isinstance(value, Language)


def _is_image_tokenizer(value) -> bool:
    from .host.image_tokenizer import ImageTokenizerPart

    return value is None or isinstance(value, ImageTokenizerPart)  # None: a checkpoint without one


def _is_tokens(value) -> bool:
    from ..blip3o_core.tokens.image_tokens import ImageTokens

    return isinstance(value, ImageTokens)


def _is_reference(value) -> bool:
    from ..blip3o_core.editing.references import References

    return isinstance(value, References)


WIRES = {
    "BLIP3O_LM": Wire(_is_language, "a language model", "the lm output of BLIP3o Loader"),
    "BLIP3O_TATOK": Wire(
        _is_image_tokenizer,
        "an image tokenizer",
        "the image_tokenizer output of BLIP3o Loader or of BLIP3o Image Tokenizer Loader",
    ),
    "BLIP3O_TOKENS": Wire(_is_tokens, "image tokens", "the tokens output of BLIP3o Token Generator"),
    "BLIP3O_REFERENCE": Wire(_is_reference, "a reference", "the reference output of BLIP3o Edit-Reference Encoder"),
    "MODEL": Wire(_is_model, "a diffusion model", "the model output of BLIP3o Loader"),
    "VAE": Wire(_is_vae, "a VAE", "the vae output of BLIP3o Loader"),
    "CONDITIONING": Wire(_is_conditioning, "conditioning", "an output of BLIP3o Hidden-State Conditioner"),
    "LATENT": Wire(_is_latent, "a latent", "Empty Latent Image, or VAE Encode with the VAE of BLIP3o Loader"),
    "IMAGE": Wire(_is_image, "an image", "Load Image, VAE Decode or another node that gives images"),
    "MASK": Wire(_is_mask, "a mask", "Load Image, or another node that gives masks"),
}
