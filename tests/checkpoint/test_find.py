"""What the lists of models show, and how much of a disk is looked at for them."""

import os
import shutil
from pathlib import Path

import pytest

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import resolve_checkpoint
from blip3o_core.checkpoint.find import find_models
from blip3o_core.errors import Blip3oError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_checkpoint_in_the_folder_itself_hides_no_other(tmp_path):
    """Catches one checkpoint put straight into the models' folder that makes all others disappear."""
    touch(tmp_path, "config.json", "model.safetensors", "second/config.json", "second/model.safetensors.index.json")
    assert find_models(tmp_path).checkpoints == [".", "second"]


def test_files_that_macos_writes_beside_files_are_passed_over(tmp_path):
    """Catches `._ta_tok.pth` offered first, and so chosen by default."""
    touch(tmp_path, "._ta_tok.pth", "ta_tok.pth", "t/._ta_tok.pth", "t/ta_tok.pth", ".Trash/x/ta_tok.pth")
    touch(tmp_path, "too/deep/ta_tok.pth", "folder.pth/inside")
    assert find_models(tmp_path).tatok_files == ["t/ta_tok.pth", "ta_tok.pth"]


def test_parts_of_a_diffusers_model_are_not_checkpoints(tmp_path):
    """Catches the text encoder of a SANA download in the list of checkpoints."""
    for part in ("text_encoder", "transformer", "vae"):
        touch(tmp_path, f"Sana/{part}/config.json", f"Sana/{part}/model.safetensors")
    found = find_models(tmp_path)
    assert (found.checkpoints, found.diffusion_folders) == ([], ["Sana"])


def test_a_link_in_a_circle_ends(tmp_path):
    """Catches a walk through a link to a folder above, which shows every checkpoint several times."""
    touch(tmp_path, "a/config.json", "a/model.safetensors")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked").symlink_to(tmp_path / "a", target_is_directory=True)
    assert find_models(tmp_path).checkpoints == ["a", "linked"]


def test_files_are_not_looked_at(tmp_path, monkeypatch):
    """Catches a request to the disk for every file: on a network drive each takes a millisecond."""
    touch(tmp_path, *(f"{k}/{n}.safetensors" for k in range(5) for n in range(100)))
    asked, real = [], os.stat

    def stat(path, *arguments, **more):
        asked.append(path)
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "stat", stat)
    find_models(tmp_path)
    assert len(asked) < 20


HUB = "models--BLIP3o--NEXT/snapshots/0a1b"


def test_a_hub_cache_is_found_with_its_diffusion_folder(copy, checkpoint, tmp_path):
    """Catches the snapshot refused because SANA lies in a snapshot of its own."""
    diffusion = copy.folder / "diffusion"
    snapshot = tmp_path / "hub" / HUB
    other = tmp_path / "hub/models--Sana/snapshots/2c3d"
    other.parent.mkdir(parents=True)
    shutil.move(diffusion, other)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    for number, path in enumerate(sorted(copy.folder.iterdir())):
        blob = shutil.move(path, snapshot.parents[1] / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    assert find_models(tmp_path / "hub").checkpoints == [HUB]
    opened = open_checkpoint(snapshot)
    assert opened.diffusion_folder == other and opened.identity == checkpoint.identity
    with pytest.raises(Blip3oError, match=f"contains no config.json, but .*{HUB}"):
        open_checkpoint(tmp_path / "hub" / "models--BLIP3o--NEXT")


def test_transformer_and_vae_may_lie_directly_beside(copy):
    """Catches a message that tells the user to put the two folders where they are."""
    for part in (copy.folder / "diffusion").iterdir():
        shutil.move(part, copy.folder.parent / part.name)
    assert open_checkpoint(copy.folder).diffusion_folder == copy.folder.parent


def test_the_home_folder_is_expanded(copy, monkeypatch):
    """Catches "~/models/x does not exist" for a path in a settings file, where no shell expands it."""
    monkeypatch.setenv("HOME", str(copy.folder.parent))
    monkeypatch.setenv("USERPROFILE", str(copy.folder.parent))
    assert resolve_checkpoint("~/model") == copy.folder
    assert open_checkpoint(copy.folder, "~/model/diffusion").diffusion_folder == copy.folder / "diffusion"


WEIGHTS_SEEN = {
    "shards without their index": (["model-00001-of-00002.safetensors"], "parts of the weights: download the index"),
    "pytorch_model.bin": (["pytorch_model.bin"], r"pytorch_model\.bin.*Only \.safetensors"),
    "renamed": (["BLIP3o.safetensors"], r"BLIP3o\.safetensors.*rename it to model\.safetensors"),
    "a download that did not end": (["model.safetensors.part"], r"model\.safetensors\.part"),
    "nothing": ([], "Choose the folder"),
}


@pytest.mark.parametrize("case", WEIGHTS_SEEN)
def test_missing_weights_say_what_was_seen(case, copy):
    """Catches "neither is in it", and the user looks at a file that is in it."""
    names, message = WEIGHTS_SEEN[case]
    copy.weights.unlink()
    touch(copy.folder, *names)
    with pytest.raises(Blip3oError, match=message):
        open_checkpoint(copy.folder)


def test_an_index_left_beside_the_whole_file_is_passed_over(copy, checkpoint):
    """Catches a merged checkpoint refused because of the index of shards that are gone."""
    index = copy.folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert open_checkpoint(copy.folder).identity == checkpoint.identity


def test_exactly_the_files_that_are_read_are_watched(copy):
    """Catches .DS_Store that makes everything run again, and a changed shift in the folder beside that does not."""
    beside = Path(shutil.move(copy.folder / "diffusion", copy.folder.parent / "beside"))
    touch(copy.folder, ".DS_Store", "README.md", ".git/index", ".cache/huggingface/x", "another/model.safetensors")
    names = {path.relative_to(copy.folder.parent).as_posix() for path in open_checkpoint(copy.folder).files}
    assert {path.relative_to(copy.folder.parent).as_posix() for path in beside.rglob("*.json")} <= names
    there = {name for name in names if (copy.folder.parent / name).exists()}
    assert {name for name in there if name.startswith("model/")} == {
        f"model/{name}"
        for name in (
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
        )
    }  # fmt: skip
