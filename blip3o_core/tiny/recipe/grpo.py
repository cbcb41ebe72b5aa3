"""The tiny model's reinforcement learning (GRPO) stages, with the exact judge as their reward: settings alone."""

from typing import Annotated, Any, Literal

from pydantic import Field

from ...rewards.settings import Rewards, RewardSettings
from ...settings import Finite, Flag, Folder, Positive, Texts
from ...training.config import Rate
from ...training.grpo.settings import GrpoSettings
from ...training.rl.settings import Group, HeldOutTasks
from ..judge.reward import STRICT
from ..scenes.edits import edit_kinds
from ..tasks import EDIT_WORLD, WORLD


class TinyGrpoSettings(GrpoSettings):
    """GRPO's settings with defaults that suit the bundled model: one prompt of each category in every update.

    The layer in front, which edits need, has by far the steepest gradient: with it, 2e-4 broke the model.
    """

    tasks: Folder = "tiny"
    held_out: HeldOutTasks = 160
    rewards: Rewards = (RewardSettings(name="tiny", options={"strict": 1.0}),)
    pass_at: Finite | None = STRICT  # less has an image that is not completely right
    prompts: Group = len(WORLD.categories)
    lr: Rate = 2.5e-4
    top_p: Annotated[Positive, Field(le=1)] = 0.95  # as in inference
    frozen: Texts = ("model.embed_tokens", "model.layers.0")
    bf16: Flag = True
    device: Literal["auto", "cpu"] = "cpu"


class TinyEditGrpoSettings(TinyGrpoSettings):
    """The same for edits, one of each kind in every update."""

    tasks: Folder = "tiny-edits"
    held_out: HeldOutTasks = 120
    prompts: Group = len(edit_kinds(EDIT_WORLD))


class TinyAllGrpoSettings(TinyGrpoSettings):
    """The same for images and edits together: the last stage of the recipe."""

    tasks: Folder = "tiny-all"
    held_out: HeldOutTasks = 320
    prompts: Group = len(WORLD.categories) + len(edit_kinds(EDIT_WORLD))


def variant(content: dict[str, Any]) -> type[GrpoSettings]:
    """The class of settings with the defaults for the tasks that a settings file names."""
    kinds = {
        "tiny": TinyGrpoSettings,
        "tiny-edits": TinyEditGrpoSettings,
        "tiny-all": TinyAllGrpoSettings,
    }
    return kinds.get(str(content.get("tasks")), GrpoSettings)
