"""Edits in every reference mode, mixed with other images."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.cli.main import main
from blip3o_core.compat import AUTHORS_EDIT_TRAINING, TrainingQuirks
from blip3o_core.diffusion.reference_conditioning import predict_side_by_side
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.training import trainer as loop
from blip3o_core.training.data.collate import IGNORED, collate
from blip3o_core.training.data.encoded import EncodedItem
from blip3o_core.training.data.image_source import ImageSource
from blip3o_core.training.data.packed import pack
from blip3o_core.training.edit_checkpoint import add_references
from blip3o_core.training.losses import Noising, joint_loss
from blip3o_core.training.trainer import Trainer
from blip3o_core.weights.names import REFERENCE_CONNECTOR
from tests.support.tiny_checkpoint import Sizes, make_checkpoint
from tests.support.training_world import (
    World,
    assert_resumes,
    assert_same_microbatches,
    batches,
    encoder,
    make_data,
    make_edits,
    make_shard,
)

NO_QUIRKS = TrainingQuirks()
ROOM = Sizes(prompt_limit=400)
CROSS, NOISE = ("use_und_image_vae",), ("use_und_image_vae_as_noise", "only_use_und_image_vae_as_noise")
MODES = {"tokens": (), "cross": CROSS, "noise": NOISE, "both": (*CROSS, NOISE[0])}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Reference mode -> checkpoint folder. All have the same weights where they have the same parts."""
    place = tmp_path_factory.mktemp("edit models")
    return {mode: make_checkpoint(place / mode / "model", edit=edit, sizes=ROOM) for mode, edit in MODES.items()}


@pytest.fixture(scope="module")
def edit_files(tmp_path_factory):
    place = tmp_path_factory.mktemp("edits")
    return make_edits(place / "one"), make_edits(place / "several", several=True), place / "cache"


@pytest.fixture
def edits(models, edit_files, tmp_path) -> World:
    return World(models["both"], edit_files[0], edit_files[2], tmp_path)


@pytest.fixture(scope="module")
def rows():
    """Prompts, codes, latents and references of four rows: an edit, text to image, an edit, an image without text."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 96, (8, 25), generator=generator)
    latents, noise = torch.randn(2, 8, 8, 4, 4, generator=generator)
    prompts = ["make it blue", "a red cube", "make the small green balls on the shelf red", ""]
    return prompts, codes, latents, noise[:4], torch.tensor([700.0, 20.0, 400.0, 1000.0])


def batch_of(pipeline, rows, which, counts, quirks=NO_QUIRKS):
    prompts, codes, latents, *_ = rows
    first = {0: 4, 2: 6}
    items = []
    for row in which:
        span = slice(first.get(row, 0), first.get(row, 0) + counts[row])
        references = (codes[span], latents[span]) if counts[row] else ()
        items.append(EncodedItem(codes[row], latents[row], *references))
    return collate(pipeline.encoder, [prompts[row] for row in which], items, quirks)


def loss_of(pipeline, rows, which, counts, dropped=(), quirks=NO_QUIRKS, batch=None):
    batch = batch or batch_of(pipeline, rows, which, counts, quirks)
    noising = Noising(rows[3][which], rows[4][which], torch.tensor([row in dropped for row in which]))
    mode = pipeline.checkpoint.reference_mode
    return joint_loss(pipeline.language, pipeline.transformer, batch, noising, mode, quirks)


@pytest.mark.parametrize("mode", MODES)
def test_neighbours_of_another_kind_change_nothing(mode, models, rows):
    """Catches references that reach other rows, padding that counts, and rows mixed up between two passes."""
    pipeline = Pipeline.load(models[mode])
    counts = {0: 1, 1: 0, 2: 2, 3: 0}
    which = [1, 0, 2, 3]
    together = loss_of(pipeline, rows, which, counts, dropped=(2,))
    alone = [loss_of(pipeline, rows, [row], counts, dropped=(2,)) for row in which]
    for name in ("tokens", "diffusion"):
        mean = sum(getattr(losses, name) for losses in alone) / 4
        assert abs(getattr(together, name) - mean) < 1e-4 * mean, name


@pytest.mark.parametrize("mode", MODES)
def test_references_reach_the_image_by_their_mode_alone(mode, models, rows):
    """Catches a mode that has no effect, or the effect of another one. In the prompt references always count."""
    pipeline = Pipeline.load(models[mode])
    counts = {0: 1, 1: 0}
    batch = batch_of(pipeline, rows, [0, 1], counts)
    before = loss_of(pipeline, rows, [0, 1], counts)
    moved = loss_of(pipeline, rows, [0, 1], counts, batch=replace(batch, references=batch.references + 1))
    assert moved.tokens == before.tokens
    assert (moved.diffusion != before.diffusion) == (mode != "tokens")
    ids = batch.ids.clone()
    place = int((ids[0] >= pipeline.language.vocabulary.image_start).nonzero()[0])
    ids[0, place] = pipeline.language.vocabulary.image_start + (rows[1][4, 0] + 1) % 96
    other = loss_of(pipeline, rows, [0, 1], counts, batch=replace(batch, ids=ids))
    assert other.tokens != before.tokens and other.diffusion != before.diffusion


def test_a_dropped_edit_sees_the_null_condition_of_inference(models, rows):
    """Catches a null condition that guidance never uses: zeros for the references, the connector of zeros before them.

    They count, and neighbours' references still do not.
    """
    pipeline, seen = Pipeline.load(models["cross"]), {}

    def keep(_, args, inputs) -> None:
        seen.update(inputs)

    hook = pipeline.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    loss_of(pipeline, rows, [0, 1, 2], {0: 1, 1: 0, 2: 1}, dropped=(0, 1))
    context, mask = seen["encoder_hidden_states"], seen["encoder_attention_mask"]
    null = pipeline.language.connector(torch.zeros(64))
    assert context.shape[1] == 26 + 16
    for row in (0, 1):
        assert (context[row, :26] - null).abs().max() < 1e-5 and (context[row, 26:] == 0).all()
    expected = pipeline.language.reference_connector(rows[2][6].flatten(1).T)
    assert (context[2, 26:] - expected).abs().max() < 1e-5
    assert mask[0].all() and mask[2].all() and mask[1].tolist() == [True] * 26 + [False] * 16
    loss_of(pipeline, rows, [0, 2], {0: 1, 2: 1}, dropped=(0,), quirks=AUTHORS_EDIT_TRAINING)
    hook.remove()
    assert (seen["encoder_hidden_states"][0] == 0).all() and seen["encoder_hidden_states"][1, :26].abs().min() > 0


def test_reference_tokens_are_no_labels(models, rows):
    """Catches a language model that learns to repeat the reference when all text has labels."""
    pipeline = Pipeline.load(models["tokens"])
    batch = batch_of(pipeline, rows, [0, 1, 2], {0: 1, 1: 0, 2: 2}, TrainingQuirks(all_text=True))
    left = ((batch.labels == IGNORED) & batch.attention_mask).sum(1)
    assert left.tolist() == [25, 0, 50]
    for row, codes in ((0, rows[1][4]), (2, rows[1][6:8].flatten())):
        hidden = batch.ids[row][(batch.labels[row] == IGNORED) & batch.attention_mask[row]]
        assert torch.equal(hidden, codes + pipeline.language.vocabulary.image_start)


def test_both_halves_have_the_positions_of_one_image(models, tmp_path, rows):
    """Catches positions stretched over noise and reference, which a model that has any sees as another place."""
    folder = make_checkpoint(tmp_path / "model", sizes=ROOM)
    path = folder / "diffusion/transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "interpolation_scale": 1.0}))
    for model in (folder, models["noise"]):
        sana, seen = open_checkpoint(model).load_transformer(), []
        for height in (4, 8):
            x, reference = (one.repeat_interleave(height // 4, dim=2) for one in (rows[2][:2], rows[2][2:4]))
            hook = sana.transformer_blocks[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            context = torch.zeros(2, 3, 40)
            out = predict_side_by_side(sana, x, [reference], timestep=torch.ones(2), encoder_hidden_states=context)
            hook.remove()
            left, right = seen.pop().unflatten(1, (height, 8)).chunk(2, dim=2)
            assert (left.flatten(1, 2) - sana.patch_embed(x)).abs().max() < 1e-6
            assert (right.flatten(1, 2) - sana.patch_embed(reference)).abs().max() < 1e-6
            assert out.shape == x.shape


def test_edits_are_the_same_in_folders_shards_and_packed_files(models, edit_files, tmp_path):
    """Catches references of another item, in another order, or left behind; rows may differ in their number."""
    world = World(models["cross"], edit_files[1], edit_files[2], tmp_path)
    expected = [batches(world, batch=6).microbatches(step) for step in (0, 1)]
    assert sorted((len(one.batch.ids), one.batch.references.shape[1]) for one in expected[0]) == [(3, 1), (3, 2)]
    shard = make_shard(world.data, tmp_path / "edits.tar")
    images = encoder(world)
    encoded = [item.encode(images) for item in batches(world).items]
    squares = [images.encode(ImageSource(world.data / f"{k}.png", ""))[0] for k in (1, 2)]
    assert torch.equal(encoded[1].references, torch.stack(squares)) and not torch.equal(*squares)
    references = torch.full((6, 2, 25), -1)
    latents = torch.zeros(6, 2, 8, 8, 8)
    for row, one in enumerate(encoded):
        references[row, : len(one.references)] = one.references
        latents[row, : len(one.references)] = one.reference_latents
    texts = [item.captions[0] for item in batches(world).items]
    codes, targets = (torch.stack([getattr(one, name) for one in encoded]) for name in ("codes", "latents"))
    packed = tmp_path / "edits.safetensors"
    pack(packed, codes, targets, texts, references, latents)
    for source in (shard, packed):
        for step in (0, 1):
            assert_same_microbatches(batches(world, batch=6, data=str(source)).microbatches(step), expected[step])
    with pytest.raises(Blip3oError, match="row 0 has references and no instruction"):
        pack(packed, codes, targets, [None] * 6, references, latents)
    with pytest.raises(Blip3oError, match="do not match"):
        pack(packed, codes, targets, texts, references)
    with pytest.raises(Blip3oError, match="row 0: a reference has codes of -1"):
        pack(packed, codes, targets, texts, references.flip(1), latents)
    # One reference for each row needs no dimension of its own.
    pack(packed, codes, targets, texts, references[:, 0], latents[:, 0])
    assert [item.num_references for item in batches(world, data=str(packed)).items] == [1] * 6


BROKEN = {
    "references without an instruction": {"image": "0.png", "images": ["1.png"]},
    "a caption for an edit": {"image": "0.png", "images": ["1.png"], "caption": "a"},
    "a caption and an instruction": {"image": "0.png", "images": ["1.png"], "caption": "a", "instruction": "b"},
    "an instruction for nothing": {"image": "0.png", "instruction": "b"},
    "an empty instruction": {"image": "0.png", "images": "1.png", "instruction": " "},
    "an absent reference": {"image": "0.png", "images": ["absent.png"], "instruction": "b"},
}


@pytest.mark.parametrize("entry", BROKEN.values(), ids=BROKEN)
def test_broken_edits_are_refused(entry, edits, tmp_path):
    """Catches an edit that is trained as something else in silence; the message names the line."""
    data = make_data(tmp_path / "data")
    (data / "items.jsonl").write_text(json.dumps(entry))
    with pytest.raises(Blip3oError, match="line 1"):
        batches(edits, data=str(data))


RATES = {"language": 1e-3, "connector": 1e-3, "reference_cross": 1e-3, "sana": 1e-3}


@pytest.mark.long
def test_the_loss_on_mixed_data_falls(edits, training_files):
    """Catches gradients that do not reach the reference connector, or rows of two kinds that cannot share a batch."""
    data = [str(edits.data), str(training_files[0])]
    rates = dict.fromkeys(RATES, 3e-3)
    saved = edits.train(steps=12, batch=6, train=rates, data=data, bf16=True, gradient_checkpointing=True)
    log = edits.log()
    for name, share in (("tokens", 0.6), ("diffusion", 0.9)):
        first, last = (sum(entry[name] for entry in part) / 4 for part in (log[:4], log[-4:]))
        assert last < share * first, (name, first, last)
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (saved, edits.checkpoint))
    names = [name for name in theirs if name.startswith(REFERENCE_CONNECTOR)]
    assert len(names) == 5 and not any(torch.equal(mine[name], theirs[name]) for name in names)


def test_the_reference_connector_trains_alone(edits):
    """Catches a part that is left as it was, or takes others along."""
    saved = edits.train(steps=2, train={"reference_cross": 1e-2})
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (saved, edits.checkpoint))
    changed = {name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])}
    assert changed == {name for name in theirs if name.startswith(REFERENCE_CONNECTOR)}


def test_mixed_runs_resume(edits, training_files):
    """Catches anything about references that is not a function of the step."""
    assert_resumes(edits, train=RATES, data=[str(edits.data), str(training_files[0])])


def test_references_that_cannot_go_their_way_are_refused(edits, models, training_files, tmp_path):
    """Catches references that are dropped in silence, a connector that never learns, and a run that hangs."""
    features = make_checkpoint(tmp_path / "features" / "model", edit=("use_tar_siglip_features",), sizes=ROOM)
    bare = make_checkpoint(tmp_path / "bare" / "model", sizes=ROOM)
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "use_und_image_vae": True}))
    plain = str(training_files[0])
    cases = [
        ({"checkpoint": str(features)}, "use_tar_siglip_features"),
        ({"checkpoint": str(bare)}, "add-references"),
        ({"data": plain, "train": {"reference_cross": 1.0}}, "no item of the data has references"),
        ({"checkpoint": str(models["noise"]), "train": {"reference_cross": 1.0}}, "does not use it"),
    ]
    for changes, shown in cases:
        with pytest.raises(Blip3oError, match=shown):
            edits.train(**changes)
    # Without edits the switch does not matter.
    edits.train("features", steps=1, data=plain, checkpoint=str(features))


def test_divided_models_take_one_kind_in_mode_noise(edits, edit_files, training_files, monkeypatch):
    """Catches processes that wait for each other for ever: rows of two kinds take two passes, rows of one kind one."""
    divided = SimpleNamespace(
        num_processes=2, distributed_type=SimpleNamespace(name="FSDP"), is_fsdp2=True, device=torch.device("cpu")
    )
    monkeypatch.setattr(loop, "_accelerator", lambda config: divided)
    for data in ([str(edits.data), str(training_files[0])], [str(edit_files[1])]):
        with pytest.raises(Blip3oError, match="data of one kind"):
            Trainer(edits.config(data=data))


@pytest.mark.parametrize("modes", [["both"], pytest.param(["cross", "noise"], marks=pytest.mark.long)], ids=" ".join)
def test_a_text_to_image_checkpoint_learns_edits(modes, models, edit_files, tmp_path, rows, capsys):
    """Catches an edit checkpoint that makes other images before it is trained, or is not recognised as one."""
    source = models["tokens"]
    for mode in modes:
        cross, noise = mode in ("cross", "both"), mode in ("noise", "both")
        out = tmp_path / mode / "model"
        assert main(["add-references", f"--checkpoint={source}", f"--reference-mode={mode}", f"--out={out}"]) == 0
        assert main(["inspect", f"--checkpoint={out}"]) == 0
        assert "edit" in capsys.readouterr().out
        made, supported = open_checkpoint(out), open_checkpoint(out).reference_mode
        assert (supported.cross, supported.noise, supported.features) == (cross, noise, False)
        mine, theirs = load_file(out / "model.safetensors"), load_file(source / "model.safetensors")
        assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
        new = set(mine) - set(theirs)
        assert len(new) == (5 if cross else 0) and all(n.startswith(REFERENCE_CONNECTOR) for n in new)
        pipeline = Pipeline(made)
        plain = loss_of(Pipeline.load(source), rows, [1, 3], {1: 0, 3: 0})
        assert loss_of(pipeline, rows, [1, 3], {1: 0, 3: 0}).total == plain.total
        world = World(out, edit_files[0], edit_files[2], tmp_path / mode)
        world.train(steps=1, train={"reference_cross": 1e-3} if cross else {"sana_ends": 1e-3})
    with pytest.raises(Blip3oError, match="already exists"):
        add_references(open_checkpoint(source), out, True, False)
    with pytest.raises(Blip3oError, match="Choose cross, noise or both"):
        add_references(open_checkpoint(source), tmp_path / "new", False, False)
