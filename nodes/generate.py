"""Prompt -> image tokens."""

from .compat import io
from .sockets import CATEGORY, LM, REFERENCE, TOKENS, decimal_input, seed_input


class TokenGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oTokenGenerator",
            display_name="BLIP3o Token Generator",
            category=CATEGORY,
            description="The language model writes the picture as image tokens: this decides what is in it.",
            search_aliases=["autoregressive", "blip3o prompt", "image tokens", "qwen3"],
            inputs=[
                LM.Input("lm", tooltip="From BLIP3o Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw, or with references what to change.",
                ),
                seed_input("seed", "Token seed: another seed, another picture. Row k of a batch uses seed + k."),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Pictures to write at once."),
                io.DynamicCombo.Input(
                    "sampling", options=_sampling(), tooltip="greedy always takes the likeliest token."
                ),
                REFERENCE.Input("reference", optional=True, tooltip="For an edit: what the instruction is about."),
                *_advanced(),
            ],
            outputs=[
                TOKENS.Output("tokens", display_name="tokens", tooltip="Codes, with the hidden states behind them."),
                io.String.Output("info", display_name="info", tooltip="What was drawn, for a text preview."),
            ],
        )

    @classmethod
    def execute(
        cls, lm, prompt, seed, batch_size=1, sampling=None, negative_prompt="", token_guidance=1.0,
        vocabulary="image tokens", special_tokens="as text", reference=None, prompt_lines="one prompt",
    ):  # fmt: skip
        from .host.language import describe, rows_of, settings

        chosen = settings(sampling, token_guidance, vocabulary)
        rows = rows_of(prompt, batch_size, prompt_lines == "one per line")
        tokens = lm.generate_tokens(rows, seed, chosen, negative_prompt, special_tokens == "parse", reference)
        return io.NodeOutput(tokens, describe(tokens, lm, reference))


def _sampling():
    """top-k, then top-p on the survivors, temperature 1: the defaults are the authors'."""
    return [
        io.DynamicCombo.Option(
            "sample",
            [
                io.Int.Input(
                    "top_k", default=1200, min=0, max=65536, tooltip="Keep the k likeliest tokens; 0 keeps all."
                ),
                decimal_input("top_p", 0.95, 0.01, 1.0, 0.01, "Of those, the likeliest that make up this probability."),
                decimal_input("temperature", 1.0, 0.01, 5.0, 0.01, "Below 1 safer, above 1 wilder."),
            ],
        ),
        io.DynamicCombo.Option("greedy", []),
    ]


def _advanced():
    more = {"optional": True, "advanced": True}
    negative = "What token guidance leads away from. Unused while token_guidance is 1."
    guidance = "Guidance on the token probabilities; 1 is off, as in the authors' code. More doubles the work."
    vocabulary = (
        "full is the authors' way: text and end tokens may be sampled, and an end token cuts the picture short."
    )
    special = "parse is the authors' way: chat and image tokens spelled in a prompt act as tokens."
    lines = "one per line: every line of the prompt is a prompt of its own, batch_size times."
    return [
        io.String.Input("negative_prompt", multiline=True, default="", tooltip=negative, **more),
        decimal_input("token_guidance", 1.0, 1.0, 20.0, 0.1, guidance, **more),
        io.Combo.Input("vocabulary", options=["image tokens", "full"], tooltip=vocabulary, **more),
        io.Combo.Input("special_tokens", options=["as text", "parse"], tooltip=special, **more),
        io.Combo.Input("prompt_lines", options=["one prompt", "one per line"], tooltip=lines, **more),
    ]
