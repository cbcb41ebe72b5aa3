"""The reward `http` and the server of a reward, over real connections: the reward's own numbers, or a plain reason."""

import base64
import io
import json
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
from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.rewards.mix import Part
from blip3o_core.rewards.remote import HttpReward
from blip3o_core.rewards.server import RewardServer
from blip3o_core.rewards.web import BadAnswer, NoAnswer, Refused
from blip3o_core.rewards.wire import PATH, Limits
from tests.support.image_files import chunk
from tests.support.paths import TOP
from tests.support.stand_in import ENOUGH, StandIn, cut, endless, hangs, says

FACTS = {"protocol": 1, "name": "sums", "version": "3", "range": [None, 100]}


class Sums:
    """Depends on every pixel and word that a reward gets. The prompt "bad" cannot be judged, "none" is not for it."""

    name, version, range = "sums", "3", (-float("inf"), 100.0)

    def __init__(self):
        self.calls, self.gate, self.inside = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, images, prompts, references, masks, meta):
        self.calls.append(len(images))
        self.inside.set()
        self.gate.wait(ENOUGH)
        return [self.value(*row) for row in zip(images, prompts, references, masks, meta, strict=True)]

    def value(self, image, prompt, references, mask, meta):
        if prompt == "none":
            return None
        if prompt == "bad":
            raise ValueError("this one is odd")
        if prompt == "nan":
            return float("nan")
        ramp = torch.arange(image.numel(), dtype=torch.float64).view(image.shape)
        total = (image.double() * ramp).sum() + 3 * sum(each.double().sum() for each in references)
        total += 0 if mask is None else 7 * mask.double().sum()
        return -float(total) - len(prompt) - meta.get("n", 0)


class Running:
    """A reward server in a thread."""

    def __init__(self, reward, limits=Limits()):
        self.server = RewardServer(Part(reward, timeout=ENOUGH), ("127.0.0.1", 0), limits)
        self.url = self.server.url
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def post(self, content, **headers) -> requests.Response:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", **headers}
        return requests.post(self.url + PATH, data=data, headers=headers, timeout=ENOUGH)


@pytest.fixture
def running():
    with Running(Sums(), Limits(images=4, request_bytes=20_000, pixels=4_000)) as server:
        yield server


def noise(height=6, width=5, channels=3):
    return (torch.rand(height, width, channels) * 255).round() / 255


def candidates(*prompts) -> Candidates:
    """Images of several sizes, with and without references and masks, of 8 bits as saved images are."""
    count = len(prompts)
    return Candidates(
        [noise(4 + place, 9 - place) for place in range(count)],
        prompts,
        [[noise(), noise(3, 8)][: place % 3] for place in range(count)],
        [noise(channels=1)[..., 0] if place % 2 else None for place in range(count)],
        [{"n": place, "text": "é\u2028", "list": [1, None]} for place in range(count)],
    )


def client(url, **more) -> HttpReward:
    return HttpReward(url=url, **{"retries": 1, "wait": 0.0, "timeout": ENOUGH, **more})


def png(width=2, height=2) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_numbers_are_those_of_the_reward_itself(running):
    """Catches pixels, prompts, references, masks or meta that are changed on their way, or change places."""
    asked = candidates("a", "bb", "none", "é\u2028\0", "", "a red circle")
    remote = client(running.url)
    local = Sums()
    assert (remote.name, remote.version, remote.range) == (local.name, local.version, local.range)
    values = asked.judged_by(remote)
    assert values == asked.judged_by(local) and values[2] is None and len(set(values)) == 6
    # The server takes four images at once, and its client knows.
    assert running.server.part.reward.calls == [4, 2]
    assert asked.judged_by(client(running.url, batch=3)) == values


def test_images_are_sent_in_requests_that_the_server_takes():
    """Catches a group of large images that is refused though each alone would be judged."""
    with Running(Sums(), Limits(images=8, request_bytes=10**6, pixels=250)) as server:
        asked = Candidates([noise(10, 10)] * 5, ["a"] * 5)
        assert asked.judged_by(client(server.url)) == asked.judged_by(Sums())
        assert server.server.part.reward.calls == [2, 2, 1]
        with pytest.raises(Blip3oError, match="Image 1 .* has 256 pixels .* takes 250 pixels"):
            Candidates([noise(16, 16)], ["a"]).judged_by(client(server.url))


def test_an_image_that_cannot_be_judged_costs_only_itself(running, caplog):
    """Catches fifteen images without a number because of the sixteenth, and a reason that is lost."""
    asked = candidates("a", "bad", "nan", "bb")
    values = asked.judged_by(client(running.url))
    whole = candidates("a", "a", "a", "bb")
    assert values[1:3] == [None, None] and None not in (values[0], values[3]) and len(whole.images) == 4
    assert "could not judge 2 of 4 images. Image 2: " in caplog.text and "this one is odd" in caplog.text
    with pytest.raises(Blip3oError, match="could not judge 1 of 1 images.*this one is odd"):
        candidates("bad").judged_by(client(running.url))


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


def answer(values, **changes):
    return says({**{name: FACTS[name] for name in ("protocol", "name", "version")}, "values": values, **changes})


WRONG = {
    "nan": (answer([float("nan"), 1]), BadAnswer, "nan for image 1"),
    "huge": (answer([10**400, 1]), BadAnswer, "for image 1"),
    "text": (answer([1, "2"]), BadAnswer, "'2' for image 2"),
    "true": (answer([1, True]), BadAnswer, "True for image 2"),
    "few": (answer([1]), BadAnswer, "1 values for 2 images"),
    "none": (answer(None), BadAnswer, "no list 'values' for 2 images"),
    "odd error": (answer([1, {"error": 5}]), BadAnswer, "for image 2"),
    "other version": (answer([1, 2], version="4"), BadAnswer, "version '4'; before.* version '3'"),
    "other protocol": (answer([1, 2], protocol=2), BadAnswer, "protocol 2"),
    "html": (says("<html>"), BadAnswer, "cannot be read as JSON"),
    "endless": (endless, BadAnswer, "more than 1,048,576 bytes"),
    "redirect": (says("", 302, Location="http://elsewhere.example"), Refused, "redirects to http://elsewhere.example"),
    "cut": (cut, NoAnswer, "2 tries"),
    "500": (says("oops", 500), NoAnswer, "status 500: oops .2 tries"),
    "hangs": (hangs, NoAnswer, "did not answer within 0.2 seconds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_named(name):
    """Catches a run that learns from what a broken server says, or waits for it for ever."""
    step, kind, words = WRONG[name]
    with StandIn(says(FACTS), step) as server:
        remote = client(server.url, timeout=0.2 if step is hangs else ENOUGH)
        with pytest.raises(kind, match=words) as error:
            candidates("a", "b").judged_by(remote)
        assert server.url in str(error.value)


DESCRIPTIONS = [{"range": [1, 0]}, {"range": 5}, {"range": [0, True]}, {"name": 5}, {"version": None}, {"protocol": 2}]
DESCRIPTIONS += [{"limits": {"images": 0}}, {"limits": 5}]


@pytest.mark.parametrize("changes", DESCRIPTIONS, ids=str)
def test_wrong_descriptions_are_named(changes):
    """Catches a run that begins with a server that could never have judged."""
    with StandIn(says({**FACTS, **changes})) as server, pytest.raises(BadAnswer):
        client(server.url)


def test_a_server_that_dies_between_two_calls():
    """Catches a dead server that gives numbers, and one that comes back and is not asked again."""
    good = says({**FACTS, "values": [2]})
    with StandIn(says(FACTS), good, cut, cut, says("", 503, Retry_After=0), good) as server:
        remote = client(server.url)
        assert candidates("a").judged_by(remote) == [2]
        with pytest.raises(NoAnswer):
            candidates("a").judged_by(remote)
        assert candidates("a").judged_by(remote) == [2]


def test_a_run_continues_without_a_server_that_died():
    """Catches a run that ends though it was told to continue, or does not say why numbers are missing."""
    entry = {"name": "far", "use": "http", "weight": 2}
    with StandIn(says(FACTS), says(FACTS), says({**FACTS, "values": [2]}), cut) as server:
        options = {"url": server.url, "wait": 0.0, "retries": 0}
        skips, stops = (
            load_rewards([{**entry, "on_error": what, "options": options}], own_code=True) for what in ("skip", "stop")
        )
        found = skips.score(candidates("a")), skips.score(candidates("a"))
        with pytest.raises(Blip3oError, match="Reward 'far' could not judge.*broke off"):
            stops.score(candidates("a"))
    assert [each.parts for each in found] == [{"far": [2]}, {"far": [None]}]
    assert skips.combine(found[1], 1) == [0] and server.url in found[1].problems[0]


def test_what_json_cannot_say_is_named():
    """Catches NaN that is sent as a word no JSON has."""
    with Running(Sums()) as server:
        for odd in ({"n": float("nan")}, {"n": torch.zeros(1)}):
            with pytest.raises(Blip3oError, match="image 1 cannot be sent as JSON"):
                Candidates([noise()], ["a"], meta=[odd]).judged_by(client(server.url))


def test_options_and_names():
    """Catches a misspelt option that is ignored, and a workflow that sends images to an address of its own."""
    with pytest.raises(Blip3oError, match="Did you mean timeout"):
        HttpReward(url="http://127.0.0.1:1", timout=5)
    with pytest.raises(Blip3oError, match="url is missing"):
        HttpReward()
    for name in ("http", "vlm"):
        with pytest.raises(Blip3oError, match="a workflow could come from anybody"):
            load_rewards([{"name": name, "options": {"url": "http://127.0.0.1:1", "model": "a"}}])


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
