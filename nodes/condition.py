"""Image tokens -> cross-attention tokens."""

from .compat import io
from .sockets import CATEGORY, LM, REFERENCE, TOKENS, decimal_input


class HiddenStateConditioner(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oHiddenStateConditioner",
            display_name="BLIP3o Hidden-State Conditioner",
            category=CATEGORY,
            description="Turns the hidden states of image tokens into conditioning, and gives the null condition.",
            search_aliases=["blip3o conditioning", "hidden states", "connector", "encode tokens"],
            inputs=[
                LM.Input("lm", tooltip="The language model that wrote the tokens, or one with the same image tokens."),
                TOKENS.Input("tokens", tooltip="Read by the model once more if another model wrote them."),
                REFERENCE.Input("reference", optional=True, tooltip="For an edit: the pictures to be faithful to."),
                *_strengths(),
            ],
            outputs=[
                io.Conditioning.Output("positive", display_name="positive", tooltip="One vector per image token."),
                io.Conditioning.Output("negative", display_name="negative", tooltip="The model's own null condition."),
            ],
        )

    @classmethod
    def execute(
        cls,
        lm,
        tokens,
        reference=None,
        text_strength=1.0,
        cross_strength=1.0,
        noise_strength=1.0,
        reference_mode="auto",
    ):
        from ..blip3o_core.diffusion.reference_mode import Strengths

        strengths = Strengths(text_strength, cross_strength, noise_strength)
        return io.NodeOutput(*lm.conditionings(tokens, reference, strengths, reference_mode))


def _strengths():
    more = {"optional": True, "advanced": True}
    text = "How far the tokens count: 1 as trained, 0 is the null condition."
    cross = "How much attention looks at the references: 1 as trained, 0 not at all. No more work at any value."
    noise = "How far the reference beside the noise counts: 1 as trained, 0 not at all. In between doubles the work."
    mode = "Ways of the reference into the diffusion transformer. auto: all that the checkpoint has."
    return [
        decimal_input("text_strength", 1.0, 0.0, 3.0, 0.05, text, **more),
        decimal_input("cross_strength", 1.0, 0.0, 10.0, 0.05, cross, **more),
        decimal_input("noise_strength", 1.0, 0.0, 3.0, 0.05, noise, **more),
        io.Combo.Input("reference_mode", options=["auto", "tokens", "cross", "noise", "both"], tooltip=mode, **more),
    ]
