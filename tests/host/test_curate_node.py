"""A folder of images becomes shards to train with, in a graph."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from blip3o_core.shards.read import ShardFolder
from tests.support.curation import CAPTION, encoded, texture
from tools.comfyui.graphs import node

pytest.importorskip("imagehash", reason="the `curate` extra is not installed")
pytest.importorskip("py3langid", reason="the `curate` extra is not installed")
pytest.importorskip("pyarrow", reason="the `curate` extra is not installed")

COUNT = 12
PLANTED = {"sharpness": 1, "side": 1, "duplicate": 1, "without_text": 1, "unreadable": 1}


def write_images(folder: Path) -> None:
    """COUNT images with captions: one blurred, one small, one a copy, one without a caption, one damaged."""
    folder.mkdir(parents=True)
    for number in range(COUNT):
        image = texture(number)
        if number == 3:
            image = image.filter(ImageFilter.GaussianBlur(4))
        elif number == 5:
            image = image.resize((30, 30))
        elif number == 7:
            image = texture(6).resize((60, 60), Image.Resampling.LANCZOS)
        data = encoded(image)
        (folder / f"{number:02d}.png").write_bytes(data[: len(data) // 2] if number == 11 else data)
        if number != 9:
            (folder / f"{number:02d}.txt").write_text(f"{CAPTION}, number {number}")


@pytest.fixture(scope="module")
def images(server):
    folder = server.base / "input/planted/inner"
    write_images(folder)
    return folder


def curating(**changes) -> dict:
    widgets = {
        "folder": "planted/inner", "output_name": "planted", "min_side": 48, "min_sharpness": 20.0,
        "near_duplicates": "drop", "default_caption": "", **changes,
    }  # fmt: skip
    graph = {"curate": node("BLIP3oCurateImages", **widgets)}
    for number, name in enumerate(("shards", "kept", "dropped")):
        graph[name] = node("PreviewAny", source=["curate", number])
    return graph


def test_a_folder_becomes_shards_and_the_node_says_what_was_dropped(client, server, images):
    """Catches a good image that is lost, a planted fault that stays, counts without reasons, a node that shows nothing,
    and a second run with another limit that cannot use the folder of the first."""
    before = sorted(path.name for path in images.iterdir())
    result = client.run(curating(), timeout=120)
    assert result.status == "success", result.error["exception_message"]
    out = server.base / "output/curated/planted"
    assert [result.outputs[name]["text"] for name in ("kept", "dropped")] == [["7"], ["5"]]
    assert result.outputs["shards"]["text"] == [str(out / "shards")] and (out / "report.html").is_file()
    drops = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert {drop["reason"]: 1 for drop in drops} == PLANTED and len(drops) == 5
    folder = ShardFolder(out / "shards")
    kept = [folder.read(0, number).record for number in range(len(folder))]
    assert [one.image for one in kept] == [encoded(texture(number)) for number in (0, 1, 2, 4, 6, 8, 10)]
    said = result.outputs["curate"]["blip3o_notes"]
    assert said[0].startswith("Kept 7 of 12 images. Dropped: ") and "near-duplicate 1" in said[0]
    assert said[1].startswith("Images without a text cannot be trained with.")
    [place] = result.outputs["curate"]["images"]
    with Image.open(io.BytesIO(client.view(**place))) as shown:
        assert shown.width == 640 and len(shown.getcolors(shown.width * shown.height)) > 1000
    assert sorted(path.name for path in images.iterdir()) == before

    result = client.run(curating(near_duplicates="keep", min_sharpness=0.0, min_side=0), timeout=120)
    assert result.outputs["kept"]["text"] == ["10"], result.error


@pytest.mark.long
def test_a_cancelled_curation_resumes_with_the_pieces_that_are_missing(client, server):
    """Catches a cancel that waits for all images, shards that look complete, and pieces that are measured twice."""
    folder, count = server.base / "input/many", 2200  # three pieces
    folder.mkdir()
    data = [encoded(texture(number, 200, 200)) for number in range(4)]
    for number in range(count):
        (folder / f"{number:04d}.png").write_bytes(data[number % 4])
        (folder / f"{number:04d}.txt").write_text(CAPTION)
    graph = curating(folder="many", output_name="many", near_duplicates="keep")
    out = server.base / "output/curated/many"

    def stop(kind, data):
        if kind == "progress" and data["value"] > 0:
            client.interrupt()

    result = client.run(graph, timeout=300, on_event=stop)
    assert result.status == "interrupted" and result.error["node_id"] == "curate"
    done = {path: path.stat().st_mtime_ns for path in (out / "work/features").glob("*.parquet")}
    assert 1 <= len(done) < 3 and not (out / "shards/manifest.json").exists()
    result = client.run(graph, timeout=300)
    assert result.status == "success", result.error["exception_message"]
    assert result.outputs["kept"]["text"] == [str(count)] and len(ShardFolder(out / "shards")) == count
    assert done.items() <= {path: path.stat().st_mtime_ns for path in done}.items()


def test_images_without_a_text_get_the_default_caption(client, server, images):
    """Catches a caption in place of an image's own, and an image that is dropped all the same."""
    result = client.run(curating(output_name="captioned", default_caption=" number %name% "), timeout=120)
    assert result.status == "success", result.error["exception_message"]
    assert result.outputs["kept"]["text"] == ["8"] and len(result.outputs["curate"]["blip3o_notes"]) == 1
    folder = ShardFolder(server.base / "output/curated/captioned/shards")
    texts = [text for (text,) in folder.texts(0)]
    assert texts[:2] == [f"{CAPTION}, number 0", f"{CAPTION}, number 1"] and texts[-2:-1] == ["number 09"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"folder": "../models"}, "Cannot find the folder '../models' in "),
        ({"folder": "/etc"}, "Cannot find the folder '/etc' in "),
        ({"folder": "bare"}, "has no image that can be read. Put images into it"),
        ({"folder": "listed"}, "has lists, parquet files or tars."),
        ({"output_name": "../above"}, "output_name is '../above'. It must name a folder in output/curated"),
        ({"output_name": ".."}, "output_name is '..'. It must name a folder in output/curated"),
        ({"output_name": "link"}, "output_name is 'link'. It must name a folder in output/curated"),
        ({"output_name": "mine"}, "was made from other images. Choose a different name"),
        ({"output_name": "theirs"}, "was made from other images. Choose a different name"),
    ],
    ids=["above", "root", "bare", "list", "name", "dots", "link", "folder", "settings"],
)
def test_a_workflow_reads_and_writes_in_its_folders_alone(client, server, images, tmp_path, changes, sentence):
    """Catches a workflow of a stranger that reads or writes elsewhere, or replaces what somebody made."""
    out = server.base / "output/curated"
    (server.base / "input/bare").mkdir(exist_ok=True)
    (server.base / "input/listed").mkdir(exist_ok=True)
    (server.base / "input/listed/all.jsonl").write_text('{"image": "/etc/secret.png", "caption": "a secret"}\n')
    (out / "mine").mkdir(parents=True, exist_ok=True)
    (out / "mine/kept.txt").write_text("mine")
    (out / "theirs.yaml").write_text(f"sources: [/elsewhere]\nout: {json.dumps(str(out / 'theirs'))}\n")
    (out / "link").unlink(missing_ok=True)
    (out / "link").symlink_to(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    result = client.run(curating(**changes))
    assert result.status == "error" and result.error["node_id"] == "curate"
    assert sentence in result.error["exception_message"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before and not list(tmp_path.iterdir())


def test_a_cancel_ends_the_process_and_missing_packages_are_named(in_host, tmp_path):
    """Catches a process that goes on after a cancel, a failure that is shown as an exit status, and an error about
    packages without the line to type."""
    (tmp_path / "curate.yaml").write_text("")

    def look(module, folder):
        import subprocess
        import sys
        from pathlib import Path

        import comfy.model_management as mm

        curation, child, processes, said = module(".nodes.host.curation"), module(".nodes.host.child"), [], []

        def says(call):
            try:
                call()
            except (ValueError, mm.InterruptProcessingException) as error:
                said.append(str(error) or type(error).__name__)

        def followed(code):
            def start(*_, **streams):
                processes.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, **streams))
                return processes[-1]

            child.start = start
            says(lambda: curation._follow(Path(folder, "curate.yaml")))

        followed("import sys; sys.exit('write: 1/2\\nerror: The disk is full.')")
        mm.interrupt_current_processing()
        followed("import time; time.sleep(600)")
        curation.PACKAGES = ("torch", "no_such_package")
        says(lambda: curation.curate(None))
        return said, processes[-1].returncode

    (failed, cancelled, missing), status = in_host(look, folder=str(tmp_path))
    assert failed == "The curation failed: The disk is full."
    assert cancelled == "InterruptProcessingException" and status == -15
    assert "no_such_package" in missing and "[curate]" in missing and "torch" not in missing.partition(". ")[0]
