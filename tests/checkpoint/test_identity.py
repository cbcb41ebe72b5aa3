"""Identity by content: what makes two checkpoints the same, and what tells them apart."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import resolve_checkpoint
from blip3o_core.errors import Blip3oError
from blip3o_core.prompts.vocabulary import tokenizer_digest
from blip3o_core.weights import digest
from blip3o_core.weights.names import SANA, VAE
from blip3o_core.weights.safetensors_file import TensorReader
from tests.support.paths import TOP
from tests.support.tiny_checkpoint import make_checkpoint


def identities(folder) -> tuple[str, str]:
    checkpoint = open_checkpoint(folder)
    return checkpoint.identity, checkpoint.language_identity


def rewrite(folder, tensors, **metadata) -> None:
    save_file(tensors, folder / "model.safetensors", metadata=metadata)


def other_names_and_times(folder):
    os.utime(folder / "model.safetensors", (1, 1))
    folder.rename(folder.with_name("renamed"))
    return folder.with_name("renamed")


def shards(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for k in range(3):
        mine = {name: tensors[name] for name in sorted(tensors)[k::3]}
        save_file(mine, folder / f"{k}.safetensors")
        weight_map |= dict.fromkeys(mine, f"{k}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def saved_again(folder):
    """What libraries change when they save: order, metadata, default fields, layout, a copy of the tied head."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    rewrite(folder, dict(reversed(tensors.items())), by="another tool")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    config |= {"transformers_version": "9.9", "dtype": "float32", "use_cache": True, "_name_or_path": "/home/x"}
    (folder / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True))
    transformer = folder / "diffusion/transformer/config.json"
    more = {"_diffusers_version": "9.9", "dropout": 0.0, "norm_eps": 1e-6}
    transformer.write_text(json.dumps(json.loads(transformer.read_text()) | more))


def diffusion_weights_of_their_own(folder):
    tensors = load_file(folder / "model.safetensors")
    for prefix, part in ((SANA, "transformer"), (VAE, "vae")):
        own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        save_file(own, folder / "diffusion" / part / "diffusion_pytorch_model.safetensors")
    rewrite(folder, tensors)


@pytest.mark.parametrize(
    "change", [other_names_and_times, shards, saved_again, diffusion_weights_of_their_own], ids=lambda f: f.__name__
)
def test_the_same_content_is_the_same_checkpoint(change, copy, checkpoint):
    """Catches an identity made of times, names or layout: a copied checkpoint would lose what was made with it."""
    folder = change(copy.folder) or copy.folder
    assert identities(folder) == (checkpoint.identity, checkpoint.language_identity)


def flip_last_byte(name):
    def flip(copy):
        copy.edit_tensors(lambda tensors: tensors[name].view(torch.uint8).flatten()[-1:].bitwise_xor_(1))

    return flip


SHIFT = "diffusion/scheduler/scheduler_config.json"
DIFFERENT = {  # (change, whether the language model is another one, too)
    "a bit of the language model": (flip_last_byte("model.layers.1.mlp.down_proj.weight"), True),
    "a bit of the connector": (flip_last_byte("model.diffusion_connector.0.bias"), True),
    "a bit of SANA": (flip_last_byte(SANA + "proj_out.weight"), False),
    "a bit of the autoencoder": (flip_last_byte(VAE + "decoder.conv_in.bias"), False),
    "a bit of the image tokenizer": (
        flip_last_byte("model.vision_tower.vision_tower.encode_task_layer.0.weight"), False
    ),
    "rope_theta": (lambda copy: copy.edit_json(rope_theta=10000), True),
    "rms_norm_eps": (lambda copy: copy.edit_json(rms_norm_eps=1e-5), True),
    "an edit switch": (lambda copy: copy.edit_json(use_und_image_vae_as_noise=True), True),
    "ids that end a text": (lambda copy: copy.edit_json("generation_config.json", eos_token_id=256), True),
    "the flow shift": (lambda copy: copy.edit_json(SHIFT, shift=3.0), False),
    "a field of SANA": (lambda copy: copy.edit_json("diffusion/transformer/config.json", norm_eps=1e-5), False),
    "the latents' factor": (lambda copy: copy.edit_json("diffusion/vae/config.json", scaling_factor=0.4), False),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_changes_an_image_is_another_checkpoint(case, copy, checkpoint):
    """Catches a change that the identity does not see: images and states of other weights would be taken for these."""
    change, language_too = DIFFERENT[case]
    change(copy)
    whole, language = identities(copy.folder)
    assert whole != checkpoint.identity
    assert (language != checkpoint.language_identity) == language_too


def test_the_dtype_counts(checkpoint, tmp_path):
    """Catches a bfloat16 copy taken for the float32 one."""
    other = make_checkpoint(tmp_path / "m", dtype=torch.bfloat16)
    assert not set(identities(other)) & {checkpoint.identity, checkpoint.language_identity}


def test_a_change_that_keeps_size_and_time_is_seen(copy):
    """Catches an identity remembered for a file that was overwritten in place and got its old time back."""
    before, facts = identities(copy.folder), copy.weights.stat()
    with open(copy.weights, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(copy.weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert identities(copy.folder) != before


def test_an_unchanged_file_is_read_once(copy, monkeypatch):
    """Catches gigabytes hashed again for every use of a checkpoint that did not change."""
    monkeypatch.setattr(digest, "_SETTLED", -1.0)
    before, read = identities(copy.folder), []
    real = TensorReader.read_bytes
    monkeypatch.setattr(TensorReader, "read_bytes", lambda *arguments: read.append(arguments) or real(*arguments))
    assert identities(copy.folder) == before and not read
    copy.edit_tensors(lambda tensors: None)
    assert identities(copy.folder) == before and read


def test_a_file_replaced_while_it_is_open_is_an_error(copy):
    """Catches the identity of a new file given to weights of the old one, and tensors read from wrong places."""
    checkpoint = open_checkpoint(copy.folder)
    copy.edit_tensors(lambda tensors: tensors["model.norm.weight"].add_(1))
    for ask in (lambda: checkpoint.identity, checkpoint.load_language):
        with pytest.raises(Blip3oError, match="changed while it was in use"):
            ask()


def test_a_tokenizer_saved_again_is_the_same(tmp_path):
    """Catches a fine-tune through transformers, which saves the tokenizer anew, whose codes nobody would take."""
    from transformers import PreTrainedTokenizerFast

    path = resolve_checkpoint(None) / "tokenizer.json"
    text = path.read_text()
    PreTrainedTokenizerFast(tokenizer_file=str(path)).save_pretrained(tmp_path)
    again = (tmp_path / "tokenizer.json").read_text()
    assert again != text, "the library wrote the same bytes: this shows nothing"
    assert tokenizer_digest(json.loads(again)) == tokenizer_digest(json.loads(text))


def as_older_releases(content):
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    for name in ("ignore_merges", "byte_fallback", "fuse_unk"):
        content["model"].pop(name)


SAME = {
    "merges as texts": as_older_releases,
    "limits and padding": lambda content: content.update(truncation={"max_length": 5}, padding={"pad_id": 0}),
    "what follows the ids": lambda content: content.update(post_processor=None, decoder=None),
}
OTHER = {
    "two words changed places": lambda content: content["model"]["vocab"].update({"!": 1, '"': 0}),
    "a merge less": lambda content: content["model"]["merges"].pop(),
    "merges in another order": lambda content: content["model"]["merges"].reverse(),
    "no normalizer": lambda content: content.update(normalizer=None),
    "another pattern": lambda content: content["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=" "),
    "an added token less": lambda content: content["added_tokens"].pop(),
    "a token with another id": lambda content: content["added_tokens"][-1].update(id=5),
}


@pytest.mark.parametrize("change", [*SAME, *OTHER])
def test_a_tokenizer_is_what_it_does(change):
    """Catches tokenizers told apart by their layout, and other ids taken for the same."""
    text = (TOP / "tests/golden/checkpoints/t2i/tokenizer.json").read_text()
    content = json.loads(text)
    {**SAME, **OTHER}[change](content)
    assert (tokenizer_digest(content) == tokenizer_digest(json.loads(text))) == (change in SAME)


def test_the_diffusion_folder_beside_counts(copy, checkpoint):
    """Catches an identity of the checkpoint's own folder alone: the shift lies in the diffusion folder."""
    beside = shutil.move(copy.folder / "diffusion", copy.folder.parent / "beside")
    assert open_checkpoint(copy.folder).identity == checkpoint.identity
    path = copy.folder.parent / "beside" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"shift": 2.0}))
    assert open_checkpoint(copy.folder, beside).identity != checkpoint.identity
