"""How the tiny model is made: what codes mean, where training starts from, what is learnt, the files."""

import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.decoding.prefill import causal_mask
from blip3o_core.diffusion.reference_mode import REFERENCE_MODES
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny import edit_evaluation
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.recipe import (
    assemble,
    autoencoder,
    editing,
    image_tokenizer,
    language,
    model_config,
    release,
    renderer,
)
from blip3o_core.tiny.recipe.oracle_codes import (
    FIRST_OBJECT,
    batch_codes,
    codebook,
    codes_to_image,
    piece_ids,
    scene_codes,
)
from blip3o_core.tiny.recipe.quick_data import pack_scenes
from blip3o_core.tiny.scenes.captions import phrasings
from blip3o_core.tiny.scenes.edits import EDIT_KINDS, instructions, make_edit
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.world import CATEGORIES, World, make_scene
from blip3o_core.training.data.packed import open_pack
from blip3o_core.training.edit_checkpoint import add_references

WORLD = World(low_contrast=False)


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


def test_packs_hold_what_the_encoders_see(start, tmp_path):
    """Catches codes, latents and captions of different images in one row."""
    pack_scenes(start, tmp_path / "a.safetensors", 1, 5, WORLD, (True, False))
    packed, vae, tower = open_pack(tmp_path / "a.safetensors"), start.load_autoencoder(), start.load_image_tokenizer()
    for row in range(5):
        scene = make_scene(1, "train", row, WORLD)
        pixels = autoencoder.pixels([scene])
        with torch.no_grad():
            codes = tower.float().codes(tower.features(pixels))
            exact = vae.float().encode(pixels).latent * vae.config.scaling_factor
        assert np.array_equal(packed.codes[row], codes[0])
        assert torch.allclose(packed.latents[row].float(), exact[0], atol=0.05)
        assert set(packed.captions[row]) <= set(phrasings(scene))


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
    numbers = editing.gate(open_checkpoint(tmp_path / "edit"), each=1)
    assert set(numbers) == {*EDIT_KINDS, "mean", "outside"} and numbers["outside"] > 0
