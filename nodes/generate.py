"""Prompt -> image tokens."""

from .comfy_api import io
from .inputs import Node
from .limits import MAX_BATCH
from .sockets import CATEGORY, LM, REFERENCE, TOKENS, decimal_input, seed_input

VOCABULARIES = ["image tokens", "full"]
SPECIAL_TOKENS = ["as text", "parse"]
PROMPT_LINES = ["one prompt", "one per line"]


class TokenGenerator(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oTokenGenerator",
            display_name="BLIP3o Token Generator",
            category=CATEGORY,
            description="The language model writes the image as tokens. This decides what the image shows.",
            search_aliases=["autoregressive", "blip3o prompt", "image tokens", "qwen3", "text to image", "txt2img"],
            inputs=[
                LM.Input("lm", tooltip="From BLIP3o Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image shows. With a reference: what to change.",
                ),
                seed_input(
                    "seed", "A new seed gives a new image. Further images of a batch use seed + 1, seed + 2, ..."
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=MAX_BATCH, tooltip="How many images to write at once."
                ),
                io.DynamicCombo.Input(
                    "sampling",
                    options=_sampling(),
                    tooltip="'sample' picks every token at random among the likely ones. 'greedy' takes the likeliest.",
                ),
                REFERENCE.Input("reference", optional=True, tooltip="For an edit: from BLIP3o Edit-Reference Encoder."),
                *_advanced(),
            ],
            outputs=[
                TOKENS.Output(
                    "tokens", display_name="tokens", tooltip="Connect it to BLIP3o Hidden-State Conditioner."
                ),
                io.String.Output("info", display_name="info", tooltip="Seeds and token counts, for Preview as Text."),
            ],
        )

    @classmethod
    def run(
        cls, lm, prompt, seed, batch_size=1, sampling=None, negative_prompt="", token_guidance=1.0,
        vocabulary=VOCABULARIES[0], special_tokens=SPECIAL_TOKENS[0], reference=None, prompt_lines=PROMPT_LINES[0],
    ):  # fmt: skip
        from .host.generation import describe, prompts_of, sampling_of

        chosen = sampling_of(sampling, token_guidance, vocabulary)
        rows = prompts_of(prompt, batch_size, prompt_lines == "one per line")
        tokens = lm.generate_tokens(rows, seed, chosen, negative_prompt, special_tokens == "parse", reference)
        return io.NodeOutput(tokens, describe(tokens, lm, reference))


def _sampling():
    """top-k, then top-p on the survivors, temperature 1: the defaults are the authors'."""
    top_k = "Choose among this many of the likeliest tokens. 0 keeps all."
    top_p = "Then keep the likeliest tokens that together have this probability."
    return [
        io.DynamicCombo.Option(
            "sample",
            [
                io.Int.Input("top_k", default=1200, min=0, max=65536, tooltip=top_k),
                decimal_input("top_p", 0.95, 0.01, 1.0, 0.01, top_p),
                decimal_input("temperature", 1.0, 0.01, 5.0, 0.01, "Lower is safer, higher is more varied."),
            ],
        ),
        io.DynamicCombo.Option("greedy", []),
    ]


def _advanced():
    more = {"optional": True, "advanced": True}
    negative = "Negative prompt for token_guidance. Unused while token_guidance is 1."
    guidance = "How strongly the tokens follow the prompt. 1 is off; higher values take about twice as long."
    vocabulary = (
        "'image tokens' always writes a whole image. 'full' also allows text and end tokens, as the authors' code "
        "does, and may end an image early."
    )
    special = (
        "'as text' reads <|im_end|> or <I7> in a prompt letter by letter. 'parse' turns them into special tokens, as "
        "the authors' code does."
    )
    lines = "'one per line' makes every line a prompt of its own. Each one is written batch_size times."
    return [
        io.String.Input("negative_prompt", multiline=True, default="", dynamic_prompts=True, tooltip=negative, **more),
        decimal_input("token_guidance", 1.0, 1.0, 20.0, 0.1, guidance, **more),
        io.Combo.Input("vocabulary", options=VOCABULARIES, tooltip=vocabulary, **more),
        io.Combo.Input("special_tokens", options=SPECIAL_TOKENS, tooltip=special, **more),
        io.Combo.Input("prompt_lines", options=PROMPT_LINES, tooltip=lines, **more),
    ]
