"""Image tokens put together, compared and shown."""

import logging

from .comfy_api import io, ui
from .inputs import Node
from .sockets import CATEGORY, TOKENS

CELL_PIXELS = 16


class SpliceTokens(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oSpliceTokens",
            display_name="BLIP3o Splice Tokens",
            category=CATEGORY,
            description="Puts a part of one image into another, before either is rendered: the tokens under the mask "
            "come from the second image.",
            search_aliases=["splice tokens", "combine tokens", "merge drafts", "mix tokens", "mask tokens"],
            inputs=[
                TOKENS.Input("base", tooltip="The image that stays outside the mask. Its prompt is kept."),
                TOKENS.Input("other", tooltip="The image that the marked cells come from, of the same checkpoint."),
                io.Mask.Input(
                    "mask",
                    tooltip="Marks the cells to take from other; a cell counts as soon as the mask touches it. Any "
                    "size, over the whole image.",
                ),
            ],
            outputs=[
                TOKENS.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="The spliced image. BLIP3o Hidden-State Conditioner reads its tokens once more.",
                )
            ],
        )

    @classmethod
    def run(cls, base, other, mask):
        from ..blip3o_core.tokens.compose import cells_of_mask, splice

        return io.NodeOutput(splice(base, other, cells_of_mask(mask, base.grid)))


class CompareTokens(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oCompareTokens",
            display_name="BLIP3o Compare Tokens",
            category=CATEGORY,
            description="Shows in which cells two images have different tokens, and how many are equal.",
            search_aliases=["compare tokens", "token difference", "diff tokens", "compare drafts"],
            inputs=[
                TOKENS.Input("a", tooltip="One image."),
                TOKENS.Input("b", tooltip="The other image, of the same checkpoint."),
                cell_input(),
            ],
            outputs=[
                io.Mask.Output(
                    "mask", display_name="mask", tooltip="1 where the tokens differ, a pixel for each cell of the grid."
                ),
                io.Float.Output("equal", display_name="equal", tooltip="The share of equal tokens: 1 if all are."),
                io.String.Output(
                    "info", display_name="info", tooltip="Counts in words, for each image. Preview as Text shows it."
                ),
                io.Image.Output(
                    "image",
                    display_name="image",
                    tooltip="Both grids next to each other. Different cells are bright and framed, equal ones dim.",
                ),
            ],
        )

    @classmethod
    def run(cls, a, b, cell_pixels=CELL_PIXELS):
        from .host.token_images import compare

        return io.NodeOutput(*compare(a, b, cell_pixels))


class ViewTokens(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oViewTokens",
            display_name="BLIP3o View Tokens",
            category=CATEGORY,
            is_output_node=True,
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Shows image tokens as a grid of colours, a square for each token, and lists their codes.",
            search_aliases=["view tokens", "preview tokens", "show tokens", "token grid", "mosaic", "codes"],
            inputs=[TOKENS.Input("tokens", tooltip="The image tokens to show."), cell_input()],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The grid as an image, one for each row."),
                io.String.Output(
                    "codes",
                    display_name="codes",
                    tooltip="A line for each token: image, row, column and code, counted from 0.",
                ),
            ],
        )

    @classmethod
    def run(cls, tokens, cell_pixels=CELL_PIXELS):
        from ..blip3o_core.tokens.show import codes_as_text
        from .host import notes, token_images

        image, true = token_images.view(tokens, cell_pixels)
        if not true:
            notes.tell([token_images.ARBITRARY], logging.INFO)
        return io.NodeOutput(image, codes_as_text(tokens), ui=ui.PreviewImage(image, cls=cls).as_dict())


def cell_input():
    tooltip = "Pixels on a side of each square of the image. It changes nothing but the size of what is shown."
    return io.Int.Input("cell_pixels", default=CELL_PIXELS, min=1, max=64, optional=True, tooltip=tooltip)
