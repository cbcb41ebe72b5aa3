"""The stages in order: what each needs, what it writes, and the gate after it.

autoencoder  image_tokenizer    the two encoders; need nothing
decoder                         the autoencoder's decoder alone; before references
language                        needs nothing: the true codes of a scene are known
renderer                        needs the autoencoder
connector  data                 connector needs all of these; data needs nothing
align                           language model and connector together, behind connector
references                      SANA with the latents of what is edited, from true codes; behind align
joint                           the general trainer: all parts but the encoders and the language model
release                         the bundled checkpoint, from joint
grpo                            a branch from joint: the language model learns from rendered images and edits
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...checkpoint import Checkpoint, open_checkpoint
from ...checkpoint.bundled import BUNDLED
from ...errors import Blip3oError
from ...files import append_lines
from ...models.image_tokenizer import PREFIX
from ...pipeline import Pipeline
from ...training.edit_checkpoint import add_references
from ...training.grpo.train import train as train_by_rewards
from ...training.watch import Watch
from ...weights.names import VAE
from ..evaluation import Settings as Evaluation
from ..evaluation import evaluate
from ..scenes.world import World
from . import (
    autoencoder,
    connector,
    editing,
    grpo,
    image_tokenizer,
    language,
    language_phases,
    references,
    release,
    renderer,
    shards,
)
from .ahead import workers_for
from .assemble import save_part
from .recipe import Recipe
from .starts import claim, encoder_digest, language_digest
from .worlds import whole

# The categories that the gate of `language` found weakest are more frequent from there on.
WEAK = World(
    low_contrast=False,
    coloured=0.3,
    weights=(
        ("single_object", 0.5),
        ("two_object", 0.7),
        ("counting", 1.2),
        ("colors", 0.5),
        ("position", 0.8),
        ("color_attr", 3.5),
        ("background", 1.3),
        ("size", 2.5),
    ),
)
_PLAIN = World(low_contrast=False)  # of the gates
RATES = {"language": 3e-4, "connector": 1e-3, "sana": 6e-4}  # learning rates of the joint stage


@dataclass(frozen=True)
class Stage:
    run: Callable[[Recipe], None]
    gate: Callable[[Recipe], dict[str, float]]
    key: str = ""  # the number of the gate that must be at least `minimum`
    minimum: float = 0.0


def _autoencoder(recipe: Recipe) -> None:
    _save_autoencoder(recipe, recipe.train(autoencoder, "autoencoder"))


def _decoder(recipe: Recipe) -> None:
    start = recipe.start_checkpoint()
    claim(recipe.out / "decoder", encoder_digest(start))
    network = start.load_autoencoder(torch.float32)
    settings, world = recipe.settings(autoencoder.REFINED), whole(autoencoder.WORLD)
    autoencoder.refine_decoder(network, recipe.out / "decoder", settings, recipe.report, world)
    _save_autoencoder(recipe, network)


def _save_autoencoder(recipe: Recipe, network) -> None:
    tensors = {VAE + name: tensor for name, tensor in network.state_dict().items()}
    save_part(recipe.out, "autoencoder", tensors, {"scaling_factor": str(network.config.scaling_factor)})


def _round_trip_gate(recipe: Recipe) -> dict[str, float]:
    network = recipe.start_checkpoint().load_autoencoder()
    return autoencoder.gate(network, world=whole(autoencoder.WORLD))


def _image_tokenizer(recipe: Recipe) -> None:
    tensors = image_tokenizer.tensors(recipe.train(image_tokenizer, "image_tokenizer"))
    save_part(recipe.out, "image_tokenizer", {PREFIX + name: tensor for name, tensor in tensors.items()})


def part(stage: str, module, digest: Callable[[Checkpoint], str] | None = None) -> Callable[[Recipe], None]:
    """`digest`: of what the part learns from and leaves as it is."""

    def run(recipe: Recipe) -> None:
        start = recipe.start_checkpoint(aligned=False)
        if digest is not None:
            claim(recipe.out / stage, digest(start))
        trained = recipe.train(module, stage, start)
        save_part(recipe.out, stage, module.tensors(trained))

    return run


def _language(recipe: Recipe) -> None:
    save_part(recipe.out, "language", language.tensors(language_phases.train(recipe)))


def _align(recipe: Recipe) -> None:
    model = language_phases.align(recipe)
    save_part(recipe.out, "align", language.tensors(model) | connector.tensors(model.connector))


def _language_gate(recipe: Recipe) -> dict[str, float]:
    checkpoint, world = recipe.start_checkpoint(aligned=recipe.stage == "align"), whole(_PLAIN)
    numbers = language.gate(checkpoint, checkpoint.load_language(), world=world)
    edits = language.edit_gate(checkpoint, checkpoint.load_language(), world=world)
    return numbers | {f"edits {kind}": value for kind, value in edits.items()}


def _data(recipe: Recipe) -> None:
    world, workers, two_plain = whole(language.WORLD), workers_for(recipe.device), (True, True, False)
    for name, seed, count, own, plain in (
        ("captions", 11, 36_000, world, two_plain),
        ("weak", 14, 24_000, whole(WEAK), two_plain),
        ("phrasings", 12, 12_000, world, (False,) * 6),
    ):
        shards.write_scenes(workers, recipe.data_path(name), seed, recipe.steps(count), own, plain)
    shards.write_edits(workers, recipe.data_path("edits"), 13, recipe.steps(16_000), whole(language.EDITS))


def _require_parts_that_fit(recipe: Recipe) -> None:
    """Raise Blip3oError unless the parts are the last of their kind: later stages keep them, and the release has them.

    The autoencoder that was trained in this folder has got its last decoder; `align` began from this language model.
    """
    trained = [stage for stage in recipe.finished if stage in ("autoencoder", "decoder")]
    if (recipe.out / "autoencoder").is_dir() and trained[-1:] != ["decoder"]:
        raise Blip3oError(
            f"The decoder in {recipe.out} was not trained since the autoencoder was, and the stages from references on "
            "keep it as it is. Run stage decoder first."
        )
    if (recipe.out / "align.safetensors").is_file():
        claim(recipe.out / "align" / "keep", language_digest(recipe.start_checkpoint(aligned=False)))


def _joint(recipe: Recipe) -> None:
    _require_parts_that_fit(recipe)
    data, rates = ["captions", "weak", "phrasings", "edits", "edits"], {part: rate / 4 for part, rate in RATES.items()}
    # The language model has learnt from images of its own; cross-entropy would take a part of that away (docs/LOG.md).
    del rates["language"]
    rates["reference_cross"] = rates["connector"]
    start = _with_references(recipe, recipe.start_checkpoint(), "joint")
    recipe.train_jointly("joint", start, data, 300, rates)


def _references(recipe: Recipe) -> None:
    _require_parts_that_fit(recipe)
    start = recipe.start_checkpoint()
    claim(recipe.out / "references", encoder_digest(start))
    source = open_checkpoint(_with_references(recipe, start, "references"))
    settings, worlds = recipe.settings(references.SETTINGS), (renderer.WORLD, references.EDITS)
    tensors = references.train(source, recipe.out / "references", settings, recipe.report, *map(whole, worlds))
    save_part(recipe.out, "references", tensors)


def _references_gate(recipe: Recipe) -> dict[str, float]:
    checkpoint = open_checkpoint(_with_references(recipe, recipe.start_checkpoint(), "references"))
    return editing.gate(checkpoint, device=recipe.device)


def _with_references(recipe: Recipe, source: Checkpoint, stage: str) -> Path:
    """The folder of a copy of `source` whose SANA takes references both ways."""
    start = recipe.out / f"{stage}-start"
    shutil.rmtree(start, ignore_errors=True)
    add_references(source, start, cross=True, noise=True)
    return start


def _release(recipe: Recipe) -> None:
    release.release(recipe.last_checkpoint("joint"), BUNDLED if recipe.share >= 1 else recipe.out / "released")


def _grpo(recipe: Recipe) -> None:
    folder = recipe.out / "grpo"
    settings = grpo.TinyAllGrpoSettings(
        checkpoint=str(recipe.last_checkpoint("joint")), out=str(folder), updates=recipe.steps(140) + recipe.longer,
        device=recipe.trainers_device,
    )  # fmt: skip
    train_by_rewards(settings, folder.is_dir(), Watch(recipe.stage_report("grpo")))


def _image_gate(stage: str) -> Callable[[Recipe], dict[str, float]]:
    def gate(recipe: Recipe) -> dict[str, float]:
        """Share of images that are right, from true codes and from generated ones, on held-back prompts.

        Of edits as well, which every checkpoint has learnt.
        """
        checkpoint = open_checkpoint(recipe.last_checkpoint(stage))
        pipeline, numbers = Pipeline(checkpoint, recipe.device), dict[str, float]()
        count = 40 * len(whole(_PLAIN).categories)
        settings = Evaluation(count=count, seeds=1, guidance=1.0, edition=2)
        for source in ("true-codes", "codes"):
            result = evaluate(pipeline, settings, source)
            numbers[source] = result.mean
        numbers |= {"weakest": min(result.strict.values()), "mean": result.mean}
        edits = editing.gate(checkpoint, 25, device=recipe.device)
        return numbers | {f"edits {kind}": value for kind, value in edits.items()}

    return gate


def _no_gate(recipe: Recipe) -> dict[str, float]:
    return {}


STAGES = {
    "autoencoder": Stage(_autoencoder, _round_trip_gate, "mean", 0.9),
    "decoder": Stage(_decoder, _round_trip_gate, "mean", 0.97),
    "image_tokenizer": Stage(
        _image_tokenizer,
        lambda recipe: image_tokenizer.gate(
            recipe.start_checkpoint().load_image_tokenizer(), world=whole(image_tokenizer.WORLD)
        ),
        "patches",
        0.98,
    ),
    "language": Stage(_language, _language_gate, "mean", 0.8),
    "renderer": Stage(
        part("renderer", renderer, encoder_digest),
        lambda recipe: renderer.gate(recipe.start_checkpoint(), world=whole(_PLAIN)),
        "mean",
        0.9,
    ),
    "connector": Stage(part("connector", connector, language_digest), _no_gate),
    "data": Stage(_data, _no_gate),
    "align": Stage(_align, _language_gate, "mean", 0.8),
    "references": Stage(_references, _references_gate, "mean", 0.7),
    "joint": Stage(_joint, _image_gate("joint"), "true-codes", 0.9),
    "release": Stage(_release, _no_gate),
    "grpo": Stage(_grpo, _image_gate("grpo"), "mean", 0.92),
}


def run(stage: str, recipe: Recipe) -> dict[str, float]:
    """Train one stage, continuing an interrupted run, and return the numbers of its gate.

    Raises Blip3oError if the gate fails, because later stages need this one. A share of the steps has no gates.
    """
    if stage not in STAGES:
        raise Blip3oError(f"Stage {stage!r} is unknown. Choose one of: {', '.join(STAGES)}.")
    chosen, cpu, wall = STAGES[stage], time.process_time(), time.perf_counter()
    recipe = replace(recipe, stage=stage)
    recipe.out.mkdir(parents=True, exist_ok=True)
    chosen.run(recipe)
    numbers = {"cpu_minutes": (time.process_time() - cpu) / 60, "minutes": (time.perf_counter() - wall) / 60}
    numbers |= chosen.gate(recipe)
    longer = {"longer": recipe.longer} if recipe.longer else {}
    append_lines(recipe.log, [json.dumps({"stage": stage, **longer, **numbers})])
    if chosen.key and recipe.share >= 1 and numbers[chosen.key] < chosen.minimum:
        raise Blip3oError(
            f"Stage {stage} reached {chosen.key} {numbers[chosen.key]:.3f}, but its gate needs {chosen.minimum:.2f}. "
            "Train it longer before the next stage: --longer N adds N steps to its own."
        )
    return numbers
