"""Image tokens -> cross-attention tokens."""

from .compat import io
from .sockets import CATEGORY, LM, TOKENS


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
            ],
            outputs=[
                io.Conditioning.Output("positive", display_name="positive", tooltip="One vector per image token."),
                io.Conditioning.Output("negative", display_name="negative", tooltip="The model's own null condition."),
            ],
        )

    @classmethod
    def execute(cls, lm, tokens):
        return io.NodeOutput(*lm.conditionings(tokens))
