"""What a creator asks of a checkpoint first: how large, how much memory, which sizes, can it edit."""

from ..checkpoint import AUTOENCODER, IMAGE_TOKENIZER, LANGUAGE, TRANSFORMER, Checkpoint
from ..checkpoint.bundled import NAME, display_name
from ..checkpoint.diffusion_folder import describe_source
from ..files import size_in_words

_PROMPT = 60  # tokens of a prompt, as docs/memory.md counts


def overview(checkpoint: Checkpoint) -> str:
    """A line for each question. Sizes are of the files' headers; memory is counted from shapes, not measured."""
    c = checkpoint
    name = display_name(c.folder)
    side, multiple = c.trained_side, c.latent_multiple
    lines = [
        ("checkpoint", f"{name}: coloured shapes and short words only" if name == NAME else name),
        ("on disk", size_in_words(sum(file.stat().st_size for file in {entry.file for entry in c.tensors.values()}))),
        ("memory", _memory(c)),
        ("image size", f"{side}x{side}; other sizes in multiples of {multiple} pixels"),
        ("can edit", _edits(c)),
        ("configs from", f"{describe_source(c.folder, c.diffusion_folder)} (how SANA and the autoencoder are built)"),
    ]
    return "\n".join(f"{question:16}{answer}" for question, answer in lines)


def _memory(c: Checkpoint) -> str:
    """Weights as this program loads them, and the most that one of the acts needs beside them."""
    from .. import memory
    from ..checkpoint.networks import build
    from ..weights.tensors import loaded_dtype

    weights, networks, dtypes = {}, {}, {}
    for part in c.parts:
        networks[part] = build(c, part)
        dtypes[part] = loaded_dtype(c.parts[part])
        weights[part] = memory.weight_bytes(networks[part], dtypes[part])
    language, tokens = networks[LANGUAGE].config, c.grid[0] * c.grid[1]
    cells = (c.trained_side // c.latent_multiple) ** 2
    work = max(
        memory.lm_decode_bytes(language, 1, _PROMPT + tokens, c.vocabulary.num_codes, dtypes[LANGUAGE]),
        memory.diffusion_bytes(c.transformer_config, 2, cells, dtypes[TRANSFORMER]),
        memory.vae_bytes(networks[AUTOENCODER].config, c.trained_side**2, dtypes[AUTOENCODER]),
    )
    base = sum(weights[part] for part in (LANGUAGE, TRANSFORMER, AUTOENCODER))
    edit = weights.get(IMAGE_TOKENIZER, 0)
    more = f"; to edit, {size_in_words(edit)} more" if edit else ""
    return f"about {size_in_words(base + work)} for one image, of it {size_in_words(base)} weights{more} (counted)"


def _edits(c: Checkpoint) -> str:
    from ..editing.references import MAX_REFERENCES

    if c.image_tokenizer_config is None:
        return "no, the checkpoint has no image tokenizer"
    if c.family != "edit":
        return "it was not trained for edits; references reach it through their image tokens alone"
    each = c.grid[0] * c.grid[1]
    room = max(1, min(MAX_REFERENCES, (c.prompt_limit - _PROMPT) // each))
    modes = [name for name, on in (("cross", c.reference_mode.cross), ("noise", c.reference_mode.noise)) if on]
    both = ["both"] if len(modes) == 2 else []
    images = "1 reference" if room == 1 else f"up to {room} references"
    return f"yes, with {images} (reference modes: {', '.join(['tokens', *modes, *both])})"
