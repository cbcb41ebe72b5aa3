"""Recognising and loading: what decides what a checkpoint is, and what comes out of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blip3o_core.checkpoint import find_checkpoints, open_checkpoint
from blip3o_core.checkpoint.describe import describe
from blip3o_core.errors import Blip3oError
from blip3o_core.models.image_tokenizer import PREFIX
from blip3o_core.pipeline import Pipeline
from blip3o_core.weights.names import EDIT_CONNECTORS, SANA, VAE
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

LOADERS = ("load_language", "load_transformer", "load_autoencoder", "load_image_tokenizer")


def states(checkpoint, dtype=None) -> dict[str, torch.Tensor]:
    return {
        f"{loader} {name}": tensor
        for loader in LOADERS
        for name, tensor in getattr(checkpoint, loader)(dtype).state_dict().items()
    }


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_every_weight_arrives_as_stored(checkpoint, tensors):
    """Catches a weight left at random or swapped with another, and networks that are trainable or in train mode."""
    prefixes = {"load_language": "", "load_transformer": SANA, "load_autoencoder": VAE, "load_image_tokenizer": PREFIX}
    loaded = states(checkpoint)
    for key, tensor in loaded.items():
        loader, name = key.split()
        assert torch.equal(tensor, tensors[prefixes[loader] + name]), key
    unread = {name for name in tensors if not any(name == prefixes[k.split()[0]] + k.split()[1] for k in loaded)}
    assert all(name.startswith(PREFIX + "encoder.encoder.layers.") for name in unread), unread
    for loader in LOADERS:
        network = getattr(checkpoint, loader)()
        assert not any(module.training for module in network.modules() if list(module.parameters()))
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert all(t.device.type == "cpu" for t in (*network.parameters(), *network.buffers()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_part_is_cast_to_the_asked_dtype(dtype, checkpoint, tensors):
    """Catches a part that stays in the file's dtype, as the authors' SANA and autoencoder do."""
    for key, tensor in states(checkpoint, dtype).items():
        assert tensor.dtype == dtype, key
    weight = checkpoint.load_transformer(dtype).proj_out.weight
    assert torch.equal(weight, tensors[SANA + "proj_out.weight"].to(dtype))


def test_fp16_weights_are_computed_in_fp32(tmp_path):
    """Catches black images from a checkpoint that was saved in a format which the networks overflow in."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", dtype=torch.float16))
    assert {tensor.dtype for tensor in states(checkpoint).values()} == {torch.float32}


def test_bf16_weights_stay_bf16_unless_asked(tmp_path):
    """Catches weights silently doubled in memory, and rotary frequencies rounded with them."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", dtype=torch.bfloat16))
    assert {tensor.dtype for tensor in states(checkpoint).values()} == {torch.bfloat16}
    assert checkpoint.load_language().model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_file_of_several_dtypes_draws_a_picture(copy):
    """Catches a part left in two dtypes: it loads, and fails in its first matrix product."""

    def edit(tensors):
        for name in tensors:
            tensors[name] = tensors[name].bfloat16() if "norm" not in name else tensors[name]

    copy.edit_tensors(edit)
    mixed = Pipeline.load(copy.folder)
    assert mixed.render(mixed.generate_tokens(["a"], [0]), [0], (16, 16), 1).shape == (1, 16, 16, 3)


FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("asked", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", FP8, ids=str)
def test_plain_fp8_is_converted_when_it_is_loaded(stored, asked, copy, tensors):
    """Catches fp8 weights that pass the check and fail in the first matrix product, or are converted wrongly."""
    copy.edit_tensors(lambda own: own.update({name: tensor.to(stored) for name, tensor in own.items()}))
    checkpoint = open_checkpoint(copy.folder)
    assert "8-bit weights" in describe(checkpoint)
    network = checkpoint.load_language(asked)
    expected = tensors["model.norm.weight"].to(stored).to(asked or torch.bfloat16)
    assert torch.equal(network.model.norm.weight, expected)
    assert {tensor.dtype for tensor in states(checkpoint, asked).values()} == {asked or torch.bfloat16}


def test_a_part_of_fp8_beside_others_gets_their_dtype(copy):
    """Catches a mix of bfloat16 and float32 in one part: float32 is what the rest of the file has."""
    name = "model.layers.0.mlp.up_proj.weight"
    copy.edit_tensors(lambda own: own.update({name: own[name].to(torch.float8_e4m3fn)}))
    assert {tensor.dtype for tensor in states(open_checkpoint(copy.folder)).values()} == {torch.float32}


def test_a_file_cut_under_a_loaded_model_changes_nothing(copy, pipeline):
    """Catches weights left in a map of the file: cutting it ends the process, and writing into it changes the model."""
    loaded = Pipeline.load(copy.folder)
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(copy.weights) not in maps.read_text()
    with open(copy.weights, "r+b") as file:
        file.truncate(1000)
    drawn = loaded.generate_tokens(["a red cube"], [0])
    assert torch.equal(drawn.codes, pipeline.generate_tokens(["a red cube"], [0]).codes)


def test_shards_are_the_single_file(checkpoint, tmp_path):
    """Catches tensors lost, doubled or mixed up between shards."""
    sharded = make_checkpoint(tmp_path / "m", shards=3)
    assert not (sharded / "model.safetensors").exists()
    assert_same(states(open_checkpoint(sharded)), states(checkpoint))


def test_names_decide_nothing(copy, checkpoint, pipeline):
    """Catches recognition by folder, architecture or model_type, all of which the authors' own files get wrong."""
    copy.edit_json(model_type="llama", architectures=["Something"], _name_or_path="x", transformers_version="9.9.9")
    renamed = copy.folder.rename(copy.folder.with_name("edit use_und_image_vae sd15"))
    other = open_checkpoint(renamed)
    assert (other.family, other.grid, other.vocabulary) == ("text-to-image", checkpoint.grid, checkpoint.vocabulary)
    assert other.codes_id == checkpoint.codes_id
    drawn = Pipeline(other).generate_tokens(["a red cube"], [0])
    assert torch.equal(drawn.codes, pipeline.generate_tokens(["a red cube"], [0]).codes)


def test_a_config_saved_by_transformers_5_is_read(copy, language):
    """Catches rope_theta looked for in one place only: transformers 5 saves it inside rope_parameters."""
    copy.edit_json(drop=("rope_theta",), rope_parameters={"rope_type": "default", "rope_theta": 1000000})
    frequencies = open_checkpoint(copy.folder).load_language().model.rotary_emb.inv_freq
    assert torch.equal(frequencies, language.model.rotary_emb.inv_freq)


def test_text_to_image_is_recognised(checkpoint):
    """Catches an ordinary checkpoint taken for an edit one: no switch is on by default."""
    assert checkpoint.family == "text-to-image" and not any(checkpoint.switches.values())


@pytest.mark.parametrize("switch", EDIT_CONNECTORS)
def test_each_edit_switch_is_recognised(switch, tmp_path):
    """Catches an edit checkpoint taken for a text-to-image one, or refused for its extra connector."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", edit=(switch,)))
    assert checkpoint.family == "edit"
    assert [name for name, on in checkpoint.switches.items() if on] == [switch]
    assert f"edit ({switch})" in describe(checkpoint)
    states(checkpoint)


def test_an_edit_connector_without_its_switch_is_told(tmp_path):
    """Catches config and tensors that contradict each other without a word."""
    folder = make_checkpoint(tmp_path / "m", edit=("use_und_image_vae",))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_und_image_vae": False}))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.family == "edit"
    assert any("und_image_vae_connector" in line for line in describe(checkpoint).splitlines() if "unusual" in line)


def test_an_own_head_is_used(copy):
    """Catches an untied output matrix ignored for the embedding, or refused."""
    head = torch.randn(363, 64)
    copy.edit_json(tie_word_embeddings=False)
    copy.edit_tensors(lambda tensors: tensors.update({"lm_head.weight": head}))
    language = open_checkpoint(copy.folder).load_language()
    assert torch.equal(language.head_weight(torch.zeros(1), False), head)


def test_a_tied_head_that_was_saved_anyway_is_no_surprise(copy, checkpoint):
    """Catches a checkpoint refused because a tool saved the tied matrix twice."""
    name = "model.embed_tokens.weight"
    copy.edit_tensors(lambda tensors: tensors.update({"lm_head.weight": tensors[name].clone()}))
    assert_same(states(open_checkpoint(copy.folder)), states(checkpoint))


@pytest.mark.parametrize("place", ["diffusion", "some name", ".", "../beside", "elsewhere/deep"])
def test_the_diffusion_folder_is_found_or_given(place, copy, checkpoint, tmp_path):
    """Catches a diffusion folder looked for under one name or in one place only."""
    target = copy.folder / place
    if place == "elsewhere/deep":
        target = tmp_path / place
    for part in ("transformer", "vae", "scheduler"):
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(copy.folder / "diffusion" / part, target / "moved")
        (target / "moved").rename(target / part)
    if place == "elsewhere/deep":
        with pytest.raises(Blip3oError, match="transformer/config.json"):
            open_checkpoint(copy.folder)
        found = open_checkpoint(copy.folder, target)
    else:
        found = open_checkpoint(copy.folder)
    assert found.diffusion_folder.resolve() == target.resolve()
    assert found.transformer_config == checkpoint.transformer_config
    assert_same(states(found), states(checkpoint))


OTHER_SIZES = [
    {"cross_width": 48}, {"sana_layers": 3}, {"sana_heads": 8}, {"latent_channels": 16}, {"vae_widths": (8, 16, 32)},
]  # fmt: skip


@pytest.mark.parametrize("sizes", OTHER_SIZES, ids=str)
def test_a_sibling_of_other_sizes_is_passed_over(sizes, copy, tmp_path):
    """Catches the first folder in the alphabet taken for this checkpoint's, and its error shown to the user."""
    make_checkpoint(tmp_path / "other", sizes=Sizes(**sizes))
    shutil.move(tmp_path / "other" / "diffusion", tmp_path / "a sibling")
    shutil.rmtree(tmp_path / "other")
    right = shutil.move(copy.folder / "diffusion", tmp_path / "z right")
    found = open_checkpoint(copy.folder)
    assert found.diffusion_folder == right
    states(found)


def test_a_broken_sibling_is_passed_over(copy, tmp_path):
    """Catches a good checkpoint refused because of a stranger's damaged file beside it."""
    right = shutil.move(copy.folder / "diffusion", tmp_path / "z right")
    for part in ("transformer", "vae"):
        path = tmp_path / "a broken" / part / "config.json"
        path.parent.mkdir(parents=True)
        path.write_text("{")
    assert open_checkpoint(copy.folder).diffusion_folder == right


def test_diffusion_weights_beside_the_configs_are_used_for_a_part_that_is_missing(copy, checkpoint, tensors):
    """Catches a checkpoint saved without its frozen parts refused although the diffusion folder has them."""
    copy.edit_tensors(lambda own: [own.pop(name) for name in list(own) if name.startswith((SANA, VAE))])
    for prefix, part in ((SANA, "transformer"), (VAE, "vae")):
        own = {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}
        save_file(own, copy.folder / "diffusion" / part / "diffusion_pytorch_model.safetensors")
    other = open_checkpoint(copy.folder)
    assert_same(states(other), states(checkpoint))
    assert describe(other).count("its weights come from") == 2


def test_inspection_says_what_it_is(checkpoint, tensors, config):
    """Catches a description with a wrong number in it: each is read here from the file."""
    text = describe(checkpoint)
    start, codes = config["image_start_token_id"], config["num_image_tokens"]
    for wanted in (
        "text-to-image", str(checkpoint.folder), "2 layers x 64", "4/2 heads", "tied", f"{config['vocab_size']}",
        f"{codes} codes", f"{start}..{start + codes - 1}", "5x5", f"<im_start> {config['image_start_tag_id']}",
        f"<S0> {config['scale_start_token_id']}", "200 tokens", "8 channels", "0.5", "multiples of 8",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "unusual" not in text
    counts = {
        "language model": ("model.embed_tokens", "model.layers", "model.norm", "model.diffusion_connector"),
        "diffusion transformer": (SANA,),
        "autoencoder": (VAE,),
        "image tokenizer (TA-Tok)": (PREFIX,),
    }
    for part, prefixes in counts.items():
        count = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefixes))
        assert f"{part}: {count / 1e6:.2f} M" in text


def test_inspection_counts_in_millions(tmp_path):
    """Catches a count in units of 2**20, or of bytes: a small model would not show it."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", sizes=Sizes(mlp=10_000)))
    count = sum(parameter.numel() for parameter in checkpoint.load_language().parameters())
    assert f"language model: {count / 1e6:.2f} M" in describe(checkpoint) and count > 3e6


def test_inspection_says_what_is_unusual(copy):
    """Catches surprises left untold: mixed dtypes, another flow shift, a missing image tokenizer."""

    def edit(tensors):
        for name in [name for name in tensors if name.startswith(PREFIX)]:
            del tensors[name]
        tensors["model.norm.weight"] = tensors["model.norm.weight"].half()

    copy.edit_tensors(edit)
    copy.edit_json("diffusion/scheduler/scheduler_config.json", shift=3.0)
    remarks = [line for line in describe(open_checkpoint(copy.folder)).splitlines() if line.startswith("unusual")]
    assert [any(word in line for line in remarks) for word in ("F16, F32", "shift 3", "image tokenizer")] == [True] * 3


def test_the_flow_shift_is_the_one_the_authors_end_up_with(copy, checkpoint):
    """Catches the published folder's `flow_shift: 3.0` believed: the authors' scheduler never reads it."""
    assert checkpoint.shift == 1.0
    copy.edit_json("diffusion/scheduler/scheduler_config.json", shift=3.0)
    assert open_checkpoint(copy.folder).shift == 3.0


def test_the_prompt_limit_leaves_room_for_the_picture(copy, checkpoint):
    """Catches a prompt accepted that leaves no positions for the picture."""
    assert checkpoint.prompt_limit == 200
    copy.edit_json(max_position_embeddings=100)
    assert open_checkpoint(copy.folder).prompt_limit == 75


@pytest.mark.parametrize("shards", [2, 3, 4, 7])
def test_a_sharded_copy_means_the_same_codes(shards, checkpoint, tmp_path):
    """Catches tokens refused because a copy keeps the codebook's tensors in another order."""
    other = open_checkpoint(make_checkpoint(tmp_path / "m", shards=shards))
    assert other.codes_id == checkpoint.codes_id


def test_two_copies_mean_the_same_codes(copy, checkpoint):
    """Catches tokens refused by a copy of the very model that drew them."""
    assert open_checkpoint(copy.folder).codes_id == checkpoint.codes_id


@pytest.mark.parametrize("name", ["embedding.weight", "embedding_proj.weight", "embedding_proj.bias"])
def test_another_codebook_means_other_codes(name, copy, checkpoint):
    """Catches tokens of one codebook accepted by a model trained with another: SimVQ learns the projection."""
    copy.edit_tensors(lambda tensors: tensors[PREFIX + "bottleneck.regularizer." + name].neg_())
    assert open_checkpoint(copy.folder).codes_id != checkpoint.codes_id


def test_another_tokenizer_means_other_codes(copy, checkpoint):
    """Catches prompt ids that tokens carry read by a model to which they spell something else."""
    table = json.loads((copy.folder / "tokenizer.json").read_text())
    vocab = table["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (copy.folder / "tokenizer.json").write_text(json.dumps(table))
    assert open_checkpoint(copy.folder).codes_id != checkpoint.codes_id


@pytest.mark.parametrize("sizes", [{"grid": 6}, {"codes": 95}], ids=str)
def test_another_grid_or_count_means_other_codes(sizes, tmp_path, checkpoint):
    """Catches a picture of another shape accepted."""
    other = open_checkpoint(make_checkpoint(tmp_path / "m", sizes=Sizes(**sizes)))
    assert other.codes_id != checkpoint.codes_id


def test_checkpoints_are_found_by_name_only(tmp_path, tiny):
    """Catches a menu that misses a nested or sharded folder, or fails on what it cannot read."""
    for name in ("a", "deep/er/b", "shards", "a/inside", ".hidden", "one/two/three/four/five", "no weights"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("not even json")
        if name == "shards":
            (folder / "model.safetensors.index.json").touch()
        elif name != "no weights":
            (folder / "model.safetensors").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_checkpoints(tmp_path)
    assert found == ["a", "a/inside", "deep/er/b", "shards"]
    assert find_checkpoints(tmp_path / "absent") == []
    assert find_checkpoints(tiny) == ["."]


def test_a_strangers_tower_beside_the_checkpoint_changes_nothing(copy, checkpoint):
    """Catches a SigLIP of the same width with another input side taken for this tower: nothing would load."""
    copy.edit_json(drop=("vision_config",))
    other = {"vision_config": {**checkpoint.config["vision_config"], "image_size": 224}}
    folder = copy.folder.parent / "a stranger"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(other))
    assert open_checkpoint(copy.folder).image_tokenizer_config.num_heads is None
    (folder / "config.json").write_text(json.dumps({"vision_config": checkpoint.config["vision_config"]}))
    assert open_checkpoint(copy.folder).image_tokenizer_config == checkpoint.image_tokenizer_config


def test_a_transformer_with_positions_loads(copy):
    """Catches a table of positions left without numbers: it is no tensor of the checkpoint."""
    copy.edit_json("diffusion/transformer/config.json", interpolation_scale=1.0)
    positioned = Pipeline.load(copy.folder)
    table = positioned.transformer.patch_embed.pos_embed
    assert table.device.type == "cpu" and table.abs().max() > 0.5
    assert positioned.render(positioned.generate_tokens(["a"], [0]), [0], (64, 64), 1).isfinite().all()
