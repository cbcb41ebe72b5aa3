"""Where checkpoints are looked for, and what a loader watches."""

import shutil
import subprocess

import pytest

from blip3o_core.checkpoint.bundled import NAME
from tools.comfyui.graphs import SIDE, text_to_image
from tools.comfyui.server import Server


def test_extra_model_paths_are_honoured_and_come_first(in_host, comfyui, loose_checkpoint):
    """Overwriting the category would hide the folder a user named in extra_model_paths.yaml."""

    def look(module, folder):
        from pathlib import Path

        import folder_paths
        from utils.extra_config import load_extra_path_config

        folders = module(".nodes.host.folders")
        errors = module(".blip3o_core.errors")
        empty = folders.checkpoints()
        del folder_paths.folder_names_and_paths["blip3o"]
        yaml = Path(folder_paths.base_path, "extra.yaml")
        yaml.write_text(f"mine:\n  base_path: {Path(folder).parent.parent}\n  blip3o: {Path(folder).parent.name}\n")
        load_extra_path_config(str(yaml))
        folders.register()
        refused = []
        for name in ("../" + Path(folder).parent.name + "/tiny", folder, "absent"):
            try:
                folders.resolve(name)
            except errors.Blip3oError as error:
                refused.append(str(error))
        roots = folder_paths.get_folder_paths("blip3o")
        return [empty, folders.checkpoints(), folders.diffusion_folders(), folders.resolve("tiny"), roots, refused]

    empty, names, diffusion, found, roots, refused = in_host(look, folder=loose_checkpoint)
    assert empty == [NAME] and names == [NAME, "tiny"]
    assert diffusion == ["auto", "tiny/diffusion"] and found == loose_checkpoint
    assert len(roots) == 2 and loose_checkpoint.startswith(roots[0])
    assert roots[1] == str(comfyui.base / "models/blip3o")
    assert len(refused) == 3 and all("models/blip3o" in line and "Put the checkpoint" in line for line in refused)


def test_the_model_folder_is_there_after_a_start(server):
    """Catches a user who reads "put it in models/blip3o" and finds no such folder."""
    assert (server.base / "models/blip3o").is_dir()


def test_a_model_folder_that_cannot_be_made_is_told(in_host):
    """Catches a pack that is not loaded from a disk that may only be read, and "put it there" where no folder is."""

    def look(module):
        import asyncio
        import os

        import folder_paths

        folders = module(".nodes.host.folders")

        def refuse(path, *_, **__):
            raise OSError(30, "Read-only file system", path)

        folder_paths.folder_names_and_paths.pop("blip3o")
        folder_paths.models_dir, os.mkdir, real = "/read-only/models", refuse, os.mkdir
        extension = module("").comfy_entrypoint()
        asyncio.run(extension.on_load())
        nodes, names = len(asyncio.run(extension.get_node_list())), folders.checkpoints()
        said = []
        for resolve in (folders.resolve, folders.resolve_diffusion, folders.resolve_file):
            try:
                resolve("mine")
            except ValueError as error:
                said.append(str(error))
        os.mkdir = real
        return [nodes, names, said]

    nodes, names, said = in_host(look)
    assert nodes and names == [NAME] and len(said) == 3
    why = "ComfyUI cannot make the folder /read-only/models/blip3o: Read-only file system. Make it, or name another"
    assert all(f"in /read-only/models/blip3o. {why}" in line for line in said), said


@pytest.mark.long
def test_a_server_on_a_disk_that_may_only_be_read(tmp_path):
    """Catches a ComfyUI that does not start, or does not draw with the bundled model, because nothing can be written
    beside its models."""
    models = tmp_path / "models"
    models.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(models)]
    if not shutil.which("mount") or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with Server(tmp_path) as server, server.client() as client:
            result = client.run(text_to_image(NAME, size=(SIDE, SIDE)))
            assert result.status == "success" and result.images, result.error
            message = client.run(text_to_image("absent")).error["exception_message"]
        assert f"ComfyUI cannot make the folder {models}/blip3o: Read-only file system." in message
    finally:
        subprocess.run(["umount", "-l", str(models)], check=True)


def test_a_missing_checkpoint_names_the_line_to_type(in_host):
    """Catches a name that is not found with nothing to do about it."""

    def look(module):
        folders, errors = module(".nodes.host.folders"), module(".blip3o_core.errors")
        lines = []
        for name in ("BLIP3o-NEXT-SFT-3B", "mine"):
            try:
                folders.resolve(name)
            except errors.Blip3oError as error:
                lines.append(str(error))
        return lines

    published, other = in_host(look)
    assert published.endswith("-m blip3o_core download BLIP3o-NEXT-SFT-3B")
    assert other.endswith("-m blip3o_core download --list")


def test_the_bundled_model_is_found_and_watched(in_host, loose_checkpoint, tmp_path):
    """Catches a copy without the model that fails in the middle of a run, and weights replaced without a reload."""

    def look(module, folder):
        import os
        from pathlib import Path

        folders = module(".nodes.host.folders")
        bundled = folders.bundled

        def problem_with(name):
            try:
                folders.resolve(name)
            except ValueError as error:
                return str(error)

        bundled.BUNDLED = Path(folder)
        found = folders.resolve(bundled.NAME), problem_with(bundled.NAME)
        before = folders.fingerprint(bundled.NAME)
        os.utime(Path(folder, "model.safetensors"), (1, 1))
        after = folders.fingerprint(bundled.NAME)
        bundled.BUNDLED = Path(folder, "absent")
        missing = problem_with(bundled.NAME), folders.checkpoints()
        return [found, before != after, before == folders.fingerprint(bundled.NAME), missing]

    folder = str(shutil.copytree(loose_checkpoint, tmp_path / "model"))
    found, changed, same, (complaint, names) = in_host(look, folder=folder)
    assert found == [folder, None] and changed and not same
    assert "absent" in complaint and "incomplete" in complaint and names == [NAME]


def test_the_loader_watches_what_it_reads(in_host, loose_checkpoint, tmp_path):
    """Catches .DS_Store that makes everything run again, a shift in the folder beside that is not seen, and a
    checkpoint straight in the models' folder that is called "." or hides the others.
    """

    def look(module, folder, root):
        import json
        import shutil
        from pathlib import Path

        import folder_paths

        folders = module(".nodes.host.folders")

        def problem_with(name):
            try:
                folders.resolve(name)
            except ValueError as error:
                return str(error)

        root = Path(shutil.copytree(folder, root))
        second = Path(shutil.copytree(folder, root / "second"))
        shutil.move(second / "diffusion", root / "beside")
        folder_paths.folder_names_and_paths["blip3o"] = ([str(root)], set())
        names = folders.checkpoints(), folders.diffusion_folders()
        found = folders.resolve(root.name), folders.resolve("second"), folders.resolve_diffusion("beside")
        before = folders.fingerprint("second", "beside")
        for name in (".DS_Store", "README.md", ".git/index"):
            (second / name).parent.mkdir(exist_ok=True)
            (second / name).write_bytes(b"x")
        unrelated = folders.fingerprint("second", "beside") == before
        (root / "beside/scheduler/scheduler_config.json").write_text(json.dumps({"shift": 2.5}))
        shift = folders.fingerprint("second", "beside") != before
        odd = ["a\0b", "x" * 5000, "../second", str(second), "\udcff", "", ".", "late", 7, None]
        said = [problem_with(name) for name in odd]
        (root / "beside/late").mkdir()
        for name in ("config.json", "model.safetensors"):  # the root's own time stays
            (root / "beside/late" / name).touch()
        return [names, found, unrelated, shift, said, problem_with("beside/late")]

    root = str(tmp_path / "models of mine")
    names, found, unrelated, shift, said, late = in_host(look, folder=loose_checkpoint, root=root)
    assert sorted(names[0]) == sorted([NAME, "models of mine", "second"])
    assert set(names[1]) == {"auto", "diffusion", "beside"}
    assert found == [root, f"{root}/second", f"{root}/beside"]
    assert unrelated and shift
    assert all("Cannot find the folder" in line or "does not contain a checkpoint" in line for line in said), said
    assert late is None
