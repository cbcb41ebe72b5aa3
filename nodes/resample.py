"""Image tokens -> the same with some of them written again."""

from .comfy_api import io
from .generate import guidance_inputs, sampling_input
from .inputs import Node
from .sockets import CATEGORY, LM, REFERENCE, TOKENS, seed_input


class ResampleTokens(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oResampleTokens",
            display_name="BLIP3o Re-sample Tokens",
            category=CATEGORY,
            has_intermediate_output=True,  # so that the canvas and the notes are shown from the cache, too
            description="Writes the tokens again that you brush on the canvas, and keeps all others. So a part of the "
            "image becomes something else and the rest stays.",
            search_aliases=[
                "inpaint",
                "inpaint tokens",
                "token canvas",
                "brush",
                "freeze",
                "resume",
                "regenerate region",
                "variation",
                "resample",
                "masked generation",
            ],
            inputs=[
                LM.Input("lm", tooltip="The language model that wrote the tokens, from BLIP3o Loader."),
                TOKENS.Input("tokens", tooltip="The image to change, from BLIP3o Token Generator."),
                io.String.Input("marks", default="", tooltip=_MARKS),
                seed_input(
                    "seed",
                    "Another seed fills the marked cells in another way. Further images of a batch count on from it.",
                    after=io.ControlAfterGenerate.fixed,
                ),
                sampling_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Marks every cell that its white part touches, besides those you brush. It may have any "
                    "size.",
                ),
                REFERENCE.Input(
                    "reference",
                    optional=True,
                    tooltip="The reference that the tokens were written with. You need it only where prompt or "
                    "token_guidance is set, too.",
                ),
                *_advanced(),
            ],
            outputs=[
                TOKENS.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="The image with the new tokens. Connect it to BLIP3o Hidden-State Conditioner.",
                ),
                io.Mask.Output(
                    "mask", display_name="mask", tooltip="The marked cells, one pixel each: 1 is written again."
                ),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="Which cells were written again and how many codes changed. Preview as Text shows it.",
                ),
            ],
        )

    @classmethod
    def run(
        cls, lm, tokens, marks, seed, sampling=None, from_token=-1, prompt="", negative_prompt="", token_guidance=1.0,
        mask=None, reference=None,
    ):  # fmt: skip
        from .host.generation import sampling_of
        from .host.resample import Context, describe, marked_cells, resample, shown

        chosen = sampling_of(sampling, token_guidance, "image tokens")
        marked = marked_cells(tokens, marks, mask, from_token)
        written = resample(lm, tokens, marked, seed, chosen, Context(prompt, negative_prompt, reference))
        info = describe(tokens, written, marked)
        return io.NodeOutput(written, marked.float(), info, ui=shown(lm, written))


_MARKS = (
    "The cells to write again, as the canvas writes them: '27x27: 3-7, 30' is the grid and the cells, row by row from "
    "0. Empty marks nothing."
)


def _advanced():
    more = {"optional": True, "advanced": True}
    first = "Marks every token from this one on, counted row by row from 0: the image is resumed there. -1 marks none."
    prompt = "Another prompt for the marked cells. Empty keeps the one that the tokens were written with."
    return [
        io.Int.Input("from_token", default=-1, min=-1, max=65535, tooltip=first, **more),
        io.String.Input("prompt", multiline=True, default="", dynamic_prompts=True, tooltip=prompt, **more),
        *guidance_inputs(),
    ]
