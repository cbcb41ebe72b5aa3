"""What a run leaves behind: checkpoints in the published layout that differ from the source in what was trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.cli.main import main
from blip3o_core.pipeline import Pipeline
from blip3o_core.training.save import save_checkpoint
from blip3o_core.weights.names import CONNECTOR, SANA
from blip3o_core.weights.tensors import read_index
from tests.support.tiny_checkpoint import make_checkpoint
from tests.support.training_world import assert_resumes

LANGUAGE = ("model.embed_tokens.", "model.layers.", "model.norm.")
CAPTION = (SANA + "caption_projection.", SANA + "caption_norm.")
# What a part must change, and all it may.
PARTS = {"language": LANGUAGE, "connector": (CONNECTOR,), "caption_projection": CAPTION,
         "sana_ends": (SANA + "patch_embed.", SANA + "proj_out."), "sana": (SANA,)}  # fmt: skip


def bits(folder) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whatever files it is in."""
    return {
        name: tensor
        for file in {e.file for e in read_index(folder).values()}
        for name, tensor in load_file(file).items()
    }


def changed(folder, source) -> set[str]:
    mine, theirs = bits(folder), bits(source)
    assert mine.keys() == theirs.keys()
    assert all(tensor.dtype == theirs[name].dtype for name, tensor in mine.items())
    return {name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_trains_alone(part, world):
    """Catches a part that trains what it should leave, or leaves some of its own tensors as they were."""
    saved = world.train(steps=1, train={part: 1e-2})
    own = {name for name in bits(world.checkpoint) if name.startswith(PARTS[part])}
    assert changed(saved, world.checkpoint) == own


def test_no_name_of_a_part_is_missed(world):
    """Catches a trainable tensor that is in no part: all parts together must change all but the two encoders."""
    saved = world.train(steps=2, train=dict.fromkeys(PARTS, 1e-2))
    own = {name for name in bits(world.checkpoint) if name.startswith((*LANGUAGE, CONNECTOR, SANA))}
    assert changed(saved, world.checkpoint) == own


@pytest.mark.parametrize("dtype, shard_gb", [(torch.float32, 5), (torch.bfloat16, 1e-4)], ids=["one file", "shards"])
def test_a_saved_checkpoint_is_a_checkpoint(dtype, shard_gb, world, tmp_path, capsys):
    """Catches a folder that inspect does not recognise, or that needs its source to run; shards keep every bit."""
    world.checkpoint = make_checkpoint(tmp_path / "source" / "model", edit=("use_und_image_vae",), dtype=dtype)
    saved = world.train(steps=2, train={"connector": 1e-1, "language": 1e-1}, shard_gb=shard_gb)
    files = list(saved.glob("*.safetensors"))
    assert (len(files) > 3) == (shard_gb < 1)
    own = {name for name in bits(world.checkpoint) if name.startswith((*LANGUAGE, CONNECTOR))}
    assert changed(saved, world.checkpoint) <= own
    moved = saved.rename(tmp_path / "moved")
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    assert main(["inspect", f"--checkpoint={moved}"]) == 0
    assert "edit" in capsys.readouterr().out
    pipeline = Pipeline.load(moved)
    image = pipeline.render(pipeline.generate_tokens(["a red square"], [0]), [0], steps=2)
    assert image.shape == (1, 64, 64, 3)
    assert open_checkpoint(moved).load_image_tokenizer().config.num_heads == 4


def test_parts_from_the_diffusion_folder_are_included(world, tmp_path):
    """Catches trained SANA weights, or the autoencoder, left out because the source keeps them in another folder."""
    source = open_checkpoint(world.checkpoint)
    merged = bits(world.checkpoint)
    separate = tmp_path / "separate" / "model"
    make_checkpoint(separate)
    from safetensors.torch import save_file

    prefixes = {"transformer": SANA, "vae": "model.sana_vae."}
    for part, prefix in prefixes.items():
        own = {name.removeprefix(prefix): t for name, t in merged.items() if name.startswith(prefix)}
        save_file(own, separate / "diffusion" / part / "diffusion_pytorch_model.safetensors")
    rest = {name: t for name, t in merged.items() if not name.startswith(tuple(prefixes.values()))}
    save_file(rest, separate / "model.safetensors")
    (tmp_path / "whole").mkdir()
    save_checkpoint(tmp_path / "whole", open_checkpoint(separate), {}, 10**9)
    assert changed(tmp_path / "whole", source.folder) == set()


def test_the_vision_config_is_included(tiny, tmp_path):
    """Catches a saved checkpoint that cannot encode images: the tower's heads may be known from a neighbour alone."""
    folder = make_checkpoint(tmp_path / "place" / "model")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "place" / "tower").mkdir()
    (tmp_path / "place" / "tower" / "config.json").write_text(
        json.dumps({"vision_config": config.pop("vision_config")})
    )
    (folder / "config.json").write_text(json.dumps(config))
    saved = tmp_path / "far" / "saved"
    saved.mkdir(parents=True)
    save_checkpoint(saved, open_checkpoint(folder), {}, 10**9)
    assert open_checkpoint(saved).image_tokenizer_config == open_checkpoint(folder).image_tokenizer_config
    assert open_checkpoint(saved).image_tokenizer_config.num_heads == 4


LORA = {"rank": 3, "alpha": 6, "targets": ["q_proj", "down_proj"]}


def adapted(name: str) -> bool:
    return name.startswith(LANGUAGE) and name.endswith(("q_proj.weight", "down_proj.weight"))


def test_adapters_train_alone_and_merge(world):
    """Catches LoRA that leaves the language model free to move, or is lost or scaled wrongly when it is saved."""
    rates = {"language": 1e-2, "connector": 1e-2}
    merged = world.train("merged", steps=3, train=rates, lora=LORA)
    own = {name for name in bits(world.checkpoint) if name.startswith(CONNECTOR) or adapted(name)}
    assert changed(merged, world.checkpoint) == own
    base, tuned = bits(world.checkpoint), bits(merged)
    for name in own:
        if adapted(name):
            assert torch.linalg.matrix_rank(tuned[name] - base[name], rtol=1e-3) <= 3


def test_an_adapter_in_files_of_its_own_is_the_merged_one(world, config):
    """Catches files that peft reads as nothing: names that do not fit its base model leave the weights unchanged."""
    from peft import PeftModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    rates = {"language": 1e-2}
    merged = bits(world.train("merged", steps=3, train=rates, lora=LORA))
    folder = world.train("adapter", steps=3, train=rates, lora={**LORA, "save": "adapter"})
    assert changed(folder, world.checkpoint) == set()
    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    model = Qwen3ForCausalLM(Qwen3Config(**fields))
    model.load_state_dict({n: t for n, t in bits(folder).items() if n.startswith(LANGUAGE)}, strict=False)
    tuned = PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload().state_dict()
    names = [name for name in merged if adapted(name)]
    assert len(names) == 2 * config["num_hidden_layers"]
    for name in names:
        assert (tuned[name] - merged[name]).abs().max() < 1e-6
        assert not torch.equal(tuned[name], bits(world.checkpoint)[name])


def test_an_adapter_is_saved_without_the_model(world):
    """Catches a copy of the whole model with each checkpoint, another adapter, and a run that cannot be continued."""
    adapter = {"train": {"language": 1e-2}, "lora": {**LORA, "save": "adapter"}}
    whole = world.train("whole", steps=3, **adapter)
    alone = world.train("alone", steps=3, **adapter, adapter_only=True)
    assert sorted(path.name for path in alone.iterdir()) == ["adapter", "training"]
    file = Path("adapter", "adapter_model.safetensors")
    assert (alone / file).read_bytes() == (whole / file).read_bytes()
    again = world.train("alone", steps=4, resume=True, **adapter, adapter_only=True)
    assert again != alone and (again / file).is_file()


def test_adapters_resume(world):
    """Catches adapters that start again from nothing when a run is continued."""
    assert_resumes(world, train={"language": 1e-2}, lora=LORA)
