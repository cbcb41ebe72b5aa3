"""The settings of one GRPO run."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...decoding.sampling import Sampling
from ...settings import Count, Flag, Folder, Fraction, NotNegative, Positive, Settings, Whole
from ..config import Interval, Number, Rate

Group = Annotated[Count, Field(le=2**16)]


class GrpoSettings(Settings):
    guide: ClassVar[str] = "docs/grpo.md"
    advice: ClassVar[dict[str, str]] = {"group": "The images of one prompt are compared with each other."}

    checkpoint: Folder  # the folder to start from. The KL is measured against it, too
    out: Folder  # the run's folder
    updates: Annotated[Count, Field(le=10**5)] = 200  # optimizer steps
    prompts: Group = 8  # per update
    group: Annotated[Group, Field(ge=2)] = 8  # images of each prompt
    lr: Rate = 1e-4  # peak
    final_lr: Fraction = 0.1  # where the cosine ends, as a share of the peak
    warmup: Interval = 10  # updates until the peak
    kl: Annotated[NotNegative, Field(le=1e6)] = 0.04  # weight of the distance to the checkpoint, in nats per token
    clip: Annotated[Positive, Field(le=1e30)] = 1.0  # largest norm of the gradient
    top_p: Annotated[Positive, Field(le=1)] = 1.0  # of training rollouts. Below 1, TRL scores another distribution
    steps: Annotated[Count, Field(le=1000)] = 5  # of diffusion, for training images
    guidance: Annotated[NotNegative, Field(le=1000)] = 1.0  # of diffusion. 1 is off and takes half the time
    batch: Number = 64  # images per pass of a rollout, and per forward pass of an update
    bf16: Flag = False  # autocast; weights and optimizer stay float32
    held_out_every: Number = 20  # updates between evaluations on the held-out tasks
    held_out_steps: Annotated[Count, Field(le=1000)] = 12  # of diffusion, for held-out images
    save_every: Number = 20  # updates between the states that an interrupted run resumes from
    seed: Annotated[Whole, Field(le=2**32 - 1)] = 0  # TRL's, which seeds NumPy, too
    device: Literal["auto", "cpu"] = "auto"
    diffusion_folder: Folder | None = None
    shard_gb: Annotated[Positive, Field(le=1e6)] = 5.0

    @property
    def resume_fingerprint(self) -> dict:
        """All settings that decide the numbers of a run. They are compared on resume; `updates` may be raised."""
        free = ("checkpoint", "out", "updates", "batch", "save_every", "device", "diffusion_folder", "shard_gb")
        return {name: value for name, value in self.model_dump().items() if name not in free}

    @property
    def rollout_sampling(self) -> Sampling:
        """At top-p 1 the distribution that TRL scores, unchanged. Below 1, the one of inference, top-k included."""
        return Sampling(top_k=0, top_p=1.0) if self.top_p == 1 else Sampling(top_p=self.top_p)
