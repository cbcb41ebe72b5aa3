"""The settings of one run of reinforcement learning on the diffusion."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from ...settings import BelowOne, Count, NotNegative, Positive, Strict
from ..config import Number, Rate
from ..rl.settings import RlSettings, Steps

Linear = Literal["to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "proj_out"]
FLOW_GRPO, NFT = "flow_grpo", "nft"


class SanaLora(Strict):
    """Adapters on SANA's linear layers, whose own weights do not change."""

    rank: Annotated[Count, Field(le=4096)] = 16
    alpha: Rate = 32.0  # the adapter's output is multiplied by alpha / rank
    targets: Annotated[tuple[Linear, ...], Field(min_length=1)] = get_args(Linear)[:4]


class DiffusionRlSettings(RlSettings):
    guide: ClassVar[str] = "docs/diffusion_rl.md"

    method: Literal["nft", "flow_grpo"] = "nft"
    lora: SanaLora = SanaLora()  # type: ignore[assignment]
    lr: Rate = 3e-4  # peak
    kl: Annotated[NotNegative, Field(le=1e6)] = 0.01  # weight of the distance to the checkpoint
    kl_alarm: NotNegative = 0.0  # warn when the distance is above this; 0: never
    steps: Steps = 10  # for training images
    window: Literal["all", "first", "random", "sliding"] = "all"  # the steps that are learnt from, see `windows`
    window_size: Annotated[Count, Field(le=1000)] = 2
    window_every: Number = 25  # updates until a sliding window moves on
    scale_rewards: Literal["group", "batch"] = "batch"  # by whose spread advantages are divided
    advantage_clip: Annotated[Positive, Field(le=1e6)] = 5.0  # largest advantage, in standard deviations
    noise: Annotated[Positive, Field(le=10)] = 0.7  # flow_grpo: of the steps that are learnt from
    epsilon: Annotated[Positive, Field(lt=1)] = 1e-4  # flow_grpo: how far the ratio may leave 1
    iterations: Annotated[Count, Field(le=64)] = 1  # flow_grpo: updates on the images of one rollout
    beta: Annotated[Positive, Field(le=100)] = 1.0  # nft: how far the two velocities are from the old one
    old_decay: BelowOne = 0.5  # nft: most that the policy which makes the images keeps of itself in an update

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.method == NFT and self.iterations > 1:
            yield f"iterations is {self.iterations}, but method nft makes one update on each rollout. Set it to 1."
        if self.flow_grpo and self.steps == 1:
            yield "steps is 1, but method flow_grpo learns from all steps except the last. Set it to 2 or more."
        for name in ("updates", "save_every", "held_out_every"):
            value = getattr(self, name)
            if value % self.iterations:
                yield f"{name} is {value} and iterations {self.iterations}. Make {name} a multiple of iterations."

    @property
    def flow_grpo(self) -> bool:
        return self.method == FLOW_GRPO

    @property
    def learnable(self) -> int:
        """Steps that can be learnt from: flow_grpo needs noise, which the last step does not have."""
        return self.steps - 1 if self.flow_grpo else self.steps
