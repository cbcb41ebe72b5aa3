"""Several clients at once, one that goes away, and two servers on one model folder: everybody gets their own image."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tools.comfyui.graphs import equal, latents, text_to_image
from tools.comfyui.server import Server

pytestmark = [pytest.mark.usefixtures("checkpoint")]
CLIENTS = 6


def graph(k: int, **changes) -> dict:
    return text_to_image(prompt=f"fox number {k}", seed=900 + k, noise_seed=900 + k, **changes)


@pytest.fixture(scope="module")
def alone(server):
    """The latents of each client's graph, drawn one after the other."""
    with server.client() as client:
        drawn = [latents(server, client.run(graph(k))) for k in range(CLIENTS)]
        client.free()
    return drawn


def test_six_clients_at_once_get_their_own_previews_and_images(server, alone):
    """Catches previews and images that reach another client, and runs that change each other."""
    ready = threading.Barrier(CLIENTS)

    def one(k: int):
        with server.client() as client:
            ready.wait()
            id, seen = client.queue(graph(k)), []
            result = client.wait(id, on_event=lambda kind, data: seen.append((kind, data)))
            previews = [data.metadata.get("prompt_id") for kind, data in seen if kind == "preview"]
            return equal(latents(server, result), alone[k]), set(previews) == {id}, len(previews)

    with ThreadPoolExecutor(CLIENTS) as pool:
        results = list(pool.map(one, range(CLIENTS)))
    assert all(same and own for same, own, _ in results), results
    assert len({count for *_, count in results}) == 1, results


def test_an_interrupt_ends_one_prompt_and_the_next_is_right(server, alone, long_checkpoint):
    """Catches an interrupt that leaves something behind in a model, or that reaches the prompt of another client."""
    with server.client() as first, server.client() as second:
        stopped = []
        second.free()  # so that nothing is drawn from ComfyUI's cache

        def stop(kind, data):
            if kind == "progress_state" and not stopped:
                stopped.append(first.interrupt())

        long = first.queue(text_to_image("long", seed=77))
        short = second.queue(graph(2))
        assert first.wait(long, on_event=stop).status == "interrupted"
        assert equal(latents(server, second.wait(short)), alone[2])


@pytest.mark.long
def test_a_client_that_goes_away_stops_nobody(server, alone, long_checkpoint):
    """Catches previews for a closed connection that end the server or the queue; the run goes on without its client."""
    gone = server.client()
    gone.free()
    started = threading.Event()
    id = gone.queue(text_to_image("long", seed=78))
    watcher = threading.Thread(target=lambda: _until(gone, id, started), daemon=True)
    watcher.start()
    assert started.wait(120)
    gone.close()
    watcher.join(30)
    with server.client() as client:
        assert equal(latents(server, client.run(graph(3), timeout=300)), alone[3])
        assert client.history(id)["status"]["status_str"] == "success"


def _until(client, id: str, started: threading.Event) -> None:
    """Follows a prompt until its first preview."""

    class Enough(Exception):
        pass

    def stop(kind, _):
        if kind == "preview":
            started.set()
            raise Enough

    try:
        client.wait(id, on_event=stop)
    except Enough:
        pass


@pytest.mark.long
@pytest.mark.slow
def test_two_servers_on_one_model_folder(server, alone, tmp_path):
    """Catches files that a server writes beside the models, or reads while the other one does."""
    (tmp_path / "models").symlink_to(server.base / "models", target_is_directory=True)
    with Server(tmp_path) as other, ThreadPoolExecutor(2) as pool:

        def all_of(one):
            with one.client() as client:
                return [latents(one, client.run(graph(k))) for k in range(2)]

        with server.client() as client:
            client.free()
        for drawn in pool.map(all_of, (server, other)):
            assert all(equal(mine, theirs) for mine, theirs in zip(drawn, alone, strict=False))
