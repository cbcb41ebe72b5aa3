"""A LoRA on the language model, as patches that the host adds to the weights wherever they lie."""

import logging
from pathlib import Path

from comfy.weight_adapter import LoRAAdapter

from ...blip3o_core.weights.lora import language_matrices, read_lora
from . import notes
from .language import Language


def add_lora(lm: Language, file: Path, strength: float) -> Language:
    """A copy of the language model with the LoRA of a file. Raises Blip3oError unless all of the file fits."""
    if strength == 0:
        return lm
    lora = read_lora(file, language_matrices(lm.network))
    notes.tell([f"{file.name}: {lora.summary}, strength {strength:g}"], logging.INFO)
    if lm.is_quantised:
        notes.tell(
            [
                "The language model is stored in 8 bits, and ComfyUI rounds changed weights to 8 bits again: the LoRA "
                "acts less exactly. For an exact LoRA set lm_weights of BLIP3o Loader to 'same as dtype'."
            ]
        )
    patches = {}
    for name, change in lora.changes.items():
        # The host multiplies by alpha / rank.
        alpha = change.scale * change.down.shape[0]
        patches[name] = LoRAAdapter(set(), (change.up, change.down, alpha, None, None, None))
    return lm.with_patches(patches, strength, lora.identity(strength))
