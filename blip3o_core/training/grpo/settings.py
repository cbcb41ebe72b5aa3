"""The settings of one GRPO run."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...decoding.sampling import Sampling
from ...settings import Count, Flag, Fraction, NotNegative, Positive, Texts
from ..rl.settings import RlSettings


class GrpoSettings(RlSettings):
    guide: ClassVar[str] = "docs/grpo.md"

    kl: Annotated[NotNegative, Field(le=1e6)] = 0.04  # weight of the distance to the checkpoint, in nats per token
    top_p: Annotated[Positive, Field(le=1)] = 1.0  # of training rollouts. Below 1, TRL scores another distribution
    # Beginnings of names of weights that do not learn and get no LoRA, like model.embed_tokens or model.layers.0.
    frozen: Texts = ()
    # These are TRL's, under its names except for the first and the last.
    iterations: Annotated[Count, Field(le=64)] = 1  # updates on the images of one rollout
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"] = "grpo"
    epsilon: Annotated[NotNegative, Field(le=1e6)] = 0.2  # how far the ratio to the policy of the rollout may fall
    epsilon_high: Annotated[NotNegative, Field(le=1e6)] | None = None  # how far it may rise; None: as far
    importance_sampling_level: Literal["token", "sequence"] = "token"
    scale_rewards: Literal["group", "batch", "none"] = "group"  # by whose spread advantages are divided
    entropy_bonus: Annotated[NotNegative, Field(le=1e6)] = 0.0  # weight of the entropy, in nats per token
    adapter_only: Flag = False  # the best step-* holds the LoRA alone and no copy of the checkpoint
    entropy_alarm: Fraction = 0.3  # warn when the entropy is below this share of the first update's; 0: never

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.adapter_only and self.lora is None:
            yield "adapter_only is true, but there is no lora to save. Add lora, or set adapter_only to false."
        for name in ("updates", "save_every"):
            value = getattr(self, name)
            if value % self.iterations:
                yield (
                    f"{name} is {value} and iterations {self.iterations}. A state can be saved only between two "
                    f"rollouts: make {name} a multiple of iterations."
                )

    @property
    def rollout_sampling(self) -> Sampling:
        """At top-p 1 the distribution that TRL scores, unchanged. Below 1, the one of inference, top-k included."""
        return Sampling(top_k=0, top_p=1.0) if self.top_p == 1 else Sampling(top_p=self.top_p)
