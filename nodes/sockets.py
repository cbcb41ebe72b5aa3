"""The project's own wire types, and what always holds on them. Everything else travels on ComfyUI's types.

- BLIP3O_LM: `host.language.Language`, the language model, connector and prompt encoder of one checkpoint.
- BLIP3O_TATOK: `host.image_tokenizer.ImageTokenizerPart`, or None when the checkpoint has no image tokenizer.
- BLIP3O_TOKENS: `blip3o_core.tokens.ImageTokens`: codes (B, H*W) int64 in [0, K), row-major on grid (H, W), with the
  prompt ids and seeds they were generated with, and optionally hidden states (B, 1 + H*W, D) on the CPU. With the full
  vocabulary a row may have fewer or other codes. Never changed in place: prompts share outputs.
- BLIP3O_REFERENCE: `blip3o_core.editing.references.References`: one to eight images as codes (n, H*W), features, and
  latents (1, C, h_i, w_i), unscaled, each at its own aspect ratio. Never changed in place.

The first two have a `.patcher`, through which ComfyUI manages their memory and holds patches that a node adds.
"""

from .comfy_api import io

LM = io.Custom("BLIP3O_LM")
IMAGE_TOKENIZER = io.Custom("BLIP3O_TATOK")
TOKENS = io.Custom("BLIP3O_TOKENS")
REFERENCE = io.Custom("BLIP3O_REFERENCE")

CATEGORY = "BLIP3o-NEXT"


def seed_input(id: str, tooltip: str, after=io.ControlAfterGenerate.randomize):
    """A seed widget. `after`: what the page does with it after each run, until the user chooses otherwise."""
    return io.Int.Input(id, default=0, min=0, max=2**64 - 1, control_after_generate=after, tooltip=tooltip)


def decimal_input(id: str, default: float, low: float, high: float, step: float, tooltip: str, **options):
    return io.Float.Input(id, default=default, min=low, max=high, step=step, tooltip=tooltip, **options)
