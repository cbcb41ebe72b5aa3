"""Training of a LoRA, from within a graph: by a reward, or on images."""

from .comfy_api import io
from .host import curated, reward_files
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
            outputs=_outputs(),
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


class TrainLoraOnImages(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oTrainLoRAOnImages",
            display_name="BLIP3o Train LoRA on Images",
            category=CATEGORY,
            is_output_node=True,
            has_intermediate_output=True,  # as above
            description="Trains a LoRA for the language model on images with captions: a style or a subject of yours. "
            "Cancel keeps what was learnt.",
            search_aliases=[
                "train lora on images",
                "fine-tune on images",
                "style lora",
                "subject lora",
                "supervised training",
                "sft",
                "dataset training",
                "dreambooth",
            ],
            inputs=_inputs_on_images(),
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, shards=None, **_):
        return curated.fingerprint(shards)

    @classmethod
    def run(cls, lm, shards, file_name, seed=0, steps=500, batch=8, learning_rate=1e-4, rank=16):
        from .host.training_on_images import Request, train

        tuned, name, shown = train(lm, Request(shards, file_name, steps, batch, learning_rate, rank, seed))
        return io.NodeOutput(tuned, name, ui=shown)


def _inputs():
    return [
        _lm(),
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
        _file_name("BLIP3o-reward"),
        _seed("Decides which images are made in training. Another seed learns a slightly different LoRA."),
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
        _learning_rate("How far each update changes the LoRA. Lower it if the images fall apart."),
        _rank(),
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


def _inputs_on_images():
    return [
        _lm(),
        io.String.Input(
            "shards",
            force_input=True,
            tooltip="The images and captions: shards of BLIP3o Curate Images.",
        ),
        _file_name("BLIP3o-images"),
        _seed("Decides the order of the images and the noise on them. Another seed learns a slightly different LoRA."),
        io.Int.Input(
            "steps",
            default=500,
            min=1,
            max=100000,
            tooltip="How often the LoRA is changed. With too many steps it copies the images; the ones on the node "
            "show when to stop.",
        ),
        io.Int.Input(
            "batch",
            default=8,
            min=1,
            max=MAX_BATCH,
            tooltip="Images that each step learns from. More learn steadier and take longer.",
        ),
        _learning_rate("How far each step changes the LoRA. Lower it if the images fall apart."),
        _rank(),
    ]


def _lm():
    return LM.Input("lm", tooltip="From BLIP3o Loader, without LoRAs. Training starts from its checkpoint.")


def _file_name(default: str):
    return io.String.Input(
        "file_name",
        default=default,
        tooltip="The LoRA becomes a folder of this name in models/loras. If there is one, a number is added.",
    )


def _seed(tooltip: str):
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**32 - 1,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def _learning_rate(tooltip: str):
    return decimal_input("learning_rate", 1e-4, 1e-7, 1.0, 1e-7, tooltip, optional=True, advanced=True)


def _rank():
    return io.Int.Input(
        "rank",
        default=16,
        min=1,
        max=256,
        optional=True,
        advanced=True,
        tooltip="The size of the LoRA. More can learn more, and takes more memory.",
    )


def _outputs():
    return [
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
    ]
