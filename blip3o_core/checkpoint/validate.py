"""Compare every tensor of a checkpoint with the networks that its config files describe."""

from ..models import image_tokenizer, meanflow
from ..weights.names import (
    EDIT_CONNECTORS,
    FEATURES_CONNECTOR,
    LANGUAGE_PREFIXES,
    REFERENCE_CONNECTOR,
    SANA,
    VAE,
)
from ..weights.tensors import mismatches
from .facts import IMAGE_TOKENIZER, TRANSFORMER, CheckpointFacts
from .networks import build

_KNOWN_PREFIXES = (*LANGUAGE_PREFIXES, SANA, VAE, image_tokenizer.PREFIX, *EDIT_CONNECTORS.values())


def strays(facts: CheckpointFacts) -> list[str]:
    """The tensors that belong to no part: what a training left in the file. They are not loaded."""
    return [name for name in facts.tensors if not name.startswith(_KNOWN_PREFIXES)]


def find_problems(facts: CheckpointFacts) -> list[str]:
    """What is missing, unexpected or of another shape, a line each; empty when every tensor fits.

    Raises Blip3oError when a part cannot be built at all.
    """
    lines = _connector_problems(facts)
    lines += [f"{TRANSFORMER}, {line}" for line in meanflow.missing_half(facts.parts[TRANSFORMER])]
    ignored = {
        TRANSFORMER: (meanflow.UNUSED_PREFIX,) if facts.is_meanflow else (),
        IMAGE_TOKENIZER: image_tokenizer.UNUSED_PREFIXES,
    }
    for part, tensors in facts.parts.items():
        lines += [f"{part}, {line}" for line in mismatches(build(facts, part), tensors, ignored.get(part, ()))]
    return lines


def _connector_problems(facts: CheckpointFacts) -> list[str]:
    """Connectors that the edit switches ask for and that are missing, or take another width; a line each."""
    mode, latents = facts.reference_mode, facts.autoencoder_config["latent_channels"]
    expected = [(REFERENCE_CONNECTOR, mode.cross, latents, "latent channels")]
    if facts.image_tokenizer_config:
        width = facts.image_tokenizer_config.hidden_size
        expected.append((FEATURES_CONNECTOR, mode.features, width, "features of the image tokenizer"))
    lines = []
    for name, needed, width, what in expected:
        entry = facts.tensors.get(name + "0.weight")
        if needed and entry is None:
            lines.append(f"missing: {name}*, which config.json asks for; add-references makes a new one")
        elif entry is not None and entry.shape[1] != width:
            lines.append(f"shape: {name}0.weight takes {entry.shape[1]}, there are {width} {what}")
    return lines
