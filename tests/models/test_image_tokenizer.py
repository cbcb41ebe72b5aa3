"""TA-Tok: features against transformers' SigLIP, codes against a search through the codebook."""

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.errors import Blip3oError
from blip3o_core.models.image_tokenizer import PREFIX, encode_images


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return checkpoint.load_image_tokenizer()


@pytest.fixture(scope="module")
def own(tensors) -> dict:
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


def pictures(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_are_siglips_second_to_last_states_through_the_task_layer(tokenizer, own, config):
    """Catches a layer too many or too few, a final norm that does not belong, another GELU, and a dropped border."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    vision = config["vision_config"]
    siglip = SiglipVisionModel(SiglipVisionConfig(**vision, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)).eval()
    names = siglip.state_dict()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in names) else ""
    tower = {prefix + name.removeprefix("encoder."): tensor for name, tensor in own.items() if "encoder." in name[:8]}
    missing, unexpected = siglip.load_state_dict(tower, strict=False)
    assert not unexpected and not any("layers" in name or "embeddings" in name for name in missing)
    images = pictures(2, vision["image_size"])
    with torch.no_grad():
        hidden = siglip(images, output_hidden_states=True).hidden_states[-2]
        expected = torch.tanh(hidden @ own["encode_task_layer.0.weight"].T + own["encode_task_layer.0.bias"])
        torch.testing.assert_close(tokenizer.features(images), expected, rtol=1e-4, atol=1e-5)


def test_codes_are_the_nearest_directions_of_the_codebook(tokenizer, own):
    """Catches distance instead of direction, an unprojected codebook, and codes out of order, by brute force."""
    features = torch.randn(2, 25, 32, generator=torch.Generator().manual_seed(1))
    name = "bottleneck.regularizer.embedding"
    wanted = features @ own["bottleneck.in_linear.weight"].T + own["bottleneck.in_linear.bias"]
    book = own[f"{name}.weight"] @ own[f"{name}_proj.weight"].T + own[f"{name}_proj.bias"]
    codes = tokenizer.codes(features)
    assert codes.shape == (2, 25) and codes.dtype == torch.int64
    for row in range(2):
        for place in range(25):
            angles = [float(torch.cosine_similarity(wanted[row, place], entry, dim=0)) for entry in book]
            assert angles[codes[row, place]] >= max(angles) - 1e-6
    assert len(codes.unique()) > 5


def test_codes_do_not_depend_on_chance(tokenizer):
    """Catches the authors' training mode, in which codes are sampled."""
    features = torch.randn(1, 25, 32)
    assert torch.equal(tokenizer.codes(features), tokenizer.codes(features))


def test_a_row_is_the_single_picture(tokenizer, checkpoint):
    """Catches pictures of a batch that influence each other."""
    images = pictures(3, checkpoint.image_tokenizer_config.image_size)
    together = tokenizer.features(images)
    torch.testing.assert_close(together[1:2], tokenizer.features(images[1:2]), rtol=1e-4, atol=1e-5)


def test_sizes_are_read_from_the_tensors(checkpoint, config):
    """Catches the published sizes built in."""
    found, vision = checkpoint.image_tokenizer_config, config["vision_config"]
    assert (found.hidden_size, found.num_layers, found.intermediate_size) == (32, vision["num_hidden_layers"], 64)
    assert (found.grid, found.num_codes, found.code_dim, found.patch_size) == ((5, 5), 96, 16, 14)
    assert (found.num_heads, found.image_size) == (4, vision["image_size"])


def test_an_unknown_number_of_heads_is_an_error_only_on_use(copy):
    """Catches a text-to-image checkpoint refused for a part it never uses, and features computed with a guess."""
    copy.edit_json(drop=("vision_config",))
    checkpoint = open_checkpoint(copy.folder)
    tokenizer = checkpoint.load_image_tokenizer()
    tokenizer.codes(torch.randn(1, 25, 32))
    with pytest.raises(Blip3oError, match="vision_config"):
        tokenizer.features(pictures(1, 76))


def test_a_vision_config_of_another_tower_is_not_believed(copy):
    """Catches heads of a stranger's config.json beside the checkpoint used for this tower."""
    copy.edit_json(vision_config={"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2})
    assert open_checkpoint(copy.folder).image_tokenizer_config.num_heads is None


def test_a_grid_that_is_not_square_is_an_error(copy):
    """Catches a grid rounded to something that the codes do not fill."""
    name = PREFIX + "encoder.embeddings.position_embedding.weight"
    copy.edit_tensors(lambda tensors: tensors.update({name: torch.zeros(24, 32)}))
    with pytest.raises(Blip3oError, match="24"):
        open_checkpoint(copy.folder).load_image_tokenizer()


def views(count: int) -> torch.Tensor:
    return (pictures(count, 76).movedim(1, -1) + 1) / 2


def test_views_are_encoded_as_the_tower_does(tokenizer):
    """Catches a wrong value range, swapped axes, and features of another picture than the codes."""
    codes, features = encode_images(tokenizer, views(2), features=True)
    expected = torch.cat([tokenizer.features(picture) for picture in pictures(2, 76).split(1)])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(codes, tokenizer.codes(features)) and codes.dtype == torch.int64
    assert encode_images(tokenizer, views(2))[1] is None


def test_views_do_not_depend_on_the_batch(tokenizer, monkeypatch):
    """Catches one pass for all references: sums in another order change a code where two are about as near."""
    real, seen = tokenizer.features, []
    monkeypatch.setattr(tokenizer, "features", lambda pixels: seen.append(len(pixels)) or real(pixels))
    codes, features = encode_images(tokenizer, views(3), features=True)
    alone = encode_images(tokenizer, views(3)[1:2], features=True)
    assert torch.equal(codes[1:2], alone[0]) and torch.equal(features[1:2], alone[1]) and set(seen) == {1}


def test_views_that_cannot_be_encoded_are_an_error(tokenizer):
    """Catches NaN that becomes some code: argmax finds one in anything."""
    broken = views(2)
    broken[1, 3, 4] = torch.nan
    with pytest.raises(Blip3oError, match="image 2 in torch.float32"):
        encode_images(tokenizer, broken)


def test_the_side_is_that_of_the_pictures_it_was_built_for(tokenizer, config):
    """Catches the side counted in whole patches, which cuts the border that pictures are resized with."""
    assert tokenizer.image_size == config["vision_config"]["image_size"] == 76
