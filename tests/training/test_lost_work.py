"""What ends a run early loses nothing: damaged data, full disks, signals, and other inputs or states on resume."""

import json
import os
import shutil
import signal
import threading

import pytest
import torch
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.cli.stopping import Stopping
from blip3o_core.cli.train import ended
from blip3o_core.errors import Blip3oError
from blip3o_core.training import run_folder
from blip3o_core.training.run_folder import RunFolder, saving
from blip3o_core.training.trainer import Trainer, Watch, train
from tests.support.training_world import assert_same_weights, encoder, make_data


def own_data(world, tmp_path):
    """A copy of the images that a test may damage."""
    world.data = shutil.copytree(world.data, tmp_path / "data")
    return world.data


def files_of(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_cut_image_is_found_before_the_first_step(world, tmp_path):
    """Catches a run that stops at step 4,000 because of a download that was cut from the start."""
    data = own_data(world, tmp_path)
    Image.open(data / "1.png").save(data / "1.jpg")
    Image.open(data / "2.png").save(data / "2.webp")
    Image.open(data / "4.png").save(data / "4.bmp")
    for name in ("0.png", "1.jpg", "2.webp", "4.bmp"):
        content = (data / name).read_bytes()
        (data / name).write_bytes(content[: len(content) * 2 // 3])
    (data / "3.png").write_bytes(b"")
    names = ["0.png", "1.jpg", "2.webp", "3.png", "4.bmp", "5.png"]
    (data / "items.jsonl").write_text("\n".join(json.dumps({"image": name}) for name in names))
    with pytest.raises(Blip3oError, match="5 images cannot be read") as raised:
        world.train()
    assert all(f"{name} " in str(raised.value) for name in names[:5]) and "5.png" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_whole_image_of_any_kind_is_not_suspected(kind, world, tmp_path):
    """Catches a check that refuses what the reader takes: bytes behind the end, headers longer than what is read."""
    data = own_data(world, tmp_path)
    exif = Image.Exif()
    exif[0x010E] = "x" * 20_000
    more = {"exif": exif} if kind in ("jpg", "webp", "png") else {}
    Image.open(data / "1.png").convert("RGB").save(data / f"1.{kind}", **more)
    with open(data / f"1.{kind}", "ab") as file:
        file.write(b"\0" * (100 if kind != "tiff" else 0))
    (data / "items.jsonl").write_text(json.dumps({"image": f"1.{kind}"}))
    Trainer(world.config()).close()


def test_a_caption_that_is_too_long_is_found_before_the_first_step(world, tmp_path):
    """Catches a run that stops at the step that meets it."""
    data = own_data(world, tmp_path)
    lines = (data / "items.jsonl").read_text().splitlines()
    (data / "items.jsonl").write_text("\n".join([*lines, json.dumps({"image": "0.png", "caption": "red " * 5000})]))
    with pytest.raises(Blip3oError, match=r"0\.png: .*tokens"):
        world.train()


def test_what_was_learnt_is_saved_before_damaged_data_ends_the_run(world, tmp_path):
    """Catches hours that are lost because one image is damaged in its middle; the run continues when it is mended."""
    own_data(world, tmp_path)
    settings = {"steps": 3, "batch": 2, "cache": str(tmp_path / "cache")}
    world.train("straight", **settings)
    shutil.rmtree(tmp_path / "cache")
    trainer = Trainer(world.config("run", **settings))
    damaged = trainer.batches.items[trainer.batches.order.index(2)].image.file
    content = damaged.read_bytes()
    damaged.write_bytes(content[:60] + bytes(len(content) - 120) + content[-60:])
    with pytest.raises(Blip3oError, match=rf"{damaged.name}.* Step 1 was saved: continue with --resume"):
        trainer.run()
    trainer.close()
    damaged.write_bytes(content)
    resumed = world.train("run", resume=True, **settings)
    assert world.log("run") == world.log("straight")
    assert_same_weights(resumed, tmp_path / "straight" / resumed.name)


def test_the_thread_ends_with_the_run(world):
    """Catches a thread for each run that a notebook starts, and one that keeps a failed process alive."""
    before = set(threading.enumerate())
    trainer = Trainer(world.config(steps=3))
    trainer.train_step()
    assert any("training data" in thread.name for thread in threading.enumerate())
    trainer.close()
    assert set(threading.enumerate()) <= before | {threading.main_thread()}


@pytest.mark.parametrize(
    "damage", ["codes", "latents", "shape", "kind", "beyond the codebook", "no digest", "a folder"]
)
def test_a_cache_entry_that_is_not_ours_is_made_again(damage, world, tmp_path):
    """Catches codes and latents of something else, which fail deep in torch or train on rubbish."""
    from safetensors.torch import load_file, save_file

    cache = tmp_path / "cache"
    images = encoder(world, cache)
    image = Trainer(world.config(cache=str(cache))).batches.items[0].image
    codes, latents = images.encode(image)
    [path] = cache.rglob("*.safetensors")
    whole, entry = path.read_bytes(), load_file(path)
    changed = {
        "codes": {"codes": entry["codes"] ^ 1},
        "latents": {"latents": entry["latents"] + 1},
        "shape": {"codes": entry["codes"][:3], "latents": torch.zeros(1)},
        "kind": {"codes": entry["codes"].float()},
        "beyond the codebook": {"codes": entry["codes"] + 10**6},
    }.get(damage, {})
    save_file({**entry, **changed}, path)
    if damage == "a folder":
        path.unlink()
        path.mkdir()
        with pytest.raises(Blip3oError, match="Cannot write .*safetensors"):
            encoder(world, cache).encode(image)
        return
    again = encoder(world, cache).encode(image)
    assert torch.equal(again[0], codes) and torch.equal(again[1], latents)
    assert path.read_bytes() == whole


def test_the_encoders_leave_when_everything_is_encoded(world, monkeypatch, tmp_path):
    """Catches two networks that hold the device's memory for a whole run, and a step that then cannot encode."""
    from blip3o_core.training.data import latent_cache

    monkeypatch.setattr(latent_cache, "_IDLE_STEPS", 2)
    trainer = Trainer(world.config(batch=6, steps=9, cache=str(tmp_path / "cache"), workers=1))
    trainer.train_step()
    assert trainer.images._tokenizer is not None
    trainer.train_step()
    trainer.train_step()
    assert trainer.images._tokenizer is None and trainer.images._autoencoder is None
    shutil.rmtree(tmp_path / "cache")
    trainer.train_step()
    trainer.train_step()
    assert trainer.images._tokenizer is not None
    trainer.close()


def test_strange_files_in_the_run_are_left_alone_or_cleaned(world, tmp_path):
    """Catches a link that is followed when leftovers are deleted, a copy that is resumed from, and a log of garbage."""
    world.train("straight", steps=3)
    world.train(steps=2, save_every=1)
    run, data = tmp_path / "run", make_data(tmp_path / "precious")
    shutil.copytree(run / "step-00000001", run / "step-x")
    (run / ".step-00000009").symlink_to(data)
    (run / ".step-00000008").write_text("a file")
    with open(run / "log.jsonl", "ab") as log:
        log.write(b'\0\0\0\n5\n\xff\xff\n{"loss": 1}\n{"step": 9}\n')
    assert world.train(resume=True, steps=2, save_every=1).name == "step-00000002"
    assert world.train(resume=True, steps=3, save_every=1, final_lr=0.0).name == "step-00000003"
    assert len(list(data.iterdir())) == 7 and (run / "step-x").is_dir()
    assert not list(run.glob(".*"))
    assert [entry["step"] for entry in world.log()] == [1, 2, 3]


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "the disk is full"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
    ],
    ids=["full", "full, as torch says it", "read-only"],
)
def test_a_disk_that_is_full_loses_no_checkpoint(error, reason, world, tmp_path, monkeypatch):
    """Catches half a checkpoint, a traceback, and a last good checkpoint that is deleted for one that is not there."""
    world.train("straight", steps=4)

    def fail(state, path):
        path.write_bytes(b"half")
        raise error

    calls = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *given: (calls.append(1), fail if len(calls) > 1 else save)[1](*given))
    with pytest.raises(
        Blip3oError, match=f"Cannot write .*{reason}.* The last checkpoint is .*step-00000002.*--resume"
    ):
        world.train(steps=4, save_every=2, keep=1)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").glob("*step-*")] == ["step-00000002"]
    resumed = world.train(steps=4, save_every=2, keep=1, resume=True)
    assert world.log() == world.log("straight")
    assert_same_weights(resumed, tmp_path / "straight" / resumed.name)


def test_other_errors_while_saving_are_not_called_a_full_disk(tmp_path):
    """Catches advice to make room for what is a fault of the program."""
    with pytest.raises(RuntimeError, match="shapes"), saving(tmp_path):
        raise RuntimeError("shapes")


def test_a_folder_that_cannot_be_opened_is_no_error(world, tmp_path, monkeypatch):
    """Catches Windows, where os.open of a folder is refused: no run could save its first checkpoint there."""
    real = os.open

    def refuse_folders(path, *given, **named):
        if os.path.isdir(path) and not named:  # shutil.rmtree, which Windows has another of, names dir_fd
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(os, "open", refuse_folders)
    world.train(steps=3, save_every=1, keep=1)
    assert [path.name for path in (tmp_path / "run").glob("*step-*")] == ["step-00000003"]


@pytest.mark.parametrize("out", ["file", "file/run", "/proc/run"], ids=["a file", "below a file", "read-only"])
def test_an_output_that_cannot_be_made_is_said(out, world, tmp_path):
    """Catches a traceback of the system after the model was loaded."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(Blip3oError, match="Cannot write "):
        train(world.config().replace(out=str(tmp_path / out), steps=1))
    assert (tmp_path / "file").read_text() == "x"


def test_a_run_that_is_stopped_saves_and_continues(world, tmp_path):
    """Catches steps that are lost between two checkpoints when a machine is taken away, and steps done twice."""
    world.train("straight", steps=4, ema_decay=0.5)
    seen = []
    watch = Watch(stop=lambda: seen.append(1) or len(seen) == 3)
    stopped = train(world.config(steps=4, ema_decay=0.5), watch=watch)
    assert stopped.name == "step-00000002" and [entry["step"] for entry in world.log()] == [1, 2]
    resumed = world.train(resume=True, steps=4, ema_decay=0.5)
    assert world.log() == world.log("straight")
    assert_same_weights(resumed, tmp_path / "straight" / resumed.name)


def test_a_run_that_is_stopped_at_once_leaves_nothing(world, tmp_path):
    """Catches a checkpoint of step 0."""
    assert train(world.config(steps=4), watch=Watch(stop=lambda: True)) is None
    assert not list((tmp_path / "run").glob("*step-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_first_signal_asks_and_the_second_ends(number, capsys):
    """Catches a run that cannot be ended, one that ends in the middle of a step, and handlers that stay behind."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stopping() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop() and stop.taken and "Stopping after this step" in capsys.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert ended(None, stop) == 128 + number
    finally:
        signal.signal(signal.SIGTERM, before[1])
    assert "Nothing was saved yet. To continue, run the same command with --resume" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_checkpoint_of_the_same_step_is_replaced_whole(tmp_path):
    """Catches a moment in which neither the old nor the new one is there, and two of one step."""
    folder, inputs = RunFolder(tmp_path), run_folder.Inputs("a", "b", 1)
    for content in ("old", "new"):
        with folder.new_checkpoint(3, {}, inputs, keep=2) as staging:
            (staging / "x").write_text(content)
    assert (folder.last / "x").read_text() == "new"
    with pytest.raises(KeyboardInterrupt), folder.new_checkpoint(3, {}, inputs, keep=2) as staging:
        raise KeyboardInterrupt
    assert (folder.last / "x").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_add_references_appears_whole_or_not_at_all(error, tiny, tmp_path, monkeypatch):
    """Catches half a checkpoint that the next try finds "already there"."""
    from blip3o_core.training import edit_checkpoint

    def fail(*given):
        raise error

    source = open_checkpoint(tiny)
    monkeypatch.setattr(edit_checkpoint, "write_json", fail)
    with pytest.raises((Blip3oError, KeyboardInterrupt), match="^$|No space"):
        edit_checkpoint.add_references(source, tmp_path / "a" / "edit", True, False)
    assert not list((tmp_path / "a").iterdir())
    monkeypatch.undo()
    edit_checkpoint.add_references(source, tmp_path / "a" / "edit", True, False)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["edit"]
    assert open_checkpoint(tmp_path / "a" / "edit").reference_mode.cross


def test_a_batch_that_is_too_large_is_a_sentence(world, monkeypatch):
    """Catches the allocator's traceback; the message names the settings that need less memory."""

    def allocate(*given):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: 8 TB")

    monkeypatch.setattr(Trainer, "train_step", allocate)
    with pytest.raises(Blip3oError, match="Step 1 needs more memory than there is: .*Set batch lower"):
        world.train()
