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
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Turns image tokens into positive and negative conditioning for the sampler, and adds the "
            "reference of an edit. It stands where CLIP Text Encode stands with other models.",
            search_aliases=[
                "text encode",
                "clip text encode",
                "conditioning",
                "blip3o conditioning",
                "encode tokens",
                "reference strength",
                "hidden states",
                "connector",
            ],
            inputs=[
                LM.Input("lm", tooltip="The language model that wrote the tokens, from BLIP3o Loader."),
                TOKENS.Input(
                    "tokens",
                    tooltip="From BLIP3o Token Generator, or from Edit-Reference Encoder to render an image from its "
                    "tokens alone.",
                ),
                REFERENCE.Input(
                    "reference",
                    optional=True,
                    tooltip="For an edit: the images that the result stays close to. Connect it to the Token "
                    "Generator, too.",
                ),
                *_strengths(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive",
                    display_name="positive",
                    tooltip="What the image shows. Connect it to positive of BLIP3o Diffusion Sampler or KSampler.",
                ),
                io.Conditioning.Output(
                    "negative",
                    display_name="negative",
                    tooltip="The model's own empty prompt. Connect it to negative, in place of ConditioningZeroOut.",
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
    text = "1 is as trained. Lower values weaken the prompt and 0 ignores it, higher ones exaggerate it."
    mode = (
        "How the sampler sees the reference: in cross-attention, next to the noise, in both ways, or not at all with "
        "'tokens'. 'auto' uses all that the checkpoint can."
    )
    cross = "For edits: how strongly the sampler looks at the reference in cross-attention. 1 is as trained, 0 is off."
    noise = (
        "For edits: how strongly the sampler looks at the reference next to the noise. 1 is as trained, 0 is off; "
        "other values take twice as long."
    )
    return [
        decimal_input("text_strength", 1.0, 0.0, 3.0, 0.05, text, **more),
        io.Combo.Input("reference_mode", options=REFERENCE_MODES, tooltip=mode, **more),
        decimal_input("cross_strength", 1.0, 0.0, 10.0, 0.05, cross, **more),
        decimal_input("noise_strength", 1.0, 0.0, 3.0, 0.05, noise, **more),
    ]
