"""What once ended the server, or its queue, each on a server of its own, whose death no other test feels."""

import json
import os
import shutil
from pathlib import Path

import pytest

from blip3o_core.checkpoint.bundled import NAME
from tests.support.attacks import BUNDLED, edit_json
from tests.support.tiny_checkpoint import make_checkpoint
from tools.comfyui.graphs import text_to_image, with_ksampler
from tools.comfyui.server import Server

pytestmark = [pytest.mark.host, pytest.mark.long]
SIZE = (64, 64)


def with_bundled_copy(change):
    """`change(folder)` damages a copy of the bundled checkpoint, which is then to make an image."""

    def prepare(models: Path) -> dict:
        change(Path(shutil.copytree(BUNDLED, models / "other")))
        return text_to_image("other", SIZE, steps=2, prompt="a" * 40 + "!")

    return prepare


def with_tokenizer(change):
    """`change(content)` edits the copy's tokenizer.json in place."""

    def rewrite(folder: Path) -> None:
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return with_bundled_copy(rewrite)


def piped(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def endless(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def spaces(models: Path) -> dict:
    make_checkpoint(models / "tiny")
    return text_to_image("tiny", SIZE, prompt="a" + " " * 10_100_000 + "b")


def rows(lines: int, copies: int):
    def prepare(models: Path) -> dict:
        graph = text_to_image(NAME, SIZE, batch=copies, prompt="red circle\n" * lines)
        graph["generate"]["inputs"]["prompt_lines"] = "one per line"
        return graph

    return prepare


def latent(width: int, height: int, sampler: str = "ours"):
    def prepare(models: Path) -> dict:
        graph = text_to_image(NAME, (width, height), steps=2, prompt="a red circle")
        return with_ksampler(graph, 2) if sampler == "KSampler" else graph

    return prepare


CATASTROPHIC = {"Regex": r"(a+)+$|(a*)*b"}
GARBAGE = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
GROWING = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 30}] * 7
KILLERS = {
    "10 million spaces": spaces,
    "a regex that never ends": with_tokenizer(lambda t: t["pre_tokenizer"].update(pattern=CATASTROPHIC)),
    "a broken normaliser": with_tokenizer(lambda t: t.update(normalizer=GARBAGE)),
    "a normaliser that multiplies": with_tokenizer(
        lambda t: t.update(normalizer={"type": "Sequence", "normalizers": GROWING})
    ),
    "ids outside of the embedding": with_tokenizer(lambda t: t["model"]["vocab"].update(red=10**6)),
    "a pipe as config": with_bundled_copy(piped),
    "an endless device as config": with_bundled_copy(endless),
    "a million layers": with_bundled_copy(lambda f: edit_json(f / "config.json", num_hidden_layers=1_000_000)),
    "a nested config": with_bundled_copy(lambda f: (f / "config.json").write_text("[" * 200_000)),
    "1,100 lines": rows(1100, 1),
    "17 lines of 64": rows(17, 64),
    "10,000 lines of 64": rows(10_000, 64),
    "a long latent": latent(16, 16384),
    "a long latent in KSampler": latent(16, 16384, "KSampler"),
    "a huge latent": latent(16384, 16384),
}


@pytest.mark.parametrize("name", KILLERS)
def test_a_killer_is_refused_and_the_server_draws_the_next_image(tmp_path, name):
    """Catches a preview without height (status -6), a panic in the tokenizer, files that are waited for."""
    models = tmp_path / "models/blip3o"
    models.mkdir(parents=True)
    graph = KILLERS[name](models)
    with Server(tmp_path) as server, server.client() as client:
        result = client.run(graph, 60)
        assert result.status == "error", name
        kind, message = result.error["exception_type"], result.error["exception_message"]
        assert kind.endswith("Blip3oError"), f"{kind}: {message[-2000:]}"
        following = client.run(text_to_image(NAME, SIZE, steps=2), 60)
        assert following.status == "success" and server.process.poll() is None
        assert "Exception in thread" not in server.log_text()
