"""Several clients at one server, and two servers on one model folder: everybody gets their own images and previews."""

import hashlib
import io
import random
import threading
import time

import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from tools.comfyui.graphs import text_to_image
from tools.comfyui.server import Server

pytestmark = [pytest.mark.host, pytest.mark.long]
COLOURS = "red green blue yellow purple orange".split()


def graph(k: int, j: int = 0, **more) -> dict:
    """Image `j` of client `k`."""
    numbers = {"seed": 1000 * k + j, "noise_seed": 1000 * k + j, "steps": 4}
    made = text_to_image(NAME, (64, 64), **{"prompt": f"a {COLOURS[k]} circle", **numbers, **more})
    del made["latents"]
    return made


def digest(client, result) -> str:
    """Of the pixels: the file also holds the prompt."""
    assert result.status == "success", result.error
    pixels = Image.open(io.BytesIO(client.view(**result.images[0]))).tobytes()
    return hashlib.sha256(pixels).hexdigest()


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("clients")) as server:
        yield server


@pytest.fixture(scope="module")
def alone(busy) -> dict:
    """What each image is when nothing else is asked for."""
    with busy.client() as client:
        return {(k, j): digest(client, client.run(graph(k, j))) for k in range(6) for j in range(2)}


def at_once(*works) -> None:
    """Each in a thread of its own; the first error is raised here."""
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_six_clients_get_their_own_images_and_previews(busy, alone):
    """Catches a preview sent to everybody, and an image made from somebody else's prompt."""

    def client_of(k: int):
        def work() -> None:
            with busy.client() as client:
                mine = [client.queue(graph(k, j)) for j in range(2)]
                for j, prompt in enumerate(mine):
                    result = client.wait(prompt, 300)
                    assert digest(client, result) == alone[k, j]
                    assert {preview.metadata.get("prompt_id") for preview in result.previews} <= set(mine)

        return work

    at_once(*map(client_of, range(6)))


def test_an_interrupt_ends_one_prompt_and_changes_no_other(busy, alone):
    """Catches a model that an interrupt leaves half loaded or patched, seen by the prompt behind it."""
    chance = random.Random(5)
    print("random seed 5")
    with busy.client() as first, busy.client() as second:
        for _ in range(8):
            k = chance.randrange(6)
            first.free()
            cut = first.queue(graph(k, seed=chance.randrange(2**60), batch=chance.choice([1, 8, 16]), steps=50))
            behind = second.queue(graph(k))
            time.sleep(chance.uniform(0, 2))
            first.interrupt(cut)
            assert first.wait(cut, 120).status in ("interrupted", "success")
            assert digest(second, second.wait(behind, 120)) == alone[k, 0]


def test_a_client_that_goes_away_stops_nobody(busy, alone):
    """Catches a server that waits for a socket nobody reads."""
    gone = busy.client()
    gone.queue(graph(0, seed=99, batch=8, steps=20))
    time.sleep(0.5)
    gone.close()
    with busy.client() as client:
        assert digest(client, client.run(graph(1), 300)) == alone[1, 0]


def test_two_servers_on_one_model_folder(busy, alone, tmp_path):
    """Catches a lock, or a file written beside the weights, that the other server stumbles over."""
    (tmp_path / "models").symlink_to(busy.base / "models")
    with Server(tmp_path) as other:

        def work(server):
            def run() -> None:
                with server.client() as client:
                    client.free()
                    for k in range(6):
                        assert digest(client, client.run(graph(k), 300)) == alone[k, 0]

            return run

        at_once(work(busy), work(other))
