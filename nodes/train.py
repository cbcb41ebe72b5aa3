"""Reinforcement learning of a LoRA, from within a graph."""

from .comfy_api import io
from .host import reward_files
from .inputs import Node
from .limits import MAX_BATCH
from .sockets import CATEGORY, LM, decimal_input


class TrainLora(Node):
    FILES = ("reward",)

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oTrainLoRA",
            display_name="BLIP3o Train LoRA by Reward",
            category=CATEGORY,
            is_output_node=True,
            has_intermediate_output=True,  # so that the note with the name is shown from the cache, too
            description="Trains a LoRA for the language model: it makes several images of each prompt, a reward judges "
            "them, and the LoRA learns to make more like the better ones (GRPO). Cancel keeps what was learnt.",
            search_aliases=[
                "train lora",
                "grpo",
                "reinforcement learning",
                "rlhf",
                "reward training",
                "fine-tune",
                "finetune",
                "preference training",
            ],
            inputs=_inputs(),
            outputs=[
                LM.Output(
                    "lm",
                    display_name="lm",
                    tooltip="The language model with the new LoRA. Connect it to both Token Generator and Conditioner.",
                ),
                io.Combo.Output(
                    "lora_name",
                    display_name="lora_name",
                    tooltip="The new LoRA. Connect it to lora_name of BLIP3o LoRA Loader to choose its strength.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, reward):
        """As for BLIP3o Loader: `run` says what is missing, and where it belongs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, reward, **_):
        return reward_files.fingerprint(reward)

    @classmethod
    def run(
        cls, lm, prompts, reward, file_name, seed=0, updates=100, group=8, learning_rate=1e-4, rank=16, kl=0.04,
        reference=None, mask=None,
    ):  # fmt: skip
        from .host.training import Request, train

        wanted = Request(prompts, reward, file_name, updates, group, learning_rate, rank, kl, seed, reference, mask)
        tuned, name, shown = train(lm, wanted)
        return io.NodeOutput(tuned, name, ui=shown)


def _inputs():
    return [
        LM.Input("lm", tooltip="From BLIP3o Loader, without LoRAs. Training starts from its checkpoint."),
        io.String.Input(
            "prompts",
            multiline=True,
            default="",
            tooltip="What to practise: a prompt on each line, better 50 than 5. From 16 on, some are left out of "
            "training to measure with.",
        ),
        io.Combo.Input(
            "reward",
            options=reward_files.names(),
            tooltip="What judges the images: text reads words in quotes, consistency compares an edit with its "
            "reference, tiny knows the bundled model. Others are in models/blip3o_rewards.",
        ),
        io.String.Input(
            "file_name",
            default="BLIP3o-reward",
            tooltip="The LoRA becomes a folder of this name in models/loras. If there is one, a number is added.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**32 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Decides which images are made in training. Another seed learns a slightly different LoRA.",
        ),
        io.Int.Input(
            "updates",
            default=100,
            min=1,
            max=100000,
            tooltip="How often the LoRA learns from new images. The curve on the node shows when more gains nothing.",
        ),
        io.Int.Input(
            "group",
            default=8,
            min=2,
            max=MAX_BATCH,
            tooltip="Images of each prompt that are compared with each other in an update. More learn steadier and "
            "take longer.",
        ),
        decimal_input(
            "learning_rate",
            1e-4,
            1e-7,
            1.0,
            1e-7,
            "How far each update changes the LoRA. Lower it if the images fall apart.",
            optional=True,
            advanced=True,
        ),
        io.Int.Input(
            "rank",
            default=16,
            min=1,
            max=256,
            optional=True,
            advanced=True,
            tooltip="The size of the LoRA. More can learn more, and takes more memory.",
        ),
        decimal_input(
            "kl",
            0.04,
            0.0,
            10.0,
            0.001,
            "Holds the LoRA near the checkpoint. Raise it if the reward rises and the images get worse; 0 lets go.",
            optional=True,
            advanced=True,
        ),
        io.Image.Input(
            "reference",
            optional=True,
            tooltip="To practise edits: the images that prompts change. Image k belongs to line k; a single image to "
            "all lines.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="With reference: white where the edit may change it. Only rewards use it; consistency needs it.",
        ),
    ]
