"""The stages in order: what each needs, what it writes, and the gate after it.

autoencoder  image_tokenizer    the two encoders; need nothing
decoder                         of the second edition: the autoencoder's decoder alone, before references
language                        needs nothing: the true codes of a scene are known
renderer                        needs the autoencoder
connector  data                 need all of these
align                           of the second edition: language model and connector together, behind connector
joint  instruct                 the general trainer, each from the checkpoint before
grpo                            reinforcement learning; a branch that is measured, and that no later stage starts from
edit_language  edit  latents    from instruct: the language model alone on edits, then all parts, then all parts but it
release                         the bundled checkpoint, from latents

In the second edition `language` and `joint` learn edits and free phrasings too, and SANA learns references before
`joint`, so that it needs no `instruct`, `edit_language`, `edit` and `latents`, and `grpo` is no branch:
references behind align, joint (all but the language model) from references, grpo from joint, release from grpo.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ...checkpoint import Checkpoint, open_checkpoint
from ...checkpoint.bundled import BUNDLED
from ...errors import Blip3oError
from ...files import append_lines
from ...models.image_tokenizer import PREFIX
from ...pipeline import Pipeline
from ...rewards.settings import RewardSettings
from ...training.edit_checkpoint import add_references
from ...training.grpo.settings import GrpoSettings
from ...training.grpo.train import train as train_by_rewards
from ...training.save import save_checkpoint
from ...training.watch import Watch
from ...weights.names import VAE
from ..evaluation import Settings as Evaluation
from ..evaluation import evaluate
from ..scenes.world import World
from . import (
    autoencoder,
    connector,
    data,
    edit_language,
    editing,
    grpo,
    image_tokenizer,
    language,
    references,
    release,
    renderer,
    second_language,
    shards,
)
from .ahead import workers_for
from .assemble import save_part
from .editions import MINIMA
from .recipe import Recipe
from .starts import claim, encoder_digest, language_digest

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
    settings, world = recipe.settings(autoencoder.REFINED), recipe.world(autoencoder.WORLD)
    autoencoder.refine_decoder(network, recipe.out / "decoder", settings, recipe.report, world)
    _save_autoencoder(recipe, network)


def _save_autoencoder(recipe: Recipe, network) -> None:
    tensors = {VAE + name: tensor for name, tensor in network.state_dict().items()}
    save_part(recipe.out, "autoencoder", tensors, {"scaling_factor": str(network.config.scaling_factor)})


def _round_trip_gate(recipe: Recipe) -> dict[str, float]:
    network = recipe.start_checkpoint().load_autoencoder()
    return autoencoder.gate(network, world=recipe.world(autoencoder.WORLD))


def _image_tokenizer(recipe: Recipe) -> None:
    tensors = image_tokenizer.tensors(recipe.train(image_tokenizer, "image_tokenizer"))
    save_part(recipe.out, "image_tokenizer", {PREFIX + name: tensor for name, tensor in tensors.items()})


def _part(stage: str, module, digest: Callable[[Checkpoint], str] | None = None) -> Callable[[Recipe], None]:
    """`digest`: of what the part learns from and leaves as it is."""

    def run(recipe: Recipe) -> None:
        start = recipe.start_checkpoint(aligned=False)
        if digest is not None:
            claim(recipe.out / stage, digest(start))
        trained = recipe.train(module, stage, start)
        save_part(recipe.out, stage, module.tensors(trained))

    return run


def _language(recipe: Recipe) -> None:
    """In the second edition with edits from the start, so that it needs no stage for them."""
    if recipe.edition == 1:
        return _part("language", language)(recipe)
    save_part(recipe.out, "language", language.tensors(second_language.train(recipe)))


def _align(recipe: Recipe) -> None:
    model = second_language.align(recipe)
    save_part(recipe.out, "align", language.tensors(model) | connector.tensors(model.connector))


def _language_gate(recipe: Recipe) -> dict[str, float]:
    checkpoint = recipe.start_checkpoint(aligned=recipe.stage == "align")
    world = recipe.world(_PLAIN)
    numbers = language.gate(checkpoint, checkpoint.load_language(), world=world)
    if recipe.edition == 1:
        return numbers
    edits = language.edit_gate(checkpoint, checkpoint.load_language(), world=world)
    return numbers | {f"edits {kind}": value for kind, value in edits.items()}


def _data(recipe: Recipe) -> None:
    world, weak, two_plain = recipe.world(language.WORLD), recipe.world(WEAK), (True, True, False)
    workers = workers_for(recipe.device)
    if recipe.edition == 1:
        encoders = data.Encoders(recipe.start_checkpoint(), recipe.device, workers)
        scenes, edits = partial(data.pack_scenes, encoders), partial(data.pack_edits, encoders)
    else:
        scenes, edits = partial(shards.write_scenes, workers), partial(shards.write_edits, workers)
    scenes(recipe.data_path("captions"), 11, recipe.steps(36_000), world, two_plain)
    scenes(recipe.data_path("weak"), 14, recipe.steps(24_000), weak, two_plain)
    scenes(recipe.data_path("phrasings"), 12, recipe.steps(12_000), world, (False,) * 6)
    edits(recipe.data_path("edits"), 13, recipe.steps(16_000), recipe.world(language.EDITS))


def _divided_rates(divisor: float) -> dict[str, float]:
    return {part: rate / divisor for part, rate in RATES.items()}


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
    if recipe.edition == 1:
        start = recipe.start_checkpoint().folder
        return recipe.train_jointly("joint", start, ["captions", "weak"], 900, RATES)
    _require_parts_that_fit(recipe)
    packs, rates = ["captions", "weak", "phrasings", "edits", "edits"], _divided_rates(4)
    # The language model has learnt from images of its own; cross-entropy would take a part of that away (docs/LOG.md).
    del rates["language"]
    rates["reference_cross"] = rates["connector"]
    start = _with_references(recipe, recipe.start_checkpoint(), "joint")
    recipe.train_jointly("joint", start, packs, 300, rates)


def _references(recipe: Recipe) -> None:
    _require_parts_that_fit(recipe)
    start = recipe.start_checkpoint()
    claim(recipe.out / "references", encoder_digest(start))
    source = open_checkpoint(_with_references(recipe, start, "references"))
    settings, worlds = recipe.settings(references.SETTINGS), (renderer.WORLD, references.EDITS)
    tensors = references.train(
        source, recipe.out / "references", settings, recipe.report, *(recipe.world(world) for world in worlds)
    )
    save_part(recipe.out, "references", tensors)


def _references_gate(recipe: Recipe) -> dict[str, float]:
    checkpoint = open_checkpoint(_with_references(recipe, recipe.start_checkpoint(), "references"))
    return editing.gate(checkpoint, edition=recipe.edition, device=recipe.device)


def _with_references(recipe: Recipe, source: Checkpoint, stage: str) -> Path:
    """The folder of a copy of `source` whose SANA takes references both ways."""
    start = recipe.out / f"{stage}-start"
    shutil.rmtree(start, ignore_errors=True)
    add_references(source, start, cross=True, noise=True)
    return start


def _instruct(recipe: Recipe) -> None:
    recipe.train_jointly(
        "instruct", recipe.last_checkpoint("joint"), ["phrasings", "weak"], 250, _divided_rates(3), seed=1
    )


def _edit_language(recipe: Recipe) -> None:
    start, folder = recipe.out / "edit_language-start", recipe.out / "edit_language"
    if not folder.is_dir():
        edit_language.add_layer(open_checkpoint(recipe.last_checkpoint("instruct")), start)
    settings = recipe.settings(recipe.full("edit_language", edit_language.SETTINGS))
    source, edits = open_checkpoint(start), [recipe.data_path("edits")]
    images = [recipe.data_path(name) for name in ("weak", "phrasings")]
    model = edit_language.train(source, (edits, images), folder, settings, recipe.report)
    done = folder / f"step-{settings.steps:08d}"
    shutil.rmtree(done, ignore_errors=True)
    done.mkdir()
    save_checkpoint(done, source, language.tensors(model), 5 * 10**9)


def _edit_codes_gate(recipe: Recipe) -> dict[str, float]:
    checkpoint = open_checkpoint(recipe.last_checkpoint("edit_language"))
    world = recipe.world(_PLAIN)
    return language.edit_gate(checkpoint, checkpoint.load_language(torch.float32), world=world)


def _edit(recipe: Recipe) -> None:
    """Train all parts on edits. Half of the rows stay text to image: with fewer, the model forgets it."""
    start = _with_references(recipe, open_checkpoint(recipe.last_checkpoint("edit_language")), "edit")
    packs, rates = ["edits", "edits", "weak", "phrasings"], {**_divided_rates(2), "reference_cross": 5e-4}
    recipe.train_jointly("edit", start, packs, 300, rates, seed=2)


def _latents(recipe: Recipe) -> None:
    """Train all parts but the language model, which could only forget: references are used by the diffusion."""
    packs = ["edits", "edits", "edits", "weak"]
    rates = {part: rate for part, rate in RATES.items() if part != "language"} | {"reference_cross": 2e-3}
    recipe.train_jointly("latents", recipe.last_checkpoint("edit"), packs, 700, rates, seed=4)


def _edit_gate(stage: str) -> Callable[[Recipe], dict[str, float]]:
    return lambda recipe: editing.gate(
        open_checkpoint(recipe.last_checkpoint(stage)), edition=recipe.edition, device=recipe.device
    )


def _grpo(recipe: Recipe) -> None:
    folder, updates, device = recipe.out / "grpo", recipe.steps(140) + recipe.longer, recipe.trainers_device
    if recipe.edition == 1:
        settings: GrpoSettings = grpo.TinyGrpoSettings(
            checkpoint=str(recipe.last_checkpoint("instruct")), out=str(folder), updates=updates,
            rewards=(RewardSettings(name="tiny"),), lr=5e-4, kl=0.02, top_p=1, frozen=(), device=device,
        )  # fmt: skip
    else:
        checkpoint = str(recipe.last_checkpoint("joint"))
        settings = grpo.SecondAllGrpoSettings(checkpoint=checkpoint, out=str(folder), updates=updates, device=device)
    train_by_rewards(settings, folder.is_dir(), Watch(recipe.stage_report("grpo")))


def _release(recipe: Recipe) -> None:
    # The second edition replaces the bundled model only by hand, when it is better on every row.
    whole = recipe.share >= 1 and recipe.edition == 1
    last = "latents" if recipe.edition == 1 else "grpo"
    release.release(recipe.last_checkpoint(last), BUNDLED if whole else recipe.out / "released")


def _image_gate(stage: str) -> Callable[[Recipe], dict[str, float]]:
    def gate(recipe: Recipe) -> dict[str, float]:
        """Share of images that are right, from true codes and from generated ones, on held-back prompts.

        In the second edition, where every checkpoint has learnt edits, that of edits as well.
        """
        checkpoint = open_checkpoint(recipe.last_checkpoint(stage))
        pipeline, numbers = Pipeline(checkpoint, recipe.device), dict[str, float]()
        count = 40 * len(recipe.world(_PLAIN).categories)
        for source in ("true-codes", "codes"):
            result = evaluate(pipeline, Evaluation(count=count, seeds=1, guidance=1.0, edition=recipe.edition), source)
            numbers[source] = result.mean
        numbers |= {"weakest": min(result.strict.values()), "mean": result.mean}
        if recipe.edition > 1:
            edits = editing.gate(checkpoint, 25, edition=recipe.edition, device=recipe.device)
            numbers |= {f"edits {kind}": value for kind, value in edits.items()}
        return numbers

    return gate


def _no_gate(recipe: Recipe) -> dict[str, float]:
    return {}


STAGES = {
    "autoencoder": Stage(_autoencoder, _round_trip_gate, "mean", 0.97),
    "decoder": Stage(_decoder, _round_trip_gate, "mean", 0.97),
    "image_tokenizer": Stage(
        _image_tokenizer,
        lambda recipe: image_tokenizer.gate(
            recipe.start_checkpoint().load_image_tokenizer(), world=recipe.world(image_tokenizer.WORLD)
        ),
        "patches",
        0.98,
    ),
    "language": Stage(_language, _language_gate, "mean", 0.8),
    "renderer": Stage(
        _part("renderer", renderer, encoder_digest),
        lambda recipe: renderer.gate(recipe.start_checkpoint(), world=recipe.world(_PLAIN)),
        "mean",
        0.9,
    ),
    "connector": Stage(_part("connector", connector, language_digest), _no_gate),
    "align": Stage(_align, _language_gate, "mean", 0.8),
    "data": Stage(_data, _no_gate),
    "references": Stage(_references, _references_gate, "mean", 0.7),
    "joint": Stage(_joint, _image_gate("joint"), "true-codes", 0.9),
    "instruct": Stage(_instruct, _image_gate("instruct"), "true-codes", 0.9),
    "grpo": Stage(_grpo, _image_gate("grpo"), "mean", 0.92),
    "edit_language": Stage(_edit_language, _edit_codes_gate, "mean", 0.8),
    "edit": Stage(_edit, _edit_gate("edit"), "mean", 0.6),
    "latents": Stage(_latents, _edit_gate("latents"), "mean", 0.7),
    "release": Stage(_release, _no_gate),
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
    minimum = MINIMA.get(stage, chosen.minimum) if recipe.edition > 1 else chosen.minimum
    if chosen.key and recipe.share >= 1 and numbers[chosen.key] < minimum:
        raise Blip3oError(
            f"Stage {stage} reached {chosen.key} {numbers[chosen.key]:.3f}, but its gate needs {minimum:.2f}. "
            "Train it longer before the next stage: --longer N adds N steps to its own."
        )
    return numbers
