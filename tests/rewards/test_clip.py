"""Similarity of image and prompt by a CLIP or SigLIP model, next to transformers' own numbers."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.clip import ClipReward, _as_pil
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from tests.support.paths import TOP

PROMPTS = ["a red fox", "a blue star", "a star " * 20]
IMAGES = [torch.rand(side, 40, 3, generator=torch.Generator().manual_seed(side)) for side in (33, 50, 20)]


def save_model(folder, kind="clip"):
    """A tiny random model with its processor -> the model."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "<pad>", "<unk>", "a", "red", "fox", "blue", "star"]
    own = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    inputs = ["input_ids", "attention_mask"] if kind == "clip" else ["input_ids"]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, model_input_names=inputs, **marks)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **size,
        "vocab_size": 9,
        "max_position_embeddings": 12,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    vision = {**size, "image_size": 32, "patch_size": 8}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        network = transformers.CLIPModel(config)
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor = transformers.CLIPProcessor(images, tokenizer)
    else:
        config = transformers.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
        network = transformers.SiglipModel(config)
        images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
        processor = transformers.SiglipProcessor(images, tokenizer)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.3)
        network.logit_scale.fill_(math.log(7))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network.eval(), processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    save_model(path)
    return path


def values(folder, count=3, **options):
    reward = ClipReward(str(folder), **options)
    return reward(IMAGES[:count], PROMPTS[:count], [()] * count, [None] * count, [{}] * count)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_numbers_are_those_of_transformers(kind, tmp_path):
    """Catches an image with the prompt of its neighbour, colours in another range, and a missing scale or bias."""
    network, processor = save_model(tmp_path, kind)
    padding = {"padding": "max_length", "max_length": 12, "truncation": True, "return_tensors": "pt"}
    inputs = processor(text=PROMPTS, images=[_as_pil(image) for image in IMAGES], **padding)
    with torch.no_grad():
        logits = network(**inputs).logits_per_image.diagonal()
    found = values(tmp_path, score="logit")
    assert found == pytest.approx(logits.tolist(), abs=1e-4) and len({round(one, 3) for one in found}) == 3
    cosine = (logits - getattr(network, "logit_bias", torch.zeros(()))) / 7
    assert values(tmp_path) == pytest.approx(cosine.tolist(), abs=1e-5)
    assert values(tmp_path, score="clipscore") == pytest.approx(
        [max(0, 2.5 * one) for one in cosine.tolist()], abs=1e-4
    )
    assert values(tmp_path, batch=1) == pytest.approx(values(tmp_path), abs=1e-5)


def test_it_is_loaded_by_its_name_and_sent_to_other_processes(folder):
    """Catches a range that the numbers leave, and a loaded model that is sent along."""
    mix = load_rewards([{"name": "fits", "use": "clip", "options": {"model": str(folder)}}])
    (one,) = mix.score(Candidates(IMAGES[:1], PROMPTS[:1])).parts["fits"]
    assert -1 <= one <= 1
    again = pickle.loads(pickle.dumps(mix.parts[0].reward))
    assert again._loaded is None and again.version == mix.parts[0].reward.version


@pytest.mark.long
def test_torchvision_is_not_needed(folder):
    """Catches a reward that fails where torchvision is not installed: none of our requirements brings it."""
    code = f"""
import sys
sys.modules["torchvision"] = None
import torch
from blip3o_core.rewards.clip import ClipReward
print(ClipReward({str(folder)!r})([torch.zeros(40, 40, 3)], ["a red fox"], [()], [None], [{{}}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("["), done.stderr


def test_what_cannot_be_loaded_is_named(folder, tmp_path):
    """Catches a download, code that comes with a model, pickles, and random weights where some are missing."""
    from safetensors.torch import load_file, save_file

    for options, words in (
        ({"model": "openai/clip-vit-large-patch14"}, "Nothing is downloaded"),
        ({"model": 3}, "model is 3"),
        ({"model": str(folder), "score": "cosin"}, "Did you mean cosine?"),
        ({"model": str(folder), "batch": 0}, "batch is 0"),
        ({"model": str(folder), "device": "cuda:99"}, "device is 'cuda:99'"),
        ({"model": str(folder), "device": "gpu"}, "device is 'gpu'"),
        ({}, "needs the option 'model'"),
    ):
        with pytest.raises(Blip3oError) as error:
            load_rewards([{"name": "clip", "options": options}])
        assert words in str(error.value)

    own = tmp_path / "own"
    own.mkdir()
    for file in folder.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    weights = load_file(own / "model.safetensors")
    del weights["logit_scale"]
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    assert ClipReward(str(own)).version != ClipReward(str(folder)).version
    with pytest.raises(Blip3oError, match="lack 1 tensors, the first logit_scale"):
        values(own, 1)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoModel": "m.M"}}))
    (own / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(Blip3oError, match="cannot be loaded"):
        values(own, 1)
    assert not Path(tmp_path / "ran").exists()
    (own / "model.safetensors").unlink()
    with pytest.raises(Blip3oError, match="has no .*safetensors"):
        values(own, 1)


def test_images_keep_their_bytes():
    """Catches the half step that makes every image darker."""
    pixels = torch.arange(256, dtype=torch.float32).reshape(16, 16, 1).expand(-1, -1, 3) / 255
    assert np.asarray(_as_pil(pixels))[..., 0].ravel().tolist() == list(range(256))
