"""One real server for the whole session: ComfyUI takes seconds to start, and tests share it as users' tabs would."""

import pytest


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    from tools.comfyui.server import Server

    with Server(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as connected:
        yield connected
