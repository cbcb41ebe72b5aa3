"""How the bundled model is made: codes with letters, images of several shapes, two references."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.shards.read import ShardFolder
from blip3o_core.tiny import CATEGORIES, TEXT, edit_evaluation, evaluation
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.recipe import (
    assemble,
    autoencoder,
    connector,
    grpo,
    image_tokenizer,
    language,
    model_config,
    release,
    renderer,
    shards,
)
from blip3o_core.tiny.recipe.carry_over import carry_over
from blip3o_core.tiny.recipe.oracle_codes import (
    FIRST_OBJECT,
    codebook,
    codes_to_image,
    first_letter,
    scene_codes,
    used_codes,
)
from blip3o_core.tiny.recipe.recipe import Recipe
from blip3o_core.tiny.recipe.worlds import whole
from blip3o_core.tiny.scenes.captions import phrasings
from blip3o_core.tiny.scenes.edits import COMPOSE, edit_kinds, instructions, make_edit
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.textures import SOLID
from blip3o_core.tiny.scenes.world import SECOND, Scene, World, lettered_word, make_scene
from blip3o_core.training.config import TrainingConfig
from blip3o_core.training.data.batches import Batches
from blip3o_core.training.data.items import find_items
from blip3o_core.training.data.latent_cache import ImageEncoder
from blip3o_core.training.edit_checkpoint import add_references
from blip3o_core.training.rl.tasks import find_tasks

SIZES = model_config.SECOND_EDITION
NAMES = (*CATEGORIES, TEXT)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of starting values."""
    out = tmp_path_factory.mktemp("recipe2")
    return open_checkpoint(assemble.assemble(out, out / "start", sizes=SIZES))


def scenes(count: int, world: World = SECOND) -> list[Scene]:
    return [make_scene(3, "held_back", index, world, name) for name in NAMES for index in range(count)]


def test_codes_say_everything_a_caption_asks_for_but_textures():
    """Catches codes that lose a letter or the place of an object in an oblong image, and codes that say a texture."""
    for scene in scenes(12):
        codes = scene_codes(scene, SIZES)
        verdict = judge_image(codes_to_image(codes, scene.canvas, SIZES), spec_of(replace(scene, textures_named=False)))
        assert verdict.strict, (scene, verdict.reasons)
        plain = replace(scene, texture=SOLID, objects=tuple(replace(obj, texture=SOLID) for obj in scene.objects))
        assert np.array_equal(scene_codes(plain, SIZES), codes)


def test_a_letter_has_a_code_of_its_own_in_every_colour():
    """Catches letters that share a code, stand in another patch, or are written over by the ground."""
    codes = scene_codes(Scene(TEXT, (), word=lettered_word("AZ", "pink", 2, 3)), SIZES)
    letters = {place: int(code) for place, code in enumerate(codes) if code >= FIRST_OBJECT}
    assert letters == {3 * 8 + 2: first_letter(SIZES) + 7, 3 * 8 + 3: first_letter(SIZES) + 25 * 8 + 7}
    assert used_codes(SIZES) == first_letter(SIZES) + 26 * 8 <= SIZES.codes
    assert used_codes(model_config.FIRST_EDITION) == first_letter(model_config.FIRST_EDITION)


def test_every_code_means_something_else():
    """Catches a letter and a piece with one direction in the book, which no tokenizer could tell apart."""
    book = codebook(SIZES)
    used = used_codes(SIZES)
    assert not book[used:].any()
    for first in range(0, used, 2048):
        similar = book[first : min(first + 2048, used)] @ book[:used].T
        similar[torch.arange(len(similar)), torch.arange(first, first + len(similar))] = 0
        assert similar.max() < 0.95


def test_a_start_is_a_complete_checkpoint_that_knows_every_word(start, tmp_path):
    """Catches parts of different editions in one checkpoint, an unknown word, and a model that is too large."""
    start.validate()
    assert start.grid == (8, 8) and start.trained_side == 128
    unknown, encoder = start.prompt_encoder._full.token_to_id("[UNK]"), start.prompt_encoder
    texts = [text for scene in scenes(4) for text in phrasings(scene)]
    texts += [
        text
        for kind in edit_kinds(SECOND)
        for k in range(8)
        for text in instructions(make_edit(5, "train", k, SECOND, kind))
    ]
    words = {word for text in texts for word in text.split()}
    assert not [word for word in words if unknown in encoder.encode(word)]
    # With both ways of a reference, as it will be released
    add_references(start, tmp_path / "edit", cross=True, noise=True)
    assert release.release(tmp_path / "edit", tmp_path / "released") < release.LIMIT


def test_a_stage_trains_in_the_whole_world():
    """Catches a stage without words, textures or oblong images, and one that loses its shares of categories."""
    world = whole(language.WORLD)
    assert world.lettered and world.textured == SECOND.textured and world.oblong == SECOND.oblong
    shares, total = dict(world.weights), sum(weight for _, weight in world.weights)
    assert 0.2 < shares[TEXT] / total < 0.3 and shares["position"] == dict(language.WORLD.weights)["position"]
    assert model_config.sizes_of(world) == SIZES and model_config.sizes_of(World()) == model_config.FIRST_EDITION


def test_a_language_model_is_carried_over(start, tmp_path):
    """Catches words and codes that get the embeddings of others: the model would have to learn everything again."""
    learnt = carry_over(open_checkpoint(BUNDLED), start, SIZES)
    carried = open_checkpoint(assemble.assemble(tmp_path, tmp_path / "start", sizes=SIZES, given=learnt))
    losses = {}
    for name, checkpoint in {"start": start, "carried": carried}.items():
        entries = []
        settings = language.SETTINGS.replace(batch=8, steps=1, warmup=0)
        additions = language.Additions(language.Edits(whole(language.EDITS)))
        language.train(checkpoint, tmp_path / name, settings, entries.append, whole(language.WORLD), additions)
        losses[name] = entries[0]
    for kind in ("images", "edits"):
        assert losses["carried"][kind] < losses["start"][kind] / 2
    with pytest.raises(Blip3oError, match="9,216 codes and 5 layers"):
        carry_over(replace(start, config={**start.config, "num_hidden_layers": 5}), start, SIZES)


def test_the_front_layer_looks_at_both_references(start):
    """Catches a distance to the references' codes that no prompt has."""
    assert start.prompt_encoder.tokens_after_references == model_config.AFTER_REFERENCES
    codes = torch.arange(128).view(2, 64)
    ids = start.prompt_encoder.encode_edit("the star of image 1 and the ring of image 2", codes)
    full = torch.tensor([ids + (codes[0] + start.vocabulary.image_start).tolist()])
    model = start.load_language(torch.float32)
    layer, x = model.model.layers[0], model.embed(full, torch.float32)
    attention, inward = layer.self_attn, layer.input_layernorm(x)
    q, k = (
        norm(project(inward).unflatten(-1, (-1, model_config.HEAD_DIM))).transpose(1, 2)
        for norm, project in ((attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj))
    )
    q, k = apply_rotary_pos_emb(q, k, *model.model.rotary_emb(x, torch.arange(full.shape[1])[None]))
    first = [full[0].tolist().index(start.vocabulary.image_start + int(own[0])) for own in codes]
    for place in (1, 17, 63):  # what is fed there is the scale token, or the code before
        for head, (reference, beside) in enumerate(((1, 0), (0, 0), (1, -1), (0, -1))):
            scores = q[0, head] @ k[0, head // 2].T
            row = scores[len(ids) - 1 + place, : len(ids) + place]
            assert int(row.argmax()) == first[reference] + place + beside


@pytest.mark.long
@pytest.mark.parametrize("stage", [autoencoder, image_tokenizer, language, renderer, connector])
def test_a_stage_learns_from_images_of_every_shape(stage, start, tmp_path, monkeypatch):
    """Catches a batch of images that do not fit each other, and a loss that does not reach the weights."""
    monkeypatch.setattr(renderer, "IMAGES_PER_STEP", 12)
    monkeypatch.setattr(autoencoder, "RESCALE_IMAGES", 16)
    settings = stage.SETTINGS.replace(batch=8, steps=5, warmup=2, save_every=100)
    entries, given = [], () if stage in (autoencoder, image_tokenizer) else (start,)
    torch.manual_seed(0)
    world = replace(whole(stage.WORLD), oblong=0.6)
    stage.train(*given, folder=tmp_path, settings=settings, report=entries.append, world=world)
    assert entries[1]["loss"] < entries[0]["loss"]


@pytest.mark.long
def test_gates_measure_images_of_every_shape(start):
    """Catches a gate of one of the stages that fails on oblong images, on words, or on two references."""
    world = replace(SECOND, oblong=0.5)
    vae, tower = start.load_autoencoder(torch.float32), start.load_image_tokenizer(torch.float32)
    rounds = autoencoder.gate(vae, 18, world=world)
    assert set(rounds) == {*NAMES, "mean", *(f"psnr {name}" for name in NAMES), "surfaces", "flat"}
    assert 8 < rounds["flat"] < 30
    assert set(image_tokenizer.gate(tower, 18, world)) == {"patches", "images"}
    assert set(language.gate(start, start.load_language(torch.float32), 9, world=world)) == {*NAMES, "mean"}
    assert set(renderer.gate(start, 9, steps=1, world=world)) == {*NAMES, "mean"}
    kinds = edit_kinds(SECOND)
    numbers = language.edit_gate(start, start.load_language(torch.float32), len(kinds), world=world)
    assert set(numbers) == {*kinds, "mean"}


# ---- data and the general trainer


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Scenes and edits of every shape of image in shard folders."""
    folder, world = tmp_path_factory.mktemp("data"), replace(SECOND, oblong=0.5)
    shards.write_scenes(0, folder / "captions", 1, 24, world, (True, False))
    shards.write_edits(0, folder / "edits", 1, 24, world, 2)
    return folder


def test_shards_hold_scenes_with_their_captions_and_edits_with_both_references(written):
    """Catches captions of another image, references in the wrong order, and a composition with one reference."""
    world = replace(SECOND, oblong=0.5)
    for number, item in enumerate(find_items((str(written / "captions"),))):
        scene = make_scene(1, "train", number, world)
        assert np.array_equal(_pixels(item.image), rasterize(scene, 128))
        assert len(item.captions) == 2 and set(item.captions) <= set(phrasings(scene))
    kinds = set()
    for number, item in enumerate(find_items((str(written / "edits"),))):
        edit = make_edit(1, "train", number, world)
        images = [_pixels(one) for one in (item.image, *item.references)]
        assert len(images) == 2 + (edit.kind == COMPOSE)
        for image, scene in zip(images, (edit.target, *edit.sources), strict=True):
            assert np.array_equal(image, rasterize(scene, 128))
        assert set(item.captions) <= set(instructions(edit))
        kinds.add(edit.kind)
    assert COMPOSE in kinds


def _pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.read())))


def test_interrupted_shards_are_finished_and_those_of_other_arguments_replaced(tmp_path, monkeypatch):
    """Catches shards that are written twice, half a folder that looks whole, and images of another world or seed."""
    monkeypatch.setattr(shards, "_ITEMS", 4)
    drawn, draw = [], shards.rasterize

    def counted(scene, side):
        if len(drawn) == 6:
            raise KeyboardInterrupt
        drawn.append(scene)
        return draw(scene, side)

    monkeypatch.setattr(shards, "rasterize", counted)
    folder, given = tmp_path / "data" / "captions", (10, SECOND, (True,))
    with pytest.raises(KeyboardInterrupt):
        shards.write_scenes(0, folder, 1, *given)
    with pytest.raises(Blip3oError, match="manifest"):
        ShardFolder(folder)
    monkeypatch.setattr(shards, "rasterize", lambda scene, side: drawn.append(scene) or draw(scene, side))
    shards.write_scenes(0, folder, 1, *given)
    assert len(drawn) == 6 + 6  # the first shard is whole, the second one begins again
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    shards.write_scenes(0, folder, 1, *given)
    assert len(drawn) == 12 and {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    shards.write_scenes(0, folder, 2, *given)
    assert len(drawn) == 22 and (folder / "0000.tar").read_bytes() != whole["0000.tar"]
    assert ShardFolder(folder).counts == [4, 4, 2]


def _batches(start, written, processes: int = 1, **changes) -> Batches:
    paths = [str(written / name) for name in ("captions", "edits")]
    config = TrainingConfig(
        checkpoint=str(start.folder), out="unused", data=paths, train={"sana": 1e-3}, steps=1, batch=16,
        **{**shards.SETTINGS, **changes},
    )  # fmt: skip
    images = ImageEncoder(start, config.cache_folder, 128, config.fit, torch.device("cpu"))
    return Batches(config, find_items(paths), start.prompt_encoder, images, 0, processes)


def test_rows_of_one_step_are_divided_by_the_shape_of_their_latents(start, written, tmp_path):
    """Catches rows that are lost or used twice, noise of another shape, and processes that wait for each other."""
    batches = _batches(start, written)
    microbatches = batches.microbatches(0)
    assert all(one.noising.noise.shape == one.batch.latents.shape for one in microbatches)
    found = [one.batch for one in microbatches]
    kinds = [(tuple(one.latents.shape[1:]), 0 if one.references is None else one.references.shape[1]) for one in found]
    assert len(set(kinds)) == len(kinds) > 4
    items = [batches.items[batches.order.index(row)] for row in range(16)]
    sizes = [_pixels(item.image).shape for item in items]
    assert dict(zip(kinds, (len(one.ids) for one in found), strict=True)) == Counter(
        ((32, height // 16, width // 16), item.num_references)
        for (height, width, _), item in zip(sizes, items, strict=True)
    )
    with pytest.raises(Blip3oError, match="several shapes"):
        _batches(start, written, processes=2)
    # Images that are encoded together and not kept are those that are encoded one by one.
    cached = _batches(start, written, cache_images=True, cache=str(tmp_path / "cache")).microbatches(0)
    for one, other in zip(found, (other.batch for other in cached), strict=True):
        assert (one.latents - other.latents).abs().max() < 1e-4 and (one.ids == other.ids).float().mean() > 0.98
    assert (tmp_path / "cache").is_dir() and not (written / "cache").exists()


def test_tasks_of_reinforcement_learning_are_of_the_whole_world():
    """Catches a run with images of half the size, without words, or without second references."""
    assert grpo.variant({"tasks": "tiny-all"}) is grpo.TinyAllGrpoSettings
    together = find_tasks("tiny-all", 16, 40, 0).train
    # A category and a kind of edit are both called "background": logs must not count them together.
    assert [task.group for task in together[:16]] == [*NAMES, *(f"edit {kind}" for kind in edit_kinds(SECOND))]
    assert len({task.prompt for task in together[:32]}) > 24 and bool(together[9].references)
    images, edits = (find_tasks(name, 9 * 7, 9 * 7, 0).train for name in ("tiny", "tiny-edits"))
    assert {task.group for task in images} == set(NAMES) and any(task.meta["spec"].word for task in images)
    assert {task.group for task in edits} == set(edit_kinds(SECOND))
    for task in edits:
        assert all(image.size == (128, 128) for image in task.references) and task.mask.shape == (128, 128)
        assert len(task.references) == 1 + (task.group == COMPOSE)


@pytest.mark.slow
def test_the_trainer_trains_on_images_of_every_shape(start, written, tmp_path):
    """Catches a trainer that stacks latents of several shapes, or weighs a shape by its number of batches."""
    recipe = Recipe(tmp_path, lambda entry: None, share=0.01)
    (tmp_path / "data").symlink_to(written)
    rates = {"sana": 1e-3, "connector": 1e-3}
    recipe.train_jointly("joint", start.folder, ["captions", "edits"], 200, rates, batch=12)
    trained = recipe.last_checkpoint("joint")
    with (
        safe_open(trained / "model.safetensors", "pt") as after,
        safe_open(start.folder / "model.safetensors", "pt") as before,
    ):
        name = next(name for name in after.keys() if "transformer_blocks.0" in name and name.endswith("to_v.weight"))
        assert not torch.equal(after.get_tensor(name), before.get_tensor(name))


@pytest.mark.long
def test_evaluations_make_images_of_every_shape_and_of_two_references(start, tmp_path):
    """Catches an evaluation that asks for square images alone, or gives a composition one reference."""
    add_references(start, tmp_path / "edit", cross=True, noise=True)
    pipeline = Pipeline.load(tmp_path / "edit")
    settings = evaluation.Settings(count=27, seeds=1, steps=1, guidance=1.0, edition=2)
    for source in (evaluation.CODES, evaluation.TRUE_CODES, evaluation.AUTOENCODER):
        result = evaluation.evaluate(pipeline, settings, source)
        assert set(result.strict) == set(NAMES)
        canvases = {prompt.scene.canvas for prompt in result.prompts}
        assert len(canvases) > 2
        for prompt, verdict in zip(result.prompts, result.verdicts[0], strict=True):
            assert verdict.detection.size == prompt.scene.canvas
    settings = edit_evaluation.Settings(count=21, steps=1, guidance=1.0, edition=2)
    edited = edit_evaluation.evaluate(pipeline, settings, "both")
    assert set(edited.right) == {*edit_kinds(SECOND), "mean"} and edited.surfaces > 0
    assert [image.shape[:2] for image in edited.images] == [edit.target.canvas[::-1] for edit in edited.edits]
