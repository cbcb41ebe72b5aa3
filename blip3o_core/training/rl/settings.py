"""The settings that every run of reinforcement learning has."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ...rewards.settings import Rewards
from ...settings import Count, Finite, Flag, Folder, Fraction, NotNegative, Positive, Settings, Whole
from ..config import Interval, Lora, Number, Rate

Group = Annotated[Count, Field(le=2**16)]
Steps = Annotated[Count, Field(le=1000)]  # of diffusion
# Settings that decide no number of a run: it may be resumed with others. Tasks are compared by their content.
_FREE = (
    "checkpoint", "out", "tasks", "held_out", "updates", "batch", "save_every", "samples", "device", "diffusion_folder",
    "shard_gb", "adapter_only", "gradient_checkpointing", "kl_alarm", "entropy_alarm", "stop_on_alarm",
)  # fmt: skip


def _held_out(value: Any) -> int | str:
    if isinstance(value, str) and value and not value.isdecimal():
        return os.path.expanduser(value)
    if isinstance(value, bool) or not str(value).isdecimal() or not 1 <= int(value) <= 2**20:
        raise PydanticCustomError("rule", "must be a number of tasks, from 1 to 1,048,576, or a file of tasks")
    return int(value)


HeldOutTasks = Annotated[int | str, BeforeValidator(_held_out)]


class RlSettings(Settings):
    advice: ClassVar[dict[str, str]] = {
        "group": "The images of one prompt are compared with each other.",
        "tasks": "Give a text file with a prompt on each line, a .jsonl file, or tiny for the tiny world's prompts.",
        "rewards": "Name what judges the images, like `rewards: [text]`; docs/rewards.md lists the built-in ones.",
    }

    checkpoint: Folder  # the folder to start from. The KL is measured against it, too
    out: Folder  # the run's folder
    tasks: Folder  # a file of prompts, file.py:function, or the tiny world: tiny, tiny-edits, tiny-all
    # Tasks that the best checkpoint is chosen by: a file, or a number of those that `tasks` has or makes.
    held_out: HeldOutTasks = 32
    rewards: Rewards
    pass_at: Finite | None = None  # an image passes whose reward is at least this; None: checkpoints by mean reward
    updates: Annotated[Count, Field(le=10**5)] = 200  # optimizer steps
    prompts: Group = 8  # per rollout
    group: Annotated[Group, Field(ge=2)] = 8  # images of each prompt
    lr: Rate = 1e-4  # peak
    final_lr: Fraction = 0.1  # where the cosine ends, as a share of the peak
    warmup: Interval = 10  # updates until the peak
    clip: Annotated[Positive, Field(le=1e30)] = 1.0  # largest norm of the gradient
    lora: Lora | None = None  # None: all weights learn
    steps: Steps = 5  # for training images
    guidance: Annotated[NotNegative, Field(le=1000)] = 1.0  # of diffusion. 1 is off and takes half the time
    batch: Number = 64  # images per pass of a rollout, and per forward pass of an update
    bf16: Flag = False  # autocast; weights and optimizer stay float32
    gradient_checkpointing: Flag = False  # a second forward pass instead of memory
    held_out_every: Number = 20  # updates between looks at the held-out tasks
    held_out_steps: Steps = 12  # for held-out images
    samples: Annotated[Whole, Field(le=256)] = 8  # images of each look that are written to look at
    save_every: Number = 20  # updates between the states that an interrupted run resumes from
    kl_alarm: NotNegative = 0.025  # warn when the KL, in nats per token, is above this; 0: never
    stop_on_alarm: Flag = False
    seed: Annotated[Whole, Field(le=2**32 - 1)] = 0
    device: Literal["auto", "cpu"] = "auto"
    diffusion_folder: Folder | None = None
    shard_gb: Annotated[Positive, Field(le=1e6)] = 5.0

    @property
    def resume_fingerprint(self) -> dict:
        """All settings that decide the numbers of a run. They are compared on resume; `updates` may be raised.

        What the options of a built-in reward decide is in its version, which is compared, too: a server may have moved.
        """
        kept = {name: value for name, value in self.model_dump().items() if name not in _FREE}
        rewards = [{name: one[name] for name in ("name", "use", "weight")} for one in kept["rewards"]]
        own = {one["name"]: one["options"] for one in kept["rewards"] if ":" in (one["use"] or "") and one["options"]}
        return {**kept, "rewards": rewards, "options of own rewards": own}

    def fingerprint_with(self, versions: Mapping[str, str]) -> dict:
        """`resume_fingerprint` with the versions of the rewards by their names, so that an error says which changed."""
        return {**self.resume_fingerprint, **{f"the version of reward {n!r}": one for n, one in versions.items()}}
