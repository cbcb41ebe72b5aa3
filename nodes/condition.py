"""Image tokens -> cross-attention tokens."""

from .comfy_api import io
from .inputs import Node
from .sockets import CATEGORY, LM, REFERENCE, TOKENS, decimal_input

REFERENCE_MODES = ["auto", "tokens", "cross", "noise", "both"]


class HiddenStateConditioner(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oHiddenStateConditioner",
            display_name="BLIP3o Hidden-State Conditioner",
            category=CATEGORY,
            description="Turns the hidden states of image tokens into positive and negative conditioning.",
            search_aliases=["blip3o conditioning", "hidden states", "connector", "encode tokens", "reference strength"],
            inputs=[
                LM.Input("lm", tooltip="From BLIP3o Loader: the language model that wrote the tokens."),
                TOKENS.Input(
                    "tokens", tooltip="Image tokens. The language model reads them again if another model wrote them."
                ),
                REFERENCE.Input(
                    "reference", optional=True, tooltip="For an edit: the images that the result should stay close to."
                ),
                *_strengths(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="The image tokens as conditioning."
                ),
                io.Conditioning.Output(
                    "negative",
                    display_name="negative",
                    tooltip="The model's own empty condition. Use it as negative instead of ConditioningZeroOut.",
                ),
            ],
        )

    @classmethod
    def run(
        cls, lm, tokens, reference=None, text_strength=1.0, reference_mode=REFERENCE_MODES[0], cross_strength=1.0,
        noise_strength=1.0,
    ):  # fmt: skip
        from ..blip3o_core.diffusion.reference_mode import Strengths

        strengths = Strengths(text_strength, cross_strength, noise_strength)
        return io.NodeOutput(*lm.conditionings(tokens, reference, strengths, reference_mode))


def _strengths():
    more = {"optional": True, "advanced": True}
    text = "Strength of the image tokens, and so of the prompt. 1 is as trained, 0 ignores them."
    mode = (
        "Where the diffusion sees the reference: in cross-attention, next to the noise, or both; 'tokens' is neither. "
        "'auto' takes all that the checkpoint supports."
    )
    cross = "Strength of the reference in cross-attention. 1 is as trained, 0 is off; the speed does not change."
    noise = "Strength of the reference next to the noise. 1 is as trained, 0 is off; other values take twice as long."
    return [
        decimal_input("text_strength", 1.0, 0.0, 3.0, 0.05, text, **more),
        io.Combo.Input("reference_mode", options=REFERENCE_MODES, tooltip=mode, **more),
        decimal_input("cross_strength", 1.0, 0.0, 10.0, 0.05, cross, **more),
        decimal_input("noise_strength", 1.0, 0.0, 3.0, 0.05, noise, **more),
    ]
