"""Reinforcement learning on codes alone, beside cross-entropy: they are judged as they are drawn, by no network.

A token-by-token loss teaches every code alike, and one wrong piece makes an image wrong. Here the language model writes
several images of a prompt, and those that are better than the others of their group become likelier, as in GRPO.
Nothing is rendered, so that it costs a small part of the stage `grpo`, which judges images. The other losses of the
step keep the model near the data in the place of a KL term.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ...decoding.engine import decode
from ...decoding.prefill import Prompts
from ...decoding.sampling import Sampling
from ...models.language import LanguageModel
from ...prompts.encoder import PromptEncoder
from ...training.data.collate import collate
from ...training.data.encoded import EncodedItem
from ...training.losses import Forward, hidden_states, image_states
from ..judge.judge import judge_edit, judge_image
from ..judge.reward import value
from ..scenes.edits import Edit
from ..scenes.spec import Verdict, spec_of
from ..scenes.world import Scene
from .model_config import Sizes
from .oracle_codes import codes_to_image

_SAMPLING = Sampling(temperature=1.0, top_p=0.95)  # as in inference


@dataclass(frozen=True)
class Task:
    """What the language model is asked for. Of `item` only the references of an edit are used, not its codes."""

    text: str
    item: EncodedItem
    asked: Scene | Edit  # an edit without textures, of which codes say nothing
    sizes: Sizes
    seed: int  # of the first image of the group; the next ones follow

    @classmethod
    def of_scene(cls, text: str, scene: Scene, sizes: Sizes, seed: int) -> "Task":
        return cls(text, EncodedItem(torch.empty(0)), replace(scene, textures_named=False), sizes, seed)

    def judge(self, codes: np.ndarray) -> Verdict:
        """(H*W,) codes -> the judge's verdict on what they say."""
        if isinstance(self.asked, Edit):
            return judge_edit(codes_to_image(codes, self.asked.target.canvas, self.sizes), self.asked)
        return judge_image(codes_to_image(codes, self.asked.canvas, self.sizes), spec_of(self.asked))


@dataclass(frozen=True)
class Reinforcement:
    """How much of a step are images of the model's own, and which of them it learns from."""

    weight: float  # of the loss, beside cross-entropy
    tasks: int = 64  # of a step; a quarter of them edits, if the phase has edits
    group: int = 8  # images of a task
    kept: int = 4  # images of a task that are learnt from: of the best as many as of the worst

    def loss(
        self, model: LanguageModel, forward: Forward, encoder: PromptEncoder, tasks: Sequence[Task]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The policy's loss on new images of the tasks; the share of them that is right and their mean reward."""
        losses, verdicts = [], []
        for references in sorted({task.item.num_references for task in tasks}):  # a row is as long as they are
            own = [task for task in tasks if task.item.num_references == references for _ in range(self.group)]
            codes = self._write(model, encoder, own)
            judged = [task.judge(row) for task, row in zip(own, codes.numpy(), strict=True)]
            verdicts += judged
            advantages = self._advantages(judged).to(model.model.embed_tokens.weight.device)
            chosen = advantages.nonzero().flatten()
            if len(chosen):
                rows = [(own[k], codes[k]) for k in chosen.tolist()]
                losses.append(_policy_loss(model, forward, encoder, rows, advantages[chosen]))
        count = len(tasks) * self.group
        numbers = {"right": sum(v.strict for v in verdicts) / count, "reward": sum(map(value, verdicts)) / count}
        return self.weight * torch.stack(losses or [torch.zeros(())]).sum() / (len(tasks) * self.kept), numbers

    @torch.no_grad()
    def _write(self, model: LanguageModel, encoder: PromptEncoder, rows: Sequence[Task]) -> torch.Tensor:
        """(N, H*W) new codes, on the CPU. `rows` has each task as often as its group has images."""
        prompts = [
            encoder.encode_edit(row.text, row.item.references) if row.item.num_references else encoder.encode(row.text)
            for row in rows
        ]
        seeds = [row.seed + k % self.group for k, row in enumerate(rows)]
        return decode(model, Prompts(prompts), seeds, _SAMPLING).ids.cpu() - encoder.vocabulary.image_start

    def _advantages(self, verdicts: Sequence[Verdict]) -> torch.Tensor:
        """(N,) rewards of the kept images around their mean, in their standard deviations; of the others zero.

        Where most images of a group are alike, learning from all of them costs more than it teaches.
        """
        rewards = torch.tensor([value(verdict) for verdict in verdicts]).view(-1, self.group)
        order = rewards.argsort(dim=1, stable=True)
        half = self.kept // 2
        rows = torch.cat([order[:, : self.kept - half], order[:, self.group - half :]], 1)
        kept = rewards.gather(1, rows)
        spread = kept.std(1, keepdim=True)
        advantages = torch.where(spread > 1e-3, (kept - kept.mean(1, keepdim=True)) / (spread + 1e-4), 0)
        return torch.zeros_like(rewards).scatter(1, rows, advantages).flatten()


def _policy_loss(
    model: LanguageModel,
    forward: Forward,
    encoder: PromptEncoder,
    rows: Sequence[tuple[Task, torch.Tensor]],
    advantages: torch.Tensor,
) -> torch.Tensor:
    """Sum over rows of minus the advantage times the mean log-probability of the row's codes."""
    items = [replace(task.item, codes=codes) for task, codes in rows]
    batch = collate(encoder, [task.text for task, _ in rows], items).to(advantages.device)
    states = image_states(hidden_states(model, batch, forward), batch)[:, :-1]
    logits = F.linear(states, model.head_weight(states, image_tokens_only=True)).float()
    codes = torch.stack([codes for _, codes in rows]).to(advantages.device)
    errors = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
    return (advantages * errors.mean(1)).sum()
