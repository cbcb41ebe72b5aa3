"""Trains the tiny Qwen3 to write images as codes: cross-entropy on image tokens, no diffusion yet.

Half of the rows may be edits, with the true codes of their references in the prompt (`language_phases`).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...checkpoint import Checkpoint
from ...decoding.engine import decode
from ...decoding.prefill import Prompts
from ...decoding.sampling import Sampling
from ...models.language import LanguageModel
from ...prompts.encoder import PromptEncoder
from ...training.data.collate import Batch, collate
from ...training.data.encoded import EncodedItem
from ...training.joint_model import JointModel
from ...training.losses import hidden_states, image_states, token_loss
from ...weights.names import CONNECTOR
from ..judge.judge import judge_edit
from ..scenes.captions import caption
from ..scenes.edits import COMPOSE, Edit, edit_kinds, instruction, make_edit
from ..scenes.world import Scene, World
from .alignment import Alignment
from .gates import accuracy_by_category, held_back_scenes
from .loop import FitSettings, Report, fit, random_integers
from .model_config import Sizes, sizes_of
from .oracle_codes import batch_codes, codes_to_image, named_textures
from .quick_world import make_scene
from .reinforcement import Reinforcement, Task

# Categories that are harder to lay out are more frequent.
WORLD = World(
    low_contrast=False,
    coloured=0.35,
    weights=(
        ("single_object", 0.7),
        ("two_object", 1.1),
        ("counting", 1.5),
        ("colors", 0.7),
        ("position", 1.6),
        ("color_attr", 2.0),
        ("background", 1.4),
        ("size", 1.4),
    ),
)
SETTINGS = FitSettings(steps=2200, lr=1.5e-3, muon=0.02, warmup=50, ema_decay=0.998, final_lr=0.02)
EDITS = World(low_contrast=False, coloured=0.35)
# How often each kind of edit is trained; those that must find out which object is meant are the hardest.
EDIT_WEIGHTS = {
    "recolour": 1.0,
    "remove": 2.0,
    "replace": 2.0,
    "background": 1.0,
    "add": 1.3,
    "keep": 0.5,
    COMPOSE: 3.0,
}
_EXCLUDED = ("embed_tokens", "lm_head", CONNECTOR.removeprefix("model."))


@dataclass(frozen=True)
class Additions:
    """What the language model learns beside the codes of images."""

    edits: "Edits | None" = None  # half of the rows; their instructions name no textures
    alignment: Alignment | None = None  # the connector learns, too
    reinforcement: Reinforcement | None = None  # on images that the model writes itself


def train(
    checkpoint: Checkpoint,
    folder: Path,
    settings: FitSettings = SETTINGS,
    report: Report | None = None,
    world: World = WORLD,
    additions: Additions = Additions(),
):
    """Train and return the language model."""
    model = checkpoint.load_language(torch.float32)
    model.requires_grad_(True)
    model.connector.requires_grad_(additions.alignment is not None)
    encoder = checkpoint.prompt_encoder
    rows, losses = _Rows(encoder, settings.batch, world, additions), _Losses(model, encoder, world, additions)
    with plain_attention(settings):
        fit(model, rows.make, losses, settings, folder, _EXCLUDED, report)
    return model


@dataclass(frozen=True)
class _Data:
    batches: list[Batch]  # images, and edits with as many references
    textures: torch.Tensor | None  # (B, H*W), what the captions of the images name, if there is an alignment
    tasks: list[Task]

    def to(self, device: torch.device) -> "_Data":
        textures = None if self.textures is None else self.textures.to(device)
        return _Data([batch.to(device) for batch in self.batches], textures, self.tasks)


@dataclass(frozen=True)
class _Rows:
    """Makes what a step learns from."""

    encoder: PromptEncoder
    count: int
    world: World
    additions: Additions

    def make(self, generator: torch.Generator) -> _Data:
        edits, reinforcement, sizes = self.additions.edits, self.additions.reinforcement, sizes_of(self.world)
        images = self.count // 2 if edits else self.count
        scenes, captions = self._scenes(generator, images)
        rows = [(captions, [EncodedItem(codes) for codes in batch_codes(scenes, sizes)])]
        if edits:
            rows += edits.rows(generator, self.count - images, sizes)
        textures = named_textures(scenes, sizes) if self.additions.alignment else None
        tasks = self._tasks(generator, reinforcement.tasks) if reinforcement else []
        return _Data([collate(self.encoder, texts, items) for texts, items in rows], textures, tasks)

    def _scenes(self, generator: torch.Generator, count: int) -> tuple[list[Scene], list[str]]:
        indices = random_integers(generator, 2**40, count)
        scenes = [make_scene(0, "train", index, self.world) for index in indices]
        return scenes, [
            caption(scene, index, plain=index % 10 < 7) for scene, index in zip(scenes, indices, strict=True)
        ]

    def _tasks(self, generator: torch.Generator, count: int) -> list[Task]:
        """A quarter of them edits, if the rows have any: without textures, of which codes say nothing."""
        edits, sizes = self.additions.edits, sizes_of(self.world)
        plain = edits and replace(edits, world=replace(edits.world, textured=0.0))
        of_edits = plain.draw(generator, count // 4) if plain else []
        seeds = iter(random_integers(generator, 2**40, count))
        scenes, captions = self._scenes(generator, count - len(of_edits))
        tasks = [Task.of_scene(text, scene, sizes, next(seeds)) for text, scene in zip(captions, scenes, strict=True)]
        return tasks + [Task(text, edit_item(edit, sizes), edit, sizes, next(seeds)) for text, edit in of_edits]


class _Losses:
    def __init__(self, model: LanguageModel, encoder: PromptEncoder, world: World, additions: Additions):
        self.model, self.encoder, self.additions, self.sizes = model, encoder, additions, sizes_of(world)
        self._run = JointModel(model, torch.nn.Identity()).run_language

    def __call__(self, data: _Data) -> tuple[torch.Tensor, dict[str, float]]:
        total, numbers = self._imitation(data)
        if self.additions.reinforcement is None:
            return total, numbers
        more, own = self.additions.reinforcement.loss(self.model, self._run, self.encoder, data.tasks)
        return total + more, numbers | own

    def _imitation(self, data: _Data) -> tuple[torch.Tensor, dict[str, float]]:
        first, *others = data.batches
        of_images = self._of_batch(first, data.textures)
        if not others:
            return of_images, {}
        images, edits = len(first.ids), sum(len(batch.ids) for batch in others)
        of_edits = torch.stack([self._of_batch(batch) * len(batch.ids) for batch in others]).sum() / edits
        numbers = {"images": of_images.item(), "edits": of_edits.item()}
        return (of_images * images + of_edits * edits) / (images + edits), numbers

    def _of_batch(self, batch: Batch, textures: torch.Tensor | None = None) -> torch.Tensor:
        model, alignment = self.model, self.additions.alignment
        states = hidden_states(model, batch, self._run)
        tokens = token_loss(model, states, batch.labels)
        if alignment is None:
            return tokens
        codes = image_states(batch.ids.unsqueeze(-1), batch)[:, 1:, 0] - model.vocabulary.image_start
        textures = torch.zeros_like(codes) if textures is None else textures
        return tokens + alignment.loss(model.connector, image_states(states, batch)[:, 1:], codes, textures, self.sizes)


def plain_attention(settings: FitSettings):
    """With a mask, the CPU's fused attention has a backward pass four times as slow as plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH) if settings.device == "cpu" else nullcontext()


@dataclass(frozen=True)
class Edits:
    """Random edits: their world, and how frequent each kind is."""

    world: World
    weights: Mapping[str, float] = field(default_factory=lambda: EDIT_WEIGHTS)

    def draw(self, generator: torch.Generator, count: int) -> list[tuple[str, Edit]]:
        """Instructions and their edits."""
        kinds, weights = list(self.weights), torch.tensor(list(self.weights.values()))
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
        indices = random_integers(generator, 2**40, count)
        edits = [
            make_edit(0, "train", index, self.world, kinds[kind]) for index, kind in zip(indices, chosen, strict=True)
        ]
        return [(instruction(edit, index), edit) for edit, index in zip(edits, indices, strict=True)]

    def rows(self, generator: torch.Generator, count: int, sizes: Sizes) -> list[tuple[list[str], list[EncodedItem]]]:
        """Instructions and items, those with as many references together: a row is as long as they are."""
        groups: dict[int, tuple[list[str], list[EncodedItem]]] = {}
        for text, edit in self.draw(generator, count):
            texts, items = groups.setdefault(len(edit.sources), ([], []))
            texts.append(text)
            items.append(edit_item(edit, sizes))
        return [groups[references] for references in sorted(groups)]


def edit_item(edit: Edit, sizes: Sizes) -> EncodedItem:
    """An edit's codes and its references'. The language model needs no latents: one number each."""
    codes = batch_codes((edit.target, *edit.sources), sizes)
    latents = torch.zeros(1, 1, 1)
    return EncodedItem(codes[0], latents, codes[1:], latents.expand(len(codes) - 1, 1, 1, 1))


@torch.no_grad()
def gate(
    checkpoint: Checkpoint,
    model,
    count: int = 160,
    seed: int = 0,
    sampling: Sampling | None = None,
    world: World = World(low_contrast=False),
) -> dict:
    """Share of held-back captions whose generated codes are right, drawn without any network. They say no textures."""
    encoder, sampling = checkpoint.prompt_encoder, sampling or Sampling(temperature=1.0, top_p=0.95)
    sizes = sizes_of(world)

    def write(scenes: list[Scene]) -> list[np.ndarray]:
        prompts = [encoder.encode(caption(scene, index, plain=True)) for index, scene in enumerate(scenes)]
        ids = decode(model, Prompts(prompts), [seed * 100_000 + index for index in range(len(scenes))], sampling).ids
        rows = (ids - encoder.vocabulary.image_start).numpy()
        return [codes_to_image(row, scene.canvas, sizes) for row, scene in zip(rows, scenes, strict=True)]

    return accuracy_by_category(held_back_scenes(3, count, world), write, textures=False)


@torch.no_grad()
def edit_gate(
    checkpoint: Checkpoint, model, count: int = 180, seed: int = 70, world: World = World(low_contrast=False)
) -> dict[str, float]:
    """Share of held-back edits whose generated codes are right, drawn without any network, by kind.

    Textures are left out of the edits: codes say nothing of them.
    """
    encoder, accuracy = checkpoint.prompt_encoder, {}
    kinds, sizes = edit_kinds(world), sizes_of(world)
    world = replace(world, textured=0.0)
    for kind in kinds:
        edits = [make_edit(seed, "held_back", k, world, kind) for k in range(count // len(kinds))]
        codes = [batch_codes(edit.sources, sizes) for edit in edits]
        instructions = [instruction(edit, k) for k, edit in enumerate(edits)]
        prompts = [encoder.encode_edit(text, rows) for text, rows in zip(instructions, codes, strict=True)]
        ids = decode(model, Prompts(prompts), list(range(len(edits))), Sampling()).ids - encoder.vocabulary.image_start
        verdicts = [
            judge_edit(codes_to_image(row, edit.target.canvas, sizes), edit)
            for row, edit in zip(ids.numpy(), edits, strict=True)
        ]
        accuracy[kind] = sum(verdict.strict for verdict in verdicts) / len(edits)
    return {**accuracy, "mean": sum(accuracy.values()) / len(kinds)}


def tensors(model) -> dict[str, torch.Tensor]:
    """The tensors by published name, without the connector's."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(CONNECTOR)}
