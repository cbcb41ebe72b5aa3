"""The server of a reward, over real connections: what it answers, what it refuses, and the command that starts it."""

import base64
import io
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import zlib

import pytest
import requests
import torch
from PIL import Image

from blip3o_core.cli.main import main
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.rewards.server import RewardServer
from blip3o_core.rewards.web import NoAnswer
from blip3o_core.rewards.wire import PATH
from tests.support.image_files import chunk
from tests.support.paths import TOP
from tests.support.reward_server import Running, Sums, candidates, client, small
from tests.support.stand_in import ENOUGH


@pytest.fixture
def running():
    with small() as server:
        yield server


def png(width=2, height=2) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_two_clients_and_the_description_meanwhile():
    """Catches numbers that reach another client, and a server that says nothing while it judges."""
    slow = Sums()
    with Running(slow) as server:
        clients, found = [client(server.url) for _ in range(2)], {}
        asked = [candidates("a", "bb"), candidates("ccc")]

        def judge(which):
            found[which] = asked[which].judged_by(clients[which])

        slow.gate.clear()
        threads = [threading.Thread(target=judge, args=(which,)) for which in range(2)]
        for each in threads:
            each.start()
        assert slow.inside.wait(ENOUGH)
        assert requests.get(server.url + PATH, timeout=ENOUGH).json()["name"] == "sums"
        assert not found
        slow.gate.set()
        for each in threads:
            each.join(ENOUGH)
        assert found == {which: asked[which].judged_by(Sums()) for which in range(2)}


def test_more_requests_than_there_is_room_for(running):
    """Catches bodies that fill the memory while one image is judged."""
    for _ in range(8):
        assert running.server.room.acquire(blocking=False)
    answer = running.post({"protocol": 1, "items": []})
    assert answer.status_code == 503 and float(answer.headers["Retry-After"]) > 0
    running.server.room.release()
    assert running.post({"protocol": 1, "items": []}).json() == {
        "protocol": 1,
        "name": "sums",
        "version": "3",
        "values": [],
    }


def test_more_connections_than_there_are_threads_for(running):
    """Catches a thread for each of thousands of connections, and connections that are counted after they ended."""
    for _ in range(100):
        assert requests.get(running.url + PATH, timeout=ENOUGH).status_code == 200
    for _ in range(64):
        assert running.server.connections.acquire(timeout=ENOUGH)
    with pytest.raises(requests.ConnectionError):
        requests.get(running.url + PATH, timeout=ENOUGH)


def item(**changes) -> dict:
    return {"image": png(), "prompt": "a", **changes}


def bomb() -> str:
    """A few bytes that say they are 30,000 x 30,000 pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def hidden(*first: bytes) -> str:
    """A small request that Pillow would unpack to 60,000 pixels, with `first` before its header."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 300, 200, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(901 * 200))) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(first) + head + data).decode()


JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + b"0" * 100).decode()
REFUSED = {
    "images": (413, "5 images; this server takes 4", {"items": [item()] * 5}),
    "pixels": (413, "more than 4,000 pixels", {"items": [item(image=png(50, 30))] * 3}),
    "bomb": (413, "30000x30000", {"items": [item(image=bomb())]}),
    "bomb of a mask": (413, "30000x30000", {"items": [item(mask=bomb())]}),
    "version": (400, "protocol 2; this program speaks 1", {"protocol": 2}),
    "no version": (400, "protocol None", {"protocol": None}),
    "no items": (400, "lacks the list 'items'", {"items": 5}),
    "twice": (400, "twice", b'{"protocol": 1, "protocol": 1}'),
    "no JSON": (400, "cannot be read as JSON", b"{"),
    "pickle": (400, "not UTF-8", b"\x80\x04\x95."),
    "no UTF-8": (400, "not UTF-8", b'"\xff"'),
    "list": (400, "not a JSON object", b"[]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_are_refused(running, name):
    """Catches a request that fills the memory of the server, or gets numbers for something else."""
    status, words, content = REFUSED[name]
    answer = running.post(content if isinstance(content, bytes) else {"protocol": 1, "items": [item()], **content})
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert running.server.part.reward.calls == []


ODD = {
    "jpeg": ({"image": JPEG}, "not a PNG"),
    "half": ({"image": base64.b64encode(base64.b64decode(png(30, 30))[:60]).decode()}, "as an image"),
    "no base64": ({"image": "~~~"}, "not base64"),
    "size behind text": ({"image": hidden(chunk(b"tEXt", struct.pack(">II", 1, 1) + b"k\0v"))}, "not at its beginning"),
    "two sizes": ({"image": hidden(chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)))}, "its size twice"),
    "number": ({"image": 5}, "not base64"),
    "nothing": ({"image": None}, "not base64"),
    "prompt": ({"prompt": None}, "lacks the text 'prompt'"),
    "references": ({"references": "a"}, "'references'"),
    "reference": ({"references": [png(), JPEG]}, "reference 2 of image 2 is not a PNG"),
    "mask": ({"mask": JPEG}, "the mask of image 2"),
    "meta": ({"meta": []}, "'meta'"),
    "field": ({"promt": "a"}, "'promt'"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_in_a_request_costs_only_itself(running, name):
    """Catches a whole group that is lost to one image, and an odd image that gets a number."""
    changes, words = ODD[name]
    answer = running.post({"protocol": 1, "items": [item(), item(**changes), item()]})
    first, odd, last = answer.json()["values"]
    assert first == last and isinstance(first, float)
    assert words in odd["error"]


def test_requests_of_others(running):
    """Catches a page in a browser that uses the server, and bodies whose size nobody knows."""
    body = {"protocol": 1, "items": [item()]}
    assert running.post(body, Origin="http://evil.example").status_code == 403
    assert running.post(body, **{"Content-Type": "text/plain"}).status_code == 415
    assert running.post(b" " * 3 * 2**20).status_code == 413
    chunked = requests.post(
        running.url + PATH, data=iter([b"{}"]), headers={"Content-Type": "application/json"}, timeout=ENOUGH
    )
    assert chunked.status_code == 411
    assert requests.get(running.url + "/", timeout=ENOUGH).status_code == 404
    assert running.server.part.reward.calls == []


def test_a_refusal_is_read_by_those_who_send_first(running):
    """Catches a client that learns only that its connection broke, because the server did not let it finish."""
    body = b" " * 2**24
    head = f"POST {PATH} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(running.server.server_address, ENOUGH) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_left_is_not_judged():
    """Catches a server that judges each image once for every try of a client that waits no longer."""
    slow = Sums()
    with Running(slow) as server:
        slow.gate.clear()
        first = threading.Thread(target=candidates("a").judged_by, args=(client(server.url),))
        first.start()
        assert slow.inside.wait(ENOUGH)
        with pytest.raises(NoAnswer):
            candidates("a", "b").judged_by(client(server.url, timeout=0.1))
        slow.gate.set()
        first.join(ENOUGH)
        candidates("a", "b", "c").judged_by(client(server.url))
    assert slow.calls == [1, 3]


SCORER = """
class Scorer:
    def __init__(self, device):
        assert device == "cpu"
    def __call__(self, image, prompt):
        return 100 * image.getpixel((0, 0))[0] / 255
"""


@pytest.fixture
def example(tmp_path):
    """A folder with the files of the page's example, and a scorer as it names one."""
    page = (TOP / "docs" / "reward_servers.md").read_text(encoding="utf-8")
    code, settings = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("python", "yaml"))
    for name, text in {"geneval.py": code, "geneval.yaml": settings, "my_scorer.py": SCORER}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def judged_at(url) -> dict:
    entry = {"name": "far", "use": "http", "options": {"url": url, "wait": 0.0}}
    asked = Candidates([torch.ones(2, 2, 3), torch.zeros(2, 2, 3)], ["a", "b"])
    return load_rewards([entry], own_code=True).score(asked).parts


def test_the_example_of_the_page(example, monkeypatch, capsys):
    """Catches an example that does not work, and a server that does not end as it should on Ctrl-C."""
    found = []

    def until_cancelled(server, poll_interval):
        thread = threading.Thread(target=socketserver.BaseServer.serve_forever, args=(server, 0.01), daemon=True)
        thread.start()
        found.append(judged_at(server.url))
        server.shutdown()
        raise KeyboardInterrupt

    monkeypatch.chdir(example)
    monkeypatch.syspath_prepend(str(example))
    monkeypatch.setattr(RewardServer, "serve_forever", until_cancelled)
    assert main(["reward-server", "--reward=geneval.yaml", "--port=0"]) == 0
    assert found == [{"far": [1, 0]}]
    said = capsys.readouterr()
    assert said.out.startswith("http://127.0.0.1:") and "has the reward geneval" in said.out
    assert re.fullmatch(r"judged 2 images in .* s\nCancelled. The server no longer answers.\n", said.err)


@pytest.mark.long
def test_signals_end_a_server(example):
    """Catches a server that ends on SIGTERM with a traceback, or not at all."""
    command = [sys.executable, "-m", "blip3o_core", "reward-server", "--reward=geneval.yaml", "--port=0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOP), str(example)])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=example, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert judged_at(process.stdout.readline().split()[0]) == {"far": [1, 0]}
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert (
        process.returncode == 0
        and "judged 2 images" in said
        and said.endswith("Cancelled. The server no longer answers.\n")
    )
    assert "Traceback" not in said and "warning" not in said


def test_wrong_words(capsys, tmp_path, running):
    """Catches a server that starts with another reward than was meant, or says nothing of a port in use."""
    (tmp_path / "two.yaml").write_text("rewards: [tiny, {name: more, use: tiny}]\n")
    port = running.url.rpartition(":")[2]
    for words, expected in {
        "--reward tinny": "Did you mean tiny?",
        f"--reward {tmp_path}/two.yaml": "has 2 rewards",
        f"--reward tiny --port {port}": "Choose another --port or --host.",
        "--reward tiny --host no.such.host.invalid": "Cannot listen at no.such.host.invalid",
    }.items():
        assert main(["reward-server", *words.split()]) in (1, 2)
        assert expected in capsys.readouterr().err
