"""`blip3o queue` against a real server: images of a table, resumed, with a row that fails, and cancelled."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from blip3o_core.cli.main import main
from tests.support.paths import TOP
from tools.comfyui.graphs import text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


class Place:
    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        self.workflow, self.table = folder / "workflow.json", folder / "table.csv"

    def write(self, graph: dict, rows: list[dict]) -> None:
        graph.pop("latents", None)
        self.workflow.write_text(json.dumps(graph))
        with open(self.table, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    def words(self, server) -> list[str]:
        words = ["queue", self.table, "--workflow", self.workflow, "--out", self.out]
        return [*map(str, words), "--server", f"http://{server.address}"]


def test_a_table_is_made_resumed_and_a_wrong_row_costs_only_itself(server, client, place, capsys):
    """Catches rows that are mixed up, made twice, or lost with a wrong one; and a server of which nothing is said."""
    place.write(text_to_image(), [{"prompt": f"fox {k}", "generate.seed": k, "name": f"fox-{k}"} for k in range(3)])
    assert main(place.words(server)) == 0
    assert sorted(path.name for path in place.out.iterdir()) == ["fox-0.png", "fox-1.png", "fox-2.png"]
    for k in range(3):
        with Image.open(place.out / f"fox-{k}.png") as image:
            assert json.loads(image.text["prompt"])["generate"]["inputs"]["prompt"] == f"fox {k}"
    before = {path.name: path.read_bytes() for path in place.out.iterdir()}
    (place.out / "fox-1.png").unlink()
    (place.out / "fox-2.png").write_bytes(before["fox-2.png"][:-40])  # cut short
    capsys.readouterr()
    client.free()  # what is made again, is computed again: the same bytes
    assert main(place.words(server)) == 0
    said = capsys.readouterr()
    assert sorted(map(os.path.basename, said.out.split())) == ["fox-1.png", "fox-2.png"]
    assert "skipped 1 of 3" in said.err
    assert {path.name: path.read_bytes() for path in place.out.iterdir()} == before

    place.write(text_to_image(prompt=" "), [{"prompt": "a", "name": "a"}])
    place.table.write_text("prompt,name\na,a\n,b\nc,c\n")
    assert main(place.words(server)) == 1
    said = capsys.readouterr()
    assert "b: BLIP3oTokenGenerator failed: The prompt is ' '" in said.err and "1 of 3 rows failed" in said.err
    assert {path.name for path in place.out.iterdir()} >= {"a.png", "c.png"}


def test_images_are_uploaded_and_a_refusal_is_in_the_servers_words(server, place, capsys):
    """Catches an edit of the server's own example image, and a refusal that names no node."""
    for k, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (16, 16), colour).save(place.folder / f"{k}.png")
    graph = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "none.png"}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["load", 0], "filename_prefix": "copy"}},
    }
    place.write(graph, [{"image": "0.png"}, {"image": "1.png"}])
    assert main(place.words(server)) == 0
    for k, colour in enumerate([(255, 0, 0), (0, 0, 255)]):
        with Image.open(place.out / f"0000{k}.png") as image:
            assert image.convert("RGB").getpixel((3, 3)) == colour
    place.write({**graph, "save": {"class_type": "SaveImage", "inputs": {"images": ["load", 7]}}}, [{"image": "0.png"}])
    assert main(place.words(server)) == 1
    assert "node save (SaveImage)" in capsys.readouterr().err
    assert main([*place.words(server)[:-1], "http://127.0.0.1:9"]) == 1
    assert "Start ComfyUI" in capsys.readouterr().err


def test_ctrl_c_takes_the_prompts_off_the_server(server, client, place, long_checkpoint):
    """Catches a cancelled run that keeps the server busy for hours."""
    place.write(text_to_image("long"), [{"prompt": f"fox {k}"} for k in range(5)])
    command = [sys.executable, "-m", "blip3o_core", *place.words(server)]
    process = subprocess.Popen(command, cwd=TOP, stderr=subprocess.PIPE, text=True)
    try:
        while not client.get("/queue").json()["queue_running"]:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Cancelled. The server was told" in process.stderr.read()
        while (queue := client.get("/queue").json())["queue_running"]:
            time.sleep(0.1)
        assert queue["queue_pending"] == [] and not list(place.out.glob("*.png"))
    finally:
        process.kill()
        process.stderr.close()
        process.wait()
