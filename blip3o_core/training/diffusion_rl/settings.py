"""The settings of one run of reinforcement learning on the diffusion."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from ...rewards.settings import Rewards
from ...settings import BelowOne, Count, Finite, Flag, Folder, Fraction, NotNegative, Positive, Settings, Text, Whole
from ..config import Interval, Number, Rate

Group = Annotated[Count, Field(le=2**16)]
Linear = Literal["to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "proj_out"]
_FLOW_GRPO, _NFT = "flow_grpo", "nft"


class DiffusionRlSettings(Settings):
    guide: ClassVar[str] = "docs/diffusion_rl.md"
    advice: ClassVar[dict[str, str]] = {
        "group": "The images of one prompt are compared with each other.",
        "rewards": "docs/rewards.md lists them.",
    }

    checkpoint: Folder  # the folder to start from. The KL is measured against it, too
    out: Folder  # the run's folder
    tasks: Text  # a file of prompts, a world such as `tiny`, or "module:function"
    held_out: Annotated[Count, Field(le=2**20)] | Text = 64  # tasks that the best checkpoint is chosen by
    rewards: Rewards
    pass_at: Finite | None = None  # an image passes from this reward on; None: checkpoints are compared by mean reward
    method: Literal["flow_grpo", "nft"] = "nft"
    updates: Annotated[Count, Field(le=10**5)] = 200  # rollouts that are learnt from
    prompts: Group = 8  # per update
    group: Annotated[Group, Field(ge=2)] = 8  # images of each prompt, which differ in their noise alone
    lr: Rate = 3e-4  # peak
    final_lr: Fraction = 0.1  # where the cosine ends, as a share of the peak
    warmup: Interval = 10  # optimizer steps until the peak
    clip: Annotated[Positive, Field(le=1e30)] = 1.0  # largest norm of the gradient
    kl: Annotated[NotNegative, Field(le=1e6)] = 0.01  # weight of the distance to the checkpoint
    rank: Annotated[Count, Field(le=4096)] = 16  # of the LoRA
    alpha: Rate = 32.0  # the adapter's output is multiplied by alpha / rank
    targets: Annotated[tuple[Linear, ...], Field(min_length=1)] = get_args(Linear)[:4]
    steps: Annotated[Count, Field(ge=2, le=1000)] = 10  # of training images
    guidance: Annotated[NotNegative, Field(le=1000)] = 1.0  # of all images. 1 is off and takes half the time
    window: Literal["all", "first", "random", "sliding"] = "all"  # the steps that are learnt from, see `windows`
    window_size: Annotated[Count, Field(le=1000)] = 2
    window_every: Number = 25  # updates until a sliding window moves on
    advantage_clip: Annotated[Positive, Field(le=1e6)] = 5.0  # largest advantage, in standard deviations
    advantage_std: Literal["group", "all"] = "all"  # the deviation of each group, or of all images of an update
    noise: Annotated[Positive, Field(le=10)] = 0.7  # flow_grpo: of the steps with noise
    ratio_clip: Annotated[Positive, BelowOne] = 1e-4  # flow_grpo: how far the ratio may leave 1
    reuse: Annotated[Count, Field(le=64)] = 1  # flow_grpo: optimizer steps from each rollout
    beta: Annotated[Positive, Field(le=100)] = 1.0  # nft: how far the two velocities are from the old one
    old_decay: BelowOne = 0.5  # nft: of the moving average that makes the images; reached after 500 updates or more
    batch: Number = 64  # images per pass through a network
    bf16: Flag = False  # frozen weights in bfloat16, and autocast; adapters and optimizer stay float32
    gradient_checkpointing: Flag = False  # of SANA's blocks: a second forward pass instead of memory
    held_out_every: Number = 20  # updates between looks at the held-out tasks
    held_out_steps: Annotated[Count, Field(le=1000)] = 12  # of held-out images
    samples: Annotated[Whole, Field(le=64)] = 8  # held-out images that are kept to look at
    save_every: Number = 20  # updates between the states that an interrupted run resumes from
    seed: Annotated[Whole, Field(le=2**63 - 1)] = 0
    device: Literal["auto", "cpu"] = "auto"
    diffusion_folder: Folder | None = None
    shard_gb: Annotated[Positive, Field(le=1e6)] = 5.0

    def conflicts(self) -> Iterator[str]:
        if self.method == _NFT and self.reuse > 1:
            yield f"reuse is {self.reuse}, but method nft takes one optimizer step from each rollout. Set reuse to 1."

    @property
    def flow_grpo(self) -> bool:
        return self.method == _FLOW_GRPO

    @property
    def scale(self) -> float:
        """What the adapters' output is multiplied by."""
        return self.alpha / self.rank

    @property
    def learnable(self) -> int:
        """Steps that can be learnt from: flow_grpo needs noise, which the last step does not have."""
        return self.steps - 1 if self.flow_grpo else self.steps

    @property
    def resume_fingerprint(self) -> dict:
        """All settings that decide the numbers of a run. They are compared on resume; `updates` may be raised."""
        free = (
            "checkpoint", "out", "tasks", "held_out", "updates", "batch", "gradient_checkpointing", "samples",
            "save_every", "device", "diffusion_folder", "shard_gb",
        )  # fmt: skip
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in free}
