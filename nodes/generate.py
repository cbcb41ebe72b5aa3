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
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Writes the image that your prompt describes, as image tokens. They decide what the image "
            "shows; the sampler renders them.",
            search_aliases=[
                "text to image",
                "txt2img",
                "t2i",
                "generate image",
                "image generation",
                "prompt",
                "text encode",
                "blip3o prompt",
                "image tokens",
                "autoregressive",
                "qwen3",
            ],
            inputs=[
                LM.Input("lm", tooltip="From BLIP3o Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image shows, in a sentence. With a reference: what to change, such as 'make the "
                    "sky red'.",
                ),
                seed_input(
                    "seed",
                    "Another seed gives another image of the prompt. While it stays, the tokens are kept, and a new "
                    "noise_seed only renders them again.",
                    after=io.ControlAfterGenerate.fixed,
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=MAX_BATCH,
                    tooltip="How many different images to write at once, with seed, seed + 1, seed + 2 and so on. More "
                    "take more memory.",
                ),
                sampling_input(),
                REFERENCE.Input(
                    "reference",
                    optional=True,
                    tooltip="For an edit: the images to change, from BLIP3o Edit-Reference Encoder. Connect it to the "
                    "Conditioner, too.",
                ),
                *_advanced(),
                *_shown_while_writing(),
            ],
            outputs=[
                TOKENS.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="The image as tokens. Connect it to BLIP3o Hidden-State Conditioner.",
                ),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="Seeds, token counts and warnings as text. Preview as Text shows it.",
                ),
            ],
        )

    @classmethod
    def run(
        cls, lm, prompt, seed, batch_size=1, sampling=None, negative_prompt="", token_guidance=1.0,
        vocabulary=VOCABULARIES[0], special_tokens=SPECIAL_TOKENS[0], reference=None, prompt_lines=PROMPT_LINES[0],
        model=None, vae=None,
    ):  # fmt: skip
        from .host.generation import describe, prompts_of, sampling_of

        lm = lm if model is None or vae is None else lm.shown_by(model, vae)
        chosen = sampling_of(sampling, token_guidance, vocabulary)
        rows = prompts_of(prompt, batch_size, prompt_lines == "one per line")
        tokens = lm.generate_tokens(rows, seed, chosen, negative_prompt, special_tokens == "parse", reference)
        return io.NodeOutput(tokens, describe(tokens, lm, reference))


def sampling_input():
    """top-k, then top-p on the survivors, temperature 1: the defaults are the authors'."""
    tooltip = (
        "'sample' picks each token at random among the likely ones: every seed gives another image. 'greedy' takes the "
        "likeliest: the seed changes nothing."
    )
    top_k = (
        "Each token is picked among this many of the likeliest. 1200 is the authors' value; fewer is safer and less "
        "varied, 0 keeps all."
    )
    top_p = (
        "Leaves out the most unlikely of these tokens. 0.95 is the authors' value; lower is safer and less varied, "
        "1 leaves out none."
    )
    temperature = (
        "1 is the authors' value. Lower keeps to likely shapes, higher gives more surprises and more mistakes."
    )
    sample = [
        io.Int.Input("top_k", default=1200, min=0, max=65536, tooltip=top_k),
        decimal_input("top_p", 0.95, 0.01, 1.0, 0.01, top_p),
        decimal_input("temperature", 1.0, 0.01, 5.0, 0.01, temperature),
    ]
    options = [io.DynamicCombo.Option("sample", sample), io.DynamicCombo.Option("greedy", [])]
    return io.DynamicCombo.Input("sampling", options=options, tooltip=tooltip)


def guidance_inputs():
    """The negative prompt and how strongly the tokens are led away from it."""
    more = {"optional": True, "advanced": True}
    negative = "What the image should not show. It acts only while token_guidance is above 1."
    guidance = (
        "1 is off, as in the authors' code. Higher values follow the prompt more closely and take about twice as long."
    )
    return [
        io.String.Input("negative_prompt", multiline=True, default="", dynamic_prompts=True, tooltip=negative, **more),
        decimal_input("token_guidance", 1.0, 1.0, 20.0, 0.1, guidance, **more),
    ]


def _advanced():
    more = {"optional": True, "advanced": True}
    vocabulary = (
        "'image tokens' always writes a whole image. 'full' may also write words or end an image early, as the "
        "authors' code does."
    )
    special = (
        "'as text' reads <|im_end|> or <I7> in a prompt as plain letters. 'parse' turns them into control tokens, as "
        "the authors' code does."
    )
    lines = "'one per line' makes an image of every line of the prompt. Each line is written batch_size times."
    return [
        *guidance_inputs(),
        io.Combo.Input("vocabulary", options=VOCABULARIES, tooltip=vocabulary, **more),
        io.Combo.Input("special_tokens", options=SPECIAL_TOKENS, tooltip=special, **more),
        io.Combo.Input("prompt_lines", options=PROMPT_LINES, tooltip=lines, **more),
    ]


def _shown_while_writing():
    model = (
        "With model and vae connected, a rough render of the tokens so far is shown about once per quarter. It changes "
        "no token."
    )
    vae = "The VAE for the rough renders, from BLIP3o Loader. Without it, or without model, the mosaic is shown."
    return [io.Model.Input("model", optional=True, tooltip=model), io.Vae.Input("vae", optional=True, tooltip=vae)]
