"""The published checkpoints as they are downloaded: no diffusion folder, at full size, and what a saver may leave."""

import hashlib
import json
import shutil

import pytest
import torch

from blip3o_core.checkpoint import LANGUAGE, open_checkpoint
from blip3o_core.checkpoint.describe import describe
from blip3o_core.checkpoint.diffusion_folder import BUNDLED_CONFIGS
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from blip3o_core.weights.names import CONNECTOR, SANA, VAE
from tests.support.full_size import LAYOUTS, VOCABULARY, WIDTH, make_full_size

# Of Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers.
PUBLISHED = {
    "transformer/config.json": "70863bf60b87cbeab5780c9827ffc5b880cd1ec9ce22bf033409b7e257e8fc68",
    "vae/config.json": "ba6f3d3e44d75d44fdd3760097c069173b5b925e6d14604d5d3582628d09cca6",
    "scheduler/scheduler_config.json": "f9256042828841b26561487c7e0c33fff8717e98ac0fef5c1f6d05bfdd66e908",
}
LANGUAGE_COUNT = 1_854_256_128 + 10_033_920  # Qwen3-1.7B with this vocabulary, the connector


def remarks(checkpoint) -> list[str]:
    return [line for line in describe(checkpoint).splitlines() if line.startswith("unusual")]


def test_the_bundled_configuration_is_the_published_one():
    """Catches a file that an editor, a formatter or git has changed: dimensions must be SANA 1.5's to the byte."""
    found = {str(p.relative_to(BUNDLED_CONFIGS)): p.read_bytes() for p in BUNDLED_CONFIGS.rglob("*") if p.is_file()}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == PUBLISHED


def test_a_checkpoint_alone_is_enough(tmp_path):
    """Catches a second download asked for, a guess at another size, and a head counted as parameters of its own."""
    checkpoint = open_checkpoint(make_full_size(tmp_path / "m", "BLIP3o-NEXT-SFT-3B"))
    assert checkpoint.diffusion_folder == BUNDLED_CONFIGS
    assert (checkpoint.shift, checkpoint.trained_side, checkpoint.latent_multiple) == (1.0, 1024, 32)
    text = describe(checkpoint)
    assert "configs from the bundled SANA 1.5 configuration" in text
    assert f"language model: {LANGUAGE_COUNT / 1e6:,.2f} M" in text
    assert "unusual" not in text


@pytest.mark.long
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_published_layout_is_whole(name, tmp_path):
    """Catches a sibling refused, a prompt encoder that does not know its tokens, and a family taken for another."""
    checkpoint = open_checkpoint(make_full_size(tmp_path / "m", name))
    assert remarks(checkpoint) == []
    assert checkpoint.family == ("edit" if "edit" in name else "text-to-image")
    assert (checkpoint.tied, checkpoint.prompt_limit) == (True, 2048)
    assert checkpoint.prompt_encoder.encode("a cat")
    count = sum(torch.Size(entry.shape).numel() for entry in checkpoint.parts[LANGUAGE].values())
    edit = 2304 * 32 + 2304 + 2304 * 2304 + 2304 * 2
    assert count == LANGUAGE_COUNT + edit * ("edit" in name)


@pytest.mark.long
def test_what_a_saver_may_leave_out_or_in_at_full_size(tmp_path):
    """Catches a checkpoint refused for a tensor that nobody reads, or for an encoder that text to image never runs."""
    more = {"model.ema.decay": [1], "probe.weight": [VOCABULARY, WIDTH]}
    checkpoint = open_checkpoint(
        make_full_size(tmp_path / "m", "BLIP3o-NEXT-GRPO-TexT-3B", drop=VAE + "encoder.", more=more)
    )
    assert [any(word in line for line in remarks(checkpoint)) for word in ("no encoder", "2 tensors")] == [True] * 2


@pytest.mark.long
def test_pref_restore_at_full_size_is_named(tmp_path):
    """Catches a checkpoint of another architecture called damaged."""
    more = {f"model.vae_connector.{name}": [2304] for name in ("0.bias", "2.bias", "3.weight")}
    folder = make_full_size(tmp_path / "m", "BLIP3o-NEXT-SFT-3B", drop=CONNECTOR, more=more)
    with pytest.raises(Blip3oError, match="is a Pref-Restore checkpoint"):
        open_checkpoint(folder)


@pytest.mark.parametrize("dropped", [(), ("transformer",), ("vae",)])
def test_the_bundled_configuration_is_no_guess(dropped, copy):
    """Catches SANA's sizes taken for a checkpoint of other sizes, and half of a diffusion folder used with it."""
    for part in dropped or ("transformer", "vae"):
        shutil.rmtree(copy.folder / "diffusion" / part)
    with pytest.raises(Blip3oError, match="the bundled SANA 1.5 configuration: caption_channels is 2304, the tensors"):
        open_checkpoint(copy.folder)


def test_a_checkpoint_without_diffusion_weights_needs_a_whole_folder(tmp_path):
    """Catches a configuration taken where the weights themselves are missing, and "no weights" said of our folder."""
    folder = make_full_size(tmp_path / "m", "BLIP3o-NEXT-SFT-3B", drop=SANA)
    with pytest.raises(Blip3oError, match="the checkpoint has no weights of the diffusion transformer"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("DIFFUSION", "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"),
        ("/fsx/home/sana", "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"),
        (["a"], "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"),
        ("somebody/SANA-of-theirs", "somebody/SANA-of-theirs"),
    ],
)
def test_a_download_is_named_by_a_repository(field, named, copy):
    """Catches "Download these two files from DIFFUSION": the field often holds the name of a variable or a path."""
    shutil.rmtree(copy.folder / "diffusion")
    copy.edit_json(diffusion_name_or_path=field)
    with pytest.raises(Blip3oError) as caught:
        open_checkpoint(copy.folder)
    assert f"Download these two files from {named} into" in str(caught.value)


def test_inspection_says_where_the_configuration_is(copy, tmp_path):
    """Catches a user who cannot tell which of several configurations is in use."""
    assert "configs from diffusion inside the checkpoint" in describe(open_checkpoint(copy.folder))
    beside = shutil.move(copy.folder / "diffusion", tmp_path / "beside")
    assert f"configs from {beside}" in describe(open_checkpoint(copy.folder))
    for part in ("transformer", "vae"):
        shutil.move(beside / part, copy.folder / part)
    assert "configs from the checkpoint's own folder" in describe(open_checkpoint(copy.folder))


def test_a_tensor_of_no_part_is_a_remark(copy, pipeline):
    """Catches a good checkpoint refused for what its training left in the file, or loaded without a word about it."""
    copy.edit_tensors(lambda own: own.update({"model.ema.decay": torch.ones(2), "probe\x1b": torch.ones(3)}))
    checkpoint = open_checkpoint(copy.folder)
    assert (
        "2 tensors that belong to no part and are not loaded: model.ema.decay, 'probe\\x1b'" in remarks(checkpoint)[0]
    )
    tokens = Pipeline(checkpoint).generate_tokens(["a"], [0])
    assert torch.equal(tokens.codes, pipeline.generate_tokens(["a"], [0]).codes)


def test_an_autoencoder_without_encoder_still_generates(copy, pipeline):
    """Catches text to image refused for a part that it never runs, and an edit that ends in a library's error."""
    copy.edit_tensors(lambda own: [own.pop(name) for name in list(own) if name.startswith(VAE + "encoder.")])
    checkpoint = open_checkpoint(copy.folder)
    assert "no encoder" in remarks(checkpoint)[0]
    without = Pipeline(checkpoint)
    image, expected = (each.render(each.generate_tokens(["a"], [0]), [0], (16, 16), 1) for each in (without, pipeline))
    assert torch.equal(image, expected)
    from tests.support.pictures import noise

    with pytest.raises(Blip3oError, match="has no encoder, so it cannot encode images"):
        without.references([noise(16, 16)])


def test_half_an_encoder_is_damage(copy):
    """Catches a damaged autoencoder taken for one that was saved without its encoder."""
    copy.edit_tensors(lambda own: own.pop(VAE + "encoder.conv_in.weight"))
    with pytest.raises(Blip3oError, match=r"autoencoder, missing: encoder\.conv_in\.weight"):
        open_checkpoint(copy.folder).validate()


@pytest.mark.parametrize(
    ("add", "drop", "named"),
    [
        ("model.vae_connector.0.weight", CONNECTOR, "is a Pref-Restore checkpoint"),
        ("model.vae_connector.0.weight", None, "is a Pref-Restore checkpoint"),
        ("model.dit.x", CONNECTOR, "a checkpoint of BLIP3o's first generation"),
        ("x", CONNECTOR, "is a language model alone"),
        ("transformer_blocks.0.x", "model.", "is a diffusion transformer alone"),
        ("x", "model.", "is not a BLIP3o-NEXT checkpoint"),
    ],
)
def test_another_architecture_is_named(add, drop, named, copy):
    """Catches another model called damaged, or loaded without the part that its images need."""

    def edit(own):
        for name in list(own):
            if drop and name.startswith(drop):
                del own[name]
        own[add] = torch.ones(2, 2)

    copy.edit_tensors(edit)
    copy.edit_json(architectures=["blip3oQwenForCausalLMVAE"])
    with pytest.raises(Blip3oError, match=named) as caught:
        open_checkpoint(copy.folder)
    assert "blip3oQwenForCausalLMVAE" in str(caught.value)


def test_a_head_that_was_saved_twice_counts_once(copy, checkpoint):
    """Catches sizes and memory that count the embedding twice."""
    before = describe(checkpoint).splitlines()
    copy.edit_tensors(lambda own: own.update({"lm_head.weight": own["model.embed_tokens.weight"].clone()}))
    after = describe(open_checkpoint(copy.folder)).splitlines()
    assert [line for line in after if "parameters" in line] == [line for line in before if "parameters" in line]
    config = json.loads((copy.folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
