"""Many drafts -> the one to finish."""

from .comfy_api import io
from .inputs import Node
from .limits import MAX_BATCH
from .sockets import CATEGORY, TOKENS


class ChooseDraft(Node):
    LISTS = ("scores",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oChooseDraft",
            display_name="BLIP3o Choose Draft",
            category=CATEGORY,
            is_output_node=True,  # so that the drafts are shown although nothing behind them runs yet
            has_intermediate_output=True,
            is_input_list=True,
            description="Shows quick renders of several drafts. Click one and run again: only that one is finished, "
            "and no token is written again.",
            search_aliases=["choose draft", "pick image", "select from batch", "image chooser", "best of n", "drafts"],
            inputs=[
                TOKENS.Input("tokens", tooltip="The drafts: several rows, from BLIP3o Token Generator."),
                io.Image.Input("images", tooltip="A quick render of each draft, in the same order."),
                io.Int.Input(
                    "choice",
                    default=0,
                    min=0,
                    max=MAX_BATCH,
                    tooltip="The draft to finish, counted from 1; a click on a draft sets it. 0 waits, or takes the "
                    "best if scores are connected.",
                ),
                io.Float.Input(
                    "scores",
                    optional=True,
                    force_input=True,
                    min=-1e9,
                    max=1e9,
                    tooltip="A number for each draft, higher is better: a list of FLOAT, or one FLOAT that holds a "
                    "list.",
                ),
            ],
            outputs=[
                TOKENS.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="The chosen draft with its hidden states, for BLIP3o Hidden-State Conditioner.",
                ),
                io.Image.Output("image", display_name="image", tooltip="The quick render of the chosen draft."),
                io.Int.Output(
                    "index",
                    display_name="index",
                    tooltip="The chosen draft, counted from 0. Connect it to batch_index of Latent From Batch: the "
                    "draft keeps its noise.",
                ),
            ],
        )

    @classmethod
    def run(cls, tokens, images, choice=0, scores=None):
        from .host.drafts import choose

        outputs, shown = choose(tokens, images, choice, scores)
        return io.NodeOutput(*outputs, ui=shown)
