"""How the tiny model is made: what codes mean, where training starts from, the loop, the files."""

import json
import math
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.decoding.engine import decode
from blip3o_core.decoding.prefill import Prompts, causal_mask
from blip3o_core.decoding.sampling import Sampling
from blip3o_core.diffusion.reference_mode import REFERENCE_MODES
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny import edit_evaluation
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.recipe import (
    assemble,
    autoencoder,
    data,
    edit_language,
    editing,
    image_tokenizer,
    language,
    model_config,
    quick,
    release,
    renderer,
    stages,
)
from blip3o_core.tiny.recipe.loop import FitSettings, fit
from blip3o_core.tiny.recipe.oracle_codes import (
    FIRST_OBJECT,
    batch_codes,
    codebook,
    codes_to_image,
    piece_ids,
    scene_codes,
)
from blip3o_core.tiny.scenes.captions import phrasings
from blip3o_core.tiny.scenes.edits import EDIT_KINDS, instructions, make_edit
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.world import CATEGORIES, World, make_scene
from blip3o_core.training.data.packed import open_pack
from blip3o_core.training.edit_checkpoint import add_references
from tests.support.paths import TOP

WORLD = World(low_contrast=False)
DOCS = TOP / "docs"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of starting values."""
    out = tmp_path_factory.mktemp("recipe")
    return open_checkpoint(assemble.assemble(out, out / "start"))


def scenes(count: int, split: str = "held_back"):
    return [make_scene(3, split, i, WORLD, CATEGORIES[i % len(CATEGORIES)]) for i in range(count)]


def test_codes_say_everything_a_caption_asks_for():
    """Catches codes that lose a shape, a colour, a size or a place: no model could be better than its codes."""
    for scene in scenes(160):
        verdict = judge_image(codes_to_image(scene_codes(scene)), spec_of(scene))
        assert verdict.strict, (scene, verdict.reasons)


def test_every_code_means_something_else():
    """Catches two pieces with one direction in the book, which no tokenizer could tell apart."""
    book = codebook()
    used = FIRST_OBJECT + 8 * len(piece_ids())
    assert used <= model_config.CODES and not book[used:].any()
    similar = book[:used] @ book[:used].T
    similar.fill_diagonal_(0)
    assert similar.max() < 0.95


@pytest.mark.slow
def test_the_tokenizer_knows_every_word_of_the_world(start):
    """Catches a word of the grammar that all captions with it would lose."""
    encoder, words = start.prompt_encoder, set()
    for index in range(30):
        texts = [phrasings(make_scene(5, "held_back", index, World(), c)) for c in (*CATEGORIES, "text")]
        texts += [instructions(make_edit(5, "held_back", index, World(), kind)) for kind in EDIT_KINDS]
        words |= {word for some in texts for text in some for word in text.split()}
    unknown = encoder._full.token_to_id("[UNK]")
    assert not [word for word in words if unknown in encoder.encode(word)]


def test_prompts_are_short_and_read_alike_both_ways(start):
    """Catches fixed phrases that fall apart into words, and quoted text that is read as words."""
    encoder = start.prompt_encoder
    plain, parsed = encoder.encode("a red circle"), encoder.encode("a red circle", parse_special=True)
    assert plain == parsed and len(plain) == 15
    longer = encoder.encode('the word "CAT" in red')
    assert [encoder._full.id_to_token(id) for id in longer[6:13]] == ["the", "word", '"', "##c", "##a", "##t", '##"']
    odd = encoder.encode("a flabbergasted circle \N{GRINNING FACE}")
    assert [encoder._full.id_to_token(id) for id in odd[6:10]] == ["a", "[UNK]", "circle", "[UNK]"]


def test_a_start_is_a_complete_checkpoint(start):
    """Catches a tensor too many or too few in what the stages hand on."""
    start.validate()
    assert start.grid == (model_config.GRID, model_config.GRID) and start.trained_side == model_config.SIDE


def test_the_tower_starts_with_looking_at_neighbours():
    """Catches positions or heads that no longer fit together; training from there is many times slower."""
    network = image_tokenizer.build()
    pixels = autoencoder.pixels(scenes(2))
    states = network.encoder["embeddings"](pixels)
    layer = network.encoder["encoder"].layers[0]
    normed = layer.layer_norm1(states)
    heads = [p(normed).view(2, 64, 4, -1).transpose(1, 2) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)]
    attention = (heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5).softmax(-1)
    middle = 3 * 8 + 4
    for head, place in enumerate((2 * 8 + 4, 4 * 8 + 4, 3 * 8 + 3, 3 * 8 + 5)):
        assert attention[0, head, middle].argmax() == place
        assert attention[0, head, middle, place] > 0.4


def test_the_language_model_starts_with_looking_back(start):
    """Catches rotary phases of the wrong sign or size: heads would look ahead, or nowhere."""
    model = start.load_language(torch.float32)
    ids = torch.randint(model_config.CODES, (1, 40)) + start.vocabulary.image_start
    layer, embeds = model.model.layers[0], model.embed(ids, torch.float32)
    cos, sin = model.model.rotary_emb(embeds, torch.arange(40)[None])
    normed, attention = layer.input_layernorm(embeds), layer.self_attn
    query = attention.q_norm(attention.q_proj(normed).view(1, 40, model_config.HEADS, -1)).transpose(1, 2)
    key = attention.k_norm(attention.k_proj(normed).view(1, 40, model_config.KV_HEADS, -1)).transpose(1, 2)

    def turned(x):
        first, second = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

    keys = turned(key).repeat_interleave(model_config.HEADS // model_config.KV_HEADS, 1)
    scores = torch.einsum("hd,hnd->hn", turned(query)[0, :, 30], keys[0])
    for head, back in enumerate((1, 8, 7, 9)):
        assert scores[head, :31].argmax() == 30 - back


def test_sana_starts_with_looking_at_its_own_place(start):
    """Catches a start that is not aligned: places are then found after hours, and the loss does not show it."""
    transformer = start.load_transformer(torch.float32)
    given = renderer.oracle_conditions(batch_codes(scenes(2)))
    own = []

    def look(module, inputs, more):
        query = module.norm_q(module.to_q(inputs[0])).view(2, 64, model_config.SANA_HEADS, -1).transpose(1, 2)
        key = module.norm_k(module.to_k(more["encoder_hidden_states"])).view(2, 65, model_config.SANA_HEADS, -1)
        attention = (query @ key.transpose(1, 2).mT / query.shape[-1] ** 0.5).softmax(-1)
        own.append(attention[:, :, range(64), range(1, 65)].mean((0, 2)))

    for block in transformer.transformer_blocks:
        block.attn2.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        noise = torch.randn(2, model_config.LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
        transformer(noise, encoder_hidden_states=given, timestep=torch.full((2,), 700.0), return_dict=False)
    own = torch.stack(own)
    assert own[:, ::2].min() > 0.4 and own[:, 1::2].max() < 0.2


def tiny_fit(folder, steps, stop=None, **more):
    torch_state = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_state) * 0.1)

    steps_made = []

    def make_data(generator):
        return torch.randn(8, 3, 4, 4, generator=generator)

    def loss(x):
        steps_made.append(x)
        if len(steps_made) - 1 == stop:
            raise KeyboardInterrupt
        return (network(x) - x.mean((2, 3))[:, :2]).square().mean(), {}

    settings = FitSettings(steps=steps, lr=1e-2, muon=0.02, warmup=2, ema_decay=0.9, bf16=False, save_every=4)
    settings = settings.replace(log_every=1, **more)
    fit(network, make_data, loss, settings, folder)
    return network.state_dict()


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path):
    """Catches state that is not saved: momentum, the average, the random stream."""
    whole = tiny_fit(tmp_path / "whole", 12)
    with pytest.raises(KeyboardInterrupt):
        tiny_fit(tmp_path / "cut", 12, stop=7)
    again = tiny_fit(tmp_path / "cut", 12)
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert steps[-1] == 12


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path):
    """Catches NaN weights over the last good ones."""
    tiny_fit(tmp_path, 4)
    before = (tmp_path / "state.pt").read_bytes()
    network = torch.nn.Linear(2, 2)
    with pytest.raises(Blip3oError, match="loss is nan.*last good state"):
        settings = FitSettings(steps=8, lr=1e-3, muon=1e-3)
        fit(network, lambda g: None, lambda _: (network.weight.sum() * float("nan"), {}), settings, tmp_path / "n")
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", [autoencoder, image_tokenizer, language, renderer])
def test_a_stage_learns(stage, start, tmp_path, monkeypatch):
    """Catches a stage whose loss does not reach its weights: labels shifted, a part frozen, the wrong target."""
    monkeypatch.setattr(renderer, "IMAGES_PER_STEP", 3)
    monkeypatch.setattr(autoencoder, "RESCALE_IMAGES", 16)
    settings = stage.SETTINGS.replace(batch=8, steps=6, warmup=3, save_every=100)
    entries = []
    given = () if stage in (autoencoder, image_tokenizer) else (start,)
    torch.manual_seed(0)
    stage.train(*given, folder=tmp_path, settings=settings, report=entries.append)
    assert [entry["step"] for entry in entries] == [1, 6]
    assert entries[1]["loss"] < 0.8 * entries[0]["loss"]


def test_a_missed_gate_stops_the_recipe(tmp_path, monkeypatch):
    """Catches stages that go on from a part that failed."""
    weak = stages.Stage(lambda recipe: None, lambda recipe: {"mean": 0.2}, "mean", 0.9)
    monkeypatch.setitem(stages.STAGES, "weak", weak)
    recipe = stages.Recipe(tmp_path, print)
    with pytest.raises(Blip3oError, match="weak reached mean 0.200, but its gate needs 0.90"):
        stages.run("weak", recipe)
    assert json.loads((tmp_path / "gates.jsonl").read_text())["mean"] == 0.2
    with pytest.raises(Blip3oError, match="'week' is unknown"):
        stages.run("week", recipe)


def test_only_an_autoencoder_that_is_refined_later_has_a_lower_gate(tmp_path, monkeypatch):
    """Catches a first edition that goes on with an autoencoder that loses one shape in ten."""
    rough = replace(stages.STAGES["autoencoder"], run=lambda recipe: None, gate=lambda recipe: {"mean": 0.93})
    monkeypatch.setitem(stages.STAGES, "autoencoder", rough)
    assert stages.run("autoencoder", stages.Recipe(tmp_path, print, edition=2))["mean"] == 0.93
    with pytest.raises(Blip3oError, match="its gate needs 0.97"):
        stages.run("autoencoder", stages.Recipe(tmp_path, print))


def test_stages_beside_each_other_have_starts_of_their_own(tmp_path, monkeypatch):
    """Catches a gate that loads a checkpoint while another process writes it anew."""
    folders = []
    note = stages.Stage(lambda recipe: folders.append(recipe.start_checkpoint().folder), lambda recipe: {})
    for name in ("one", "two"):
        monkeypatch.setitem(stages.STAGES, name, note)
        stages.run(name, stages.Recipe(tmp_path, print))
    assert folders[0] != folders[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "image_tokenizer", "language", "renderer"])
def test_a_gate_runs_as_its_stage_calls_it(stage, tmp_path, monkeypatch):
    """Catches a gate that writes its checkpoint anew while it reads it: the numbers of a long training are lost."""
    for module in (autoencoder, image_tokenizer, language, renderer):
        monkeypatch.setattr(module, "held_back_scenes", lambda *_: {"size": [make_scene(0, "train", 0, WORLD, "size")]})
    assert stages.STAGES[stage].key in stages.STAGES[stage].gate(stages.Recipe(tmp_path, print))


def test_packs_hold_what_the_encoders_see(start, tmp_path):
    """Catches codes, latents and captions of different images in one row."""
    encoders = data.Encoders(start)
    data.pack_scenes(encoders, tmp_path / "a.safetensors", 1, 5, WORLD, (True, False))
    data.pack_edits(encoders, tmp_path / "b.safetensors", 1, 3, WORLD)
    scenes_pack, edits_pack = open_pack(tmp_path / "a.safetensors"), open_pack(tmp_path / "b.safetensors")
    for row in range(5):
        scene = make_scene(1, "train", row, WORLD)
        codes, latents = encoders.encode([scene])
        assert np.array_equal(scenes_pack.codes[row], codes[0])
        assert torch.allclose(scenes_pack.latents[row].float(), latents[0].float(), atol=0.05)
        with torch.no_grad():
            exact = encoders.vae.encode(autoencoder.pixels([scene])).latent * encoders.vae.config.scaling_factor
        assert torch.equal(latents, exact.bfloat16())  # computed in float32, and rounded once
        assert set(scenes_pack.captions[row]) <= set(phrasings(scene))
    edit = make_edit(1, "train", 2, WORLD)
    assert np.array_equal(edits_pack.references[2, 0], encoders.encode([edit.source])[0][0])
    assert np.array_equal(edits_pack.codes[2], encoders.encode([edit.target])[0][0])
    assert set(edits_pack.captions[2]) <= set(instructions(edit))


def test_masked_and_causal_reading_agree(start):
    """Catches training that sees padding: right-padded rows must give the states of the row alone."""
    model, encoder = start.load_language(torch.float32), start.prompt_encoder
    short, long = encoder.encode("a circle"), encoder.encode("a picture of three small red stars")
    ids = torch.tensor([short + [0] * (len(long) - len(short)), long])
    keep = torch.tensor([[True] * len(short) + [False] * (len(long) - len(short)), [True] * len(long)])
    with torch.no_grad():
        together = model(model.embed(ids, torch.float32), torch.arange(len(long)).expand(2, -1), causal_mask(keep))
        alone = model(model.embed(ids[:1, : len(short)], torch.float32), torch.arange(len(short))[None], None)
    assert torch.allclose(together[0, : len(short)], alone[0], atol=1e-4)


def test_a_release_is_whole_or_not_at_all(start, tmp_path):
    """Catches a bundled model that is half written, of the wrong numbers, or gone after a failed release."""
    target = tmp_path / "bundled"
    size = release.release(start.folder, target)
    assert size == sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) <= release.LIMIT
    released = open_checkpoint(target)
    assert released.load_language().model.embed_tokens.weight.dtype == torch.bfloat16
    damaged = tmp_path / "damaged"
    shutil.copytree(start.folder, damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, damaged / "model.safetensors")
    before = (target / "model.safetensors").read_bytes()
    with pytest.raises(Blip3oError, match="model.norm.weight contains NaN"):
        release.release(damaged, target)
    assert (target / "model.safetensors").read_bytes() == before


@pytest.mark.long
def test_every_reference_mode_changes_the_edited_image(start, tmp_path):
    """Catches a reference mode that the gate of `edit` would not measure."""
    add_references(start, tmp_path / "edit", cross=True, noise=True)
    pipeline = Pipeline.load(tmp_path / "edit")
    with torch.no_grad():  # at its start the transformer's cross-attention barely reads new tokens
        pipeline.language.reference_connector[3].weight.mul_(10)
    settings = edit_evaluation.Settings(count=len(EDIT_KINDS), steps=2, guidance=1.0)
    edit = edit_evaluation.make_edits(settings)[:1]
    with torch.no_grad():
        images = [
            edit_evaluation.run_edits(pipeline, edit, [0], settings, REFERENCE_MODES[name])
            for name in edit_evaluation.MODES
        ]
    assert all(image.shape == (1, model_config.SIDE, model_config.SIDE, 3) for image in images)
    for image, other in combinations(images, 2):
        assert (image - other).abs().max() > 1e-4
    numbers = editing.gate(open_checkpoint(tmp_path / "edit"), count=len(EDIT_KINDS))
    assert set(numbers) == {*EDIT_KINDS, "mean", "outside"} and numbers["outside"] > 0


def test_the_layer_for_edits_adds_nothing_and_looks_at_the_reference(start, tmp_path):
    """Catches a layer that disturbs what was learnt, and heads that look at other positions than the written one."""
    edit_language.add_layer(start, tmp_path / "more")
    more = open_checkpoint(tmp_path / "more")
    before, after = start.load_language(torch.float32), more.load_language(torch.float32)
    prompt = [start.prompt_encoder.encode("a red circle")]
    drawn, again = (decode(model, Prompts(prompt), [0], Sampling(top_k=1)) for model in (before, after))
    assert len(after.model.layers) == len(before.model.layers) + 1
    assert torch.equal(drawn.ids, again.ids) and torch.allclose(drawn.hidden, again.hidden, atol=1e-4)

    codes = torch.arange(64)
    ids = more.prompt_encoder.encode_edit("remove the star", codes[None])
    full = torch.tensor([ids + (codes + more.vocabulary.image_start).tolist()])
    layer, x = after.model.layers[0], after.embed(full, torch.float32)
    rope = after.model.rotary_emb(x, torch.arange(full.shape[1])[None])
    attention, inward = layer.self_attn, layer.input_layernorm(x)
    q, k = (
        norm(project(inward).unflatten(-1, (-1, model_config.HEAD_DIM))).transpose(1, 2)
        for norm, project in ((attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj))
    )
    q, k = apply_rotary_pos_emb(q, k, *rope)
    scores = q[:, 0] @ k[:, 0].transpose(-1, -2)
    span = more.prompt_encoder.reference_span(ids, 64)
    for place in (0, 17, 63):  # what is fed there is the scale token, or the code before
        row = scores[0, len(ids) - 1 + place, : len(ids) + place]
        assert int(row.argmax()) == span.start + place


def test_a_share_of_the_recipe_has_a_share_of_the_steps(tmp_path):
    """Catches a short run whose warm-up or average outlasts it: nothing would have been learnt."""
    recipe = stages.Recipe(tmp_path, print, share=0.01)
    settings = recipe.settings(language.SETTINGS)
    assert settings.steps == 22 and settings.warmup <= 22 and settings.ema_decay <= 0.8
    assert stages.Recipe(tmp_path, print).settings(language.SETTINGS) == language.SETTINGS


@pytest.mark.long
def test_a_quick_run_goes_from_nothing_to_a_record(tmp_path, monkeypatch):
    """Catches a stage that the quick schedule lost, and a run that takes over parts of another one."""
    for stage in quick.SHORT:
        monkeypatch.setitem(quick.SHORT, stage, (250, 4))
    monkeypatch.setitem(quick.JOINT, "batch", 4)
    monkeypatch.setattr(autoencoder, "RESCALE_IMAGES", 16)
    recipe = quick.Quick(tmp_path, lambda entry: None, share=0.004)
    record = quick.run(recipe, count=1)
    assert json.loads((tmp_path / quick.CURVE).read_text()) == json.loads(json.dumps(record))
    parts = [*quick.SHORT, "joint"]
    assert list(record["cpu_minutes"]) == [*parts, "accuracy"] and list(record["stages"]) == parts
    assert all(curve["step"] == [1] and math.isfinite(curve["loss"][0]) for curve in record["stages"].values())
    assert set(record["accuracy"]) == {"single_object", "colors"}
    assert open_checkpoint(recipe.last_checkpoint("joint")).load_language().model.embed_tokens.weight.isfinite().all()
    with pytest.raises(Blip3oError, match="is not empty.*give another one"):
        quick.run(recipe)


def test_the_recorded_quick_run_is_of_this_recipe(start, tmp_path):
    """Catches a record of other settings, of a run that failed, or of other starting values, worlds or seeds."""
    record = json.loads((DOCS / "tiny_quick.json").read_text())
    recipe = quick.Quick(tmp_path, lambda entry: None)
    assert record["settings"] == json.loads(json.dumps(quick.settings(recipe)))
    assert list(record["stages"]) == [*quick.SHORT, "joint"]
    assert min(record["accuracy"].values()) > 0.5
    for stage, curve in record["stages"].items():
        last = record["settings"]["stages"][stage]["steps"]
        assert curve["step"][1:] == sorted({*range(50, last, 50), last}), stage
        assert len(curve["loss"]) == len(curve["step"]) and all(map(math.isfinite, curve["loss"]))
        assert curve["loss"][-1] < 0.7 * curve["loss"][0], stage
    for module, given in ((image_tokenizer, ()), (language, (start,))):
        stage, entries = module.__name__.rpartition(".")[2], []
        first = recipe.stage_settings(stage).replace(steps=1)
        module.train(*given, tmp_path / stage, first, entries.append, quick.WORLD)
        assert entries[0]["loss"] == pytest.approx(record["stages"][stage]["loss"][0], rel=0.01)


def test_the_docs_show_the_recorded_quick_run():
    """Catches a new record beside the old table."""
    record, text = json.loads((DOCS / "tiny_quick.json").read_text()), (DOCS / "tiny.md").read_text()
    for stage, curve in record["stages"].items():
        steps, loss, minutes = curve["step"][-1], curve["loss"], record["cpu_minutes"][stage]
        assert f"| `{stage}` | {steps} | {minutes:.1f} | {loss[0]:.3f} | {loss[-1]:.3f} |" in text
    shares = " | ".join(f"{100 * share:.0f}" for share in record["accuracy"].values())
    assert f"| {shares} |" in text
