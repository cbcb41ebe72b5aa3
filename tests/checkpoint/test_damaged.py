"""What a damaged or foreign folder says: one Blip3oError with file, value and next step, and nothing half-loaded."""

import json
import re
import struct

import pytest
import torch
from safetensors.torch import save_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.describe import describe
from blip3o_core.errors import Blip3oError
from blip3o_core.pipeline import Pipeline
from tests.support.tiny_checkpoint import make_checkpoint

NEXT_STEP = "copy|download|give|choose|use|put|save"
LOADERS = ("load_language", "load_transformer", "load_autoencoder", "load_image_tokenizer")


def failure(run) -> str:
    """The message of the Blip3oError that `run` ends with; it always says what to do next."""
    with pytest.raises(Blip3oError) as caught:
        run()
    message = str(caught.value)
    assert re.search(NEXT_STEP, message, re.IGNORECASE), message
    return message


def test_an_absent_folder_is_named(tmp_path):
    """Catches a FileNotFoundError about a file inside the folder that is not there at all."""
    assert str(tmp_path / "absent") in failure(lambda: open_checkpoint(tmp_path / "absent"))
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in failure(lambda: open_checkpoint(tmp_path / "file"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "diffusion/transformer/config.json"])
def test_a_missing_file_is_named(name, copy):
    """Catches an error that leaves the user guessing which file to fetch."""
    (copy.folder / name).unlink()
    message = failure(lambda: open_checkpoint(copy.folder))
    assert name.removeprefix("diffusion/") in message and str(copy.folder) in message


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\udcff"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "diffusion/vae/config.json"])
def test_a_file_that_is_not_json_is_named(name, content, copy):
    """Catches a bare JSONDecodeError, UnicodeDecodeError, or TypeError from a list where an object belongs."""
    (copy.folder / name).write_text(content, errors="surrogateescape")
    assert str(copy.folder / name) in failure(lambda: open_checkpoint(copy.folder))


NEEDED = [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "rms_norm_eps", "max_position_embeddings", "image_start_tag_id", "image_end_tag_id", "scale_start_token_id",
    "image_start_token_id", "num_image_tokens", "rope_theta", "head_dim",
]  # fmt: skip


@pytest.mark.parametrize("field", NEEDED)
def test_a_config_without_a_field_names_it(field, copy):
    """Catches a KeyError, or a library's default taken silently: another rope_theta draws noise."""
    copy.edit_json(drop=(field,))
    message = failure(lambda: Pipeline.load(copy.folder))
    assert field in message and str(copy.folder / "config.json") in message


@pytest.mark.parametrize(
    "field",
    [
        "transformer/in_channels", "transformer/num_layers", "transformer/num_attention_heads",
        "transformer/caption_channels", "vae/latent_channels", "vae/decoder_block_out_channels", "vae/scaling_factor",
    ],
)  # fmt: skip
def test_a_diffusion_config_without_a_field_names_it(field, copy):
    """Catches the library's default of a published size taken for a field that is missing."""
    part, name = field.split("/")
    copy.edit_json(f"diffusion/{part}/config.json", drop=(name,))
    message = failure(lambda: describe(open_checkpoint(copy.folder, copy.folder / "diffusion")))
    assert name in message and str(copy.folder / "diffusion" / part) in message


@pytest.mark.parametrize("value", ["seven", -1, 0, [1], {"a": 1}, 63])
@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "vocab_size", "num_image_tokens"])
def test_a_field_with_a_wrong_value_is_an_error(field, value, copy):
    """Catches a value of another type or size that reaches torch before anybody looks at it."""
    copy.edit_json(**{field: value})
    failure(lambda: Pipeline.load(copy.folder))


def write_raw(path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def truncate_header(path):
    path.write_bytes(path.read_bytes()[:100])


def truncate_data(path):
    path.write_bytes(path.read_bytes()[:-1000])


def corrupt_header(path):
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"#" * 50 + data[58:])


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "a few bytes": lambda path: path.write_bytes(b"abc"),
    "header cut": truncate_header,
    "data cut": truncate_data,
    "header corrupt": corrupt_header,
    "not safetensors": lambda path: path.write_bytes(b"<!DOCTYPE html>" * 100),
    "header of another shape": lambda path: write_raw(path, b'{"a": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_weights_are_named(damage, copy):
    """Catches a SafetensorError without the file's name, and a cut file that loads with rubbish in it."""
    damage(copy.weights)
    message = failure(lambda: open_checkpoint(copy.folder))
    assert str(copy.weights) in message and "Download it again" in message
    assert f"{copy.weights.stat().st_size:,} bytes" in message


def test_a_git_lfs_pointer_is_named(copy):
    """Catches advice to download again: `git clone` without LFS gives the same pointer again."""
    copy.weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in failure(lambda: open_checkpoint(copy.folder))


def test_a_folder_without_tensors_is_not_a_checkpoint(copy):
    """Catches an empty but valid file loaded as a model without weights."""
    save_file({}, copy.weights)
    assert str(copy.folder) in failure(lambda: open_checkpoint(copy.folder))


def test_a_missing_shard_is_named(tmp_path):
    """Catches a download that was interrupted between shards, shown as a list of missing tensors."""
    folder = make_checkpoint(tmp_path / "m", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = failure(lambda: open_checkpoint(folder))
    assert "model-00002-of-00003.safetensors" in message and "model-00001" not in message


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}], ids=str)
def test_a_wrong_index_is_named(index, copy):
    """Catches an AttributeError from an index file of another shape."""
    path = copy.folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    copy.weights.unlink()
    assert str(path) in failure(lambda: open_checkpoint(copy.folder))


def test_everything_that_does_not_fit_is_listed_at_once(copy):
    """Catches errors shown one per attempt: each costs the user another load of gigabytes."""

    def edit(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        del tensors["model.sana.proj_out.weight"]
        tensors["model.layers.0.surprise.weight"] = torch.zeros(3)
        tensors["model.norm.weight"] = torch.zeros(65)
        tensors["model.sana_vae.decoder.conv_in.weight"] = torch.zeros(32, 8, 1, 1)

    copy.edit_tensors(edit)
    message = failure(lambda: describe(open_checkpoint(copy.folder, copy.folder / "diffusion")))
    lines = message.splitlines()
    for kind, name, numbers in (
        ("missing", "model.layers.1.mlp.up_proj.weight", ["96, 64"]),
        ("missing", "proj_out.weight", []),
        ("unexpected", "model.layers.0.surprise.weight", ["3"]),
        ("shape", "model.norm.weight", ["65", "64"]),
        ("shape", "decoder.conv_in.weight", ["32, 8, 1, 1", "32, 8, 3, 3"]),
    ):
        assert any(kind in line and name in line and all(n in line for n in numbers) for line in lines), name
    for loader in LOADERS:
        assert failure(getattr(open_checkpoint(copy.folder, copy.folder / "diffusion"), loader)) == message


def test_many_errors_are_cut_short(copy):
    """Catches a page of thousands of lines when the wrong config lies beside the right weights."""
    copy.edit_json(num_hidden_layers=40)
    message = failure(lambda: describe(open_checkpoint(copy.folder)))
    assert len(message.splitlines()) < 40 and "more" in message


def test_another_model_is_refused_as_such(tmp_path, config):
    """Catches a plain Qwen3 taken for a checkpoint because config and tokenizer look right."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    fields = {k: v for k, v in config.items() if k not in ("model_type", "architectures", "vision_config")}
    Qwen3ForCausalLM(Qwen3Config(**fields)).save_pretrained(tmp_path / "qwen")
    message = failure(lambda: open_checkpoint(tmp_path / "qwen"))
    assert "not a BLIP3o-NEXT checkpoint" in message and "Qwen3ForCausalLM" in message


@pytest.mark.parametrize("value", ["nan", "-inf"])
@pytest.mark.parametrize(
    "name, loader",
    [
        ("model.layers.1.mlp.down_proj.weight", "load_language"), ("model.embed_tokens.weight", "load_language"),
        ("model.diffusion_connector.2.bias", "load_language"),
        ("model.sana.patch_embed.proj.weight", "load_transformer"),
        ("model.sana_vae.decoder.conv_in.bias", "load_autoencoder"),
        ("model.vision_tower.vision_tower.bottleneck.in_linear.weight", "load_image_tokenizer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_weight_that_is_not_finite_is_named(name, loader, value, dtype, copy):
    """Catches NaN loaded in silence: the first sign would be a black picture minutes later."""
    copy.edit_tensors(lambda tensors: tensors[name].flatten()[-1:].fill_(float(value)))
    checkpoint = open_checkpoint(copy.folder)
    message = failure(lambda: getattr(checkpoint, loader)(dtype))
    assert name.split("tower.vision_tower.")[-1].split("sana.")[-1].split("sana_vae.")[-1] in message
    assert str(copy.weights) in message
    for other in set(LOADERS) - {loader}:
        getattr(checkpoint, other)(dtype)


def test_a_weight_that_overflows_the_asked_dtype_is_an_error(copy):
    """Catches float32 weights cast to infinity in fp16."""
    copy.edit_tensors(lambda tensors: tensors["model.norm.weight"].fill_(1e6))
    checkpoint = open_checkpoint(copy.folder)
    assert "model.norm.weight" in failure(lambda: checkpoint.load_language(torch.float16))
    checkpoint.load_language(torch.bfloat16)


def test_a_missing_tokenizer_is_named(copy):
    """Catches a failure that shows up only after every weight was loaded, or a library's hint to go online."""
    (copy.folder / "tokenizer.json").unlink()
    message = failure(lambda: Pipeline.load(copy.folder))
    assert "tokenizer.json" in message and str(copy.folder) in message


def test_a_failed_load_leaves_nothing_behind(copy, checkpoint, pipeline):
    """Catches a half-loaded network that a second attempt, or another checkpoint, gets to see."""
    good = copy.weights.read_bytes()
    copy.edit_tensors(lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    damaged = open_checkpoint(copy.folder)
    for _ in range(2):
        failure(damaged.load_language)
    copy.weights.write_bytes(good)
    again = Pipeline.load(copy.folder)
    assert torch.equal(again.generate_tokens(["a"], [0]).codes, pipeline.generate_tokens(["a"], [0]).codes)
    assert {parameter.device.type for parameter in again.language.parameters()} == {"cpu"}


def test_an_image_tokenizer_of_another_kind_is_an_error(copy):
    """Catches a KeyError about one of its tensors when the rest of it is missing."""
    name = "model.vision_tower.vision_tower.bottleneck.regularizer.embedding.weight"
    copy.edit_tensors(lambda tensors: tensors.pop(name))
    assert "TA-Tok" in failure(lambda: open_checkpoint(copy.folder))


@pytest.mark.parametrize("given", ["absent", "."])
def test_a_given_diffusion_folder_without_configs_is_named(given, copy, tmp_path):
    """Catches a wrong folder passed over in silence for one that happens to lie inside."""
    message = failure(lambda: open_checkpoint(copy.folder, tmp_path / given))
    assert str(tmp_path / given) in message


def test_a_given_diffusion_folder_of_other_sizes_is_named(copy, tmp_path):
    """Catches configs of another model accepted because they were given by hand."""
    from tests.support.tiny_checkpoint import Sizes

    other = make_checkpoint(tmp_path / "other", sizes=Sizes(sana_layers=3)) / "diffusion"
    message = failure(lambda: describe(open_checkpoint(copy.folder, other)))
    assert str(other) in message and "transformer_blocks.2" in message


def test_sliding_window_attention_is_refused(copy):
    """Catches a config asking for attention that the decode engine does not have."""
    copy.edit_json(use_sliding_window=True, sliding_window=8)
    assert "sliding" in failure(lambda: Pipeline.load(copy.folder))
