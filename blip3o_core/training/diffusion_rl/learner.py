"""The gradient of one update: of the rows of a rollout, by one of the two methods.

Losses are means over all images of all processes and over the steps of the window, so that neither passes nor
processes change the gradient.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch

from ...seeds import seed_of, seeded
from ..ema import EMA
from .adapter import adapters_off
from .objective import clipped_ratio_loss, nft_loss, optimality
from .policy import Velocity
from .rollout import Rollout
from .settings import DiffusionRlSettings
from .step import gaussian_kl, sde_step


@dataclass(frozen=True)
class Learner:
    velocity: Velocity
    settings: DiffusionRlSettings
    old: EMA | None  # of nft: the policy that made the images

    def add_gradients(
        self, rollouts: Sequence[Rollout], advantages: torch.Tensor, images: int, plan: "Plan"
    ) -> dict[str, float]:
        """Add the gradient of these rollouts to the parameters -> sums over their rows, for the log.

        `advantages` (B,): of all rows of this process. `images`: of all processes.
        """
        totals = dict.fromkeys(("loss", "kl", "clipped", "ratio"), 0.0)
        for rollout in rollouts:
            advantage = advantages[rollout.rows].to(rollout.latents.device)
            work = self._flow_grpo if self.settings.flow_grpo else self._nft
            for loss, kl, clipped, ratio in work(rollout, advantage, plan):
                share = 1 / (images * len(plan.window))
                ((loss + self.settings.kl * kl).sum() * share).backward()
                for name, value in zip(totals, (loss, kl, clipped, ratio), strict=True):
                    totals[name] += float(value.detach().float().sum()) * share
        return totals

    def _flow_grpo(self, rollout: Rollout, advantage: torch.Tensor, plan: "Plan"):
        """Replays each kept step: its log-probability now, over the one when it was made."""
        settings, seen = self.settings, rollout.conditioning
        for one in rollout.moments:
            mean = self._reference_mean(one, seen)
            v = self.velocity(one.x, one.s, one.s_next, seen)
            step = sde_step(v, one.x, one.s, one.s_next, settings.noise, one.x_next)
            log_prob = cast(torch.Tensor, step.log_prob)  # moments are kept of steps with noise alone
            loss, clipped = clipped_ratio_loss(log_prob, one.log_prob, advantage, settings.epsilon)
            kl = torch.zeros_like(loss) if mean is None else gaussian_kl(step.mean, mean, step.std)
            yield loss, kl, clipped, (log_prob - one.log_prob).exp()

    def _nft(self, rollout: Rollout, advantage: torch.Tensor, plan: "Plan"):
        """Adds noise to the images anew, at the sigmas of the window."""
        settings, x0, seen = self.settings, rollout.latents, rollout.conditioning
        r = optimality(advantage, settings.advantage_clip)
        for number in plan.window:
            s, s_next = plan.schedule[number], plan.schedule[number + 1]
            noises = [torch.randn(x0.shape[1:], generator=seeded(seed_of("nft", seed, number)))
                      for seed in plan.seeds[rollout.rows]]  # fmt: skip
            noise = torch.stack(noises).to(x0.device)
            x = (1 - s) * x0 + s * noise
            with torch.no_grad():
                with self.old.applied() if self.old is not None else nullcontext():
                    v_old = self.velocity(x, s, s_next, seen)
                v_reference = None
                if settings.kl:
                    with adapters_off(self.velocity.transformer):
                        v_reference = self.velocity(x, s, s_next, seen)
            v = self.velocity(x, s, s_next, seen)
            # As in the authors' code, so that a rate means the same for every advantage_clip.
            loss = nft_loss(v, v_old, (x0, x, s), r, settings.beta) * settings.advantage_clip
            kl = torch.zeros_like(loss) if v_reference is None else (v - v_reference).square().flatten(1).mean(1)
            yield loss, kl, torch.zeros_like(loss), torch.ones_like(loss)

    @torch.no_grad()
    def _reference_mean(self, one, seen) -> torch.Tensor | None:
        """Where the checkpoint would have gone."""
        if not self.settings.kl:
            return None
        with adapters_off(self.velocity.transformer):
            v = self.velocity(one.x, one.s, one.s_next, seen)
        return sde_step(v, one.x, one.s, one.s_next, self.settings.noise, one.x_next).mean


@dataclass(frozen=True)
class Plan:
    """What an update does: its schedule, the steps that are learnt from, and the seed of each row of this process."""

    schedule: list[float]
    window: list[int]
    seeds: list[int]
