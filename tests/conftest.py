"""What tests share: one real server and one tiny random checkpoint for the whole session.

ComfyUI takes seconds to start, and tests share it as users' tabs would. Tests that change a checkpoint's file work on a
copy of it. Markers come from the folder a test lies in, unless its file sets one of them.
"""

import json
import os
import random
import shutil
import signal
from pathlib import Path

# Before torch is imported, here and in every process that a test starts: with a thread for each core the servers of two
# workers wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.pipeline import Pipeline
from tests.support.paths import TOP
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

PARTS = ("parity", "host", "browser", "gpu")


def pytest_configure(config):
    """A shell's background jobs ignore Ctrl-C, and `nohup` ignores a closed terminal: tests send both signals."""
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the tests marked long: minutes each")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
            if not config.getoption("--long"):
                item.add_marker(pytest.mark.skip(reason="long: run by make test-long"))
        folder = item.path.relative_to(TOP / "tests").parts[0]
        if not any(map(item.get_closest_marker, PARTS)):
            item.add_marker(getattr(pytest.mark, folder if folder in PARTS else "core"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    from tools.comfyui.server import Server

    with Server(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as connected:
        yield connected


class Copy:
    """A checkpoint folder of a test's own, in a parent folder of its own: siblings are looked into when opening."""

    def __init__(self, source: Path, parent: Path):
        self.folder = Path(shutil.copytree(source, parent / "model"))
        self.weights = self.folder / "model.safetensors"

    def edit_json(self, name: str = "config.json", drop: tuple[str, ...] = (), **changes) -> None:
        path = self.folder / name
        content = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
        path.write_text(json.dumps(content | changes))

    def edit_tensors(self, edit) -> None:
        """`edit(tensors)` changes the dict in place; the file is written again."""
        tensors = load_file(self.weights)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        edit(tensors)
        save_file(tensors, self.weights)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny sums gain nothing from threads, and on a busy machine the threads wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """What a test takes from the global generators it takes again when it runs alone or in another order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def copy(tiny, tmp_path) -> Copy:
    return Copy(tiny, tmp_path)


@pytest.fixture(scope="session")
def checkpoint(tiny):
    return open_checkpoint(tiny)


@pytest.fixture(scope="session")
def pipeline(checkpoint) -> Pipeline:
    """Shared: a test that changes it must undo that (monkeypatch) or work on a deep copy."""
    return Pipeline(checkpoint)


@pytest.fixture(scope="session")
def language(pipeline):
    return pipeline.language


@pytest.fixture(scope="session")
def config(tiny) -> dict:
    return json.loads((tiny / "config.json").read_text())


@pytest.fixture(scope="session")
def tensors(tiny) -> dict:
    """The weights as the file has them, read without the library."""
    return load_file(tiny / "model.safetensors")


@pytest.fixture(scope="session")
def qwen(config, tensors):
    """transformers' own model with the same weights, built without the library."""
    from transformers import Qwen3Config, Qwen3Model

    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    model = Qwen3Model(Qwen3Config(**fields))
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


@pytest.fixture(scope="module")
def training_files(tmp_path_factory):
    """Six captioned pictures, and a cache that the tests of one file fill together."""
    from tests.support.training_world import make_data

    place = tmp_path_factory.mktemp("training")
    return make_data(place / "data"), place / "cache"


@pytest.fixture
def world(tiny, training_files, tmp_path):
    """A folder to train in, with the tiny checkpoint and the pictures."""
    from tests.support.training_world import World

    return World(tiny, *training_files, tmp_path)


@pytest.fixture(scope="session")
def editor(tmp_path_factory) -> Path:
    """With both ways for references; prompts may be longer, for the tokenizer counts bytes."""
    edit = ("use_und_image_vae", "use_und_image_vae_as_noise")
    return make_checkpoint(tmp_path_factory.mktemp("editor") / "model", sizes=Sizes(prompt_limit=400), edit=edit)


@pytest.fixture
def place(tmp_path) -> Path:
    """Where pictures lie: a.png 48x32, b.png 20x30, hole.png a mask for a.png."""
    from PIL import Image

    from tests.support.pictures import noise

    noise(48, 32).save(tmp_path / "a.png")
    noise(20, 30).save(tmp_path / "b.png")
    mask = Image.new("L", (48, 32))
    mask.paste(255, (10, 8, 30, 20))
    mask.save(tmp_path / "hole.png")
    return tmp_path


@pytest.fixture
def faulty(place) -> Path:
    """`place` with files that cannot be edited."""
    from PIL import Image

    (place / "empty.png").touch()
    (place / "text.png").write_text("a picture, said the file")
    whole = (place / "a.png").read_bytes()
    (place / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (20000, 1)).save(place / "wide.png")
    Image.new("RGB", (9, 1)).save(place / "long.png")
    Image.new("L", (48, 32)).save(place / "black.png")
    (place / "list.jsonl").write_text('{"image": "a.png", "instruction": "red"}\n')
    return place


@pytest.fixture
def edit(editor, place):
    """edit with that checkpoint and few steps; {here} is the folder of pictures -> exit status."""
    from blip3o_core.cli.main import main

    def run(*arguments, model=editor) -> int:
        words = [str(argument).replace("{here}", str(place)) for argument in arguments]
        return main(["edit", f"--checkpoint={model}", "--steps=2", "--device=cpu", *words])

    return run
