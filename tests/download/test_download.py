"""`blip3o download` against a real server on this machine: whole files under their names, or a sentence."""

import errno
import json
import os

import huggingface_hub.file_download
import pytest

from blip3o_core.cli import download as command
from blip3o_core.cli.main import main
from blip3o_core.download import hub as library
from blip3o_core.download.place import models_folder
from blip3o_core.download.published import PUBLISHED, download_line, find_published
from tests.support.hub import Hub

NAME, SHARD = "BLIP3o-NEXT-SFT-3B", "model-00001-of-00001.safetensors"
FILES = {
    SHARD: os.urandom(300_000),
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "config.json": b"{}",
    "tokenizer.json": b"[1]",
    "training_args.bin": b"a pickle that nobody asked for",
    "README.md": b"card",
}
WANTED = FILES.keys() - {"training_args.bin", "README.md"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    # What is read at once is lost in a cut: 10 MB, and these files are small.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    with Hub(dict(FILES)) as running:
        yield running


@pytest.fixture
def fetch(hub, tmp_path):
    def run(*words: str) -> int:
        return main(["download", NAME, "--to", str(tmp_path / "models"), "--endpoint", hub.url, *words])

    return run


@pytest.fixture
def target(tmp_path):
    return tmp_path / "models" / NAME


def content(folder) -> dict[str, bytes]:
    """Every file under its final name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.exists() else {}


def error_of(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("redirect", [False, True])
def test_a_download_is_whole(redirect, hub, fetch, target, capsys):
    """Catches a file that is missing, not wanted or left beside the others, and a redirect that is not followed."""
    hub.redirect = redirect
    assert fetch("--yes") == 0
    assert content(target) == {name: FILES[name] for name in WANTED}
    assert not (target / ".download").exists()
    said = capsys.readouterr()
    assert said.out.strip() == str(target)
    assert all(word in said.err for word in (f"BLIP3o/{NAME}", "apache-2.0", "0.3 MB", str(target)))
    hub.requests.clear()
    assert fetch("--yes") == 0 and hub.requests == []  # nothing is fetched twice


def test_a_cut_connection_resumes(hub, fetch, target):
    """Catches a download that begins anew, or a cut file under its final name."""
    hub.cut, hub.cuts = {SHARD: 100_000}, 1
    assert fetch("--yes") == 0
    assert content(target)[SHARD] == FILES[SHARD]
    assert [asked for name, asked in hub.requests if name == SHARD] == [None, "bytes=100000-"]


def test_the_next_run_resumes(hub, fetch, target, capsys):
    """Catches gigabytes lost with the process, and a checkpoint listed before it is whole."""
    real = hub._send_file

    def first_part_only(request, name, path):
        hub.cut = {SHARD: 100_000 if request.headers.get("Range") is None else 0}
        return real(request, name, path)

    hub._send_file = first_part_only
    assert fetch("--yes") == 1
    assert "Run the same command again to resume" in error_of(capsys)
    assert content(target) == {}
    hub._send_file, hub.cut = real, {}
    hub.requests.clear()
    assert fetch("--yes") == 0
    assert content(target)[SHARD] == FILES[SHARD]
    assert [asked for name, asked in hub.requests if name == SHARD] == ["bytes=100000-"]


@pytest.mark.parametrize("cuts", [1, 10**6], ids=["the same run", "the next run"])
def test_a_server_that_knows_no_ranges(cuts, hub, fetch, target):
    """Catches a whole file written behind the part that was there, and a run that never gets past its part."""
    hub.ranges, hub.cut, hub.cuts = False, {SHARD: 100_000}, cuts
    assert fetch("--yes") == (0 if cuts == 1 else 1)
    hub.cut = {}
    assert fetch("--yes") == 0
    assert content(target)[SHARD] == FILES[SHARD]
    assert "bytes=100000-" in [asked for name, asked in hub.requests if name == SHARD]


def test_the_token_is_the_hubs_alone(hub, fetch, target, capsys, monkeypatch):
    """Catches a token sent to the host that a redirect names, a gated checkpoint asked for without it, and a token that
    a message shows."""
    monkeypatch.setenv("HF_TOKEN", "hf_nobodysbusiness")
    with Hub(dict(FILES)) as elsewhere:
        hub.redirect = elsewhere.url
        assert fetch("--yes") == 0 and content(target) == {name: FILES[name] for name in WANTED}
    assert set(hub.tokens) == {"Bearer hf_nobodysbusiness"} and set(elsewhere.tokens) == {None}
    # The first: nobody is at the address that the redirect names.
    for fault, value in (("redirect", "http://127.0.0.1:9"), ("gone", {SHARD}), ("status", 403), ("gated", True)):
        setattr(hub, fault, value)
        (target / SHARD).unlink(missing_ok=True)
        assert fetch("--yes") == 1
    said = capsys.readouterr()
    assert "nobodysbusiness" not in said.out + said.err


def test_a_token_that_cannot_be_sent_is_named(fetch, capsys, monkeypatch):
    """Catches "Check the network" for a token that was copied with a letter too many."""
    monkeypatch.setenv("HF_TOKEN", "hf_nobodys\u00e9")
    assert fetch("--yes") == 1
    said = error_of(capsys)
    assert "HF_TOKEN" in said and "Copy the token again" in said and "nobodys" not in said


def test_a_wrong_checksum_leaves_nothing(hub, fetch, target, capsys):
    """Catches a damaged file taken for a whole one because its size is right."""
    hub.wrong_checksum = True
    assert fetch("--yes") == 1
    assert f"{SHARD} does not have the size and checksum" in error_of(capsys)
    assert content(target) == {} and not (target / ".download").exists()


def test_a_damaged_file_is_fetched_again(hub, fetch, target):
    """Catches a file of the right size believed, and whole ones fetched with it."""
    assert fetch("--yes") == 0
    (target / SHARD).write_bytes(bytes(len(FILES[SHARD])))
    hub.requests.clear()
    assert fetch("--yes") == 0
    assert [name for name, _ in hub.requests] == [SHARD]
    assert content(target)[SHARD] == FILES[SHARD]


@pytest.mark.parametrize("words", [["--yes"], []])
def test_a_full_disk_is_seen_before_the_download(words, hub, fetch, target, capsys, monkeypatch):
    """Catches hours of download that end at the last gigabyte, and a question before it is known that there is room."""
    monkeypatch.setattr(library, "free_space", lambda _: library.SPARE + len(FILES[SHARD]) // 2)
    assert fetch(*words) == 1
    assert "The download needs" in error_of(capsys)
    assert hub.requests == [] and content(target) == {}


def test_a_disk_that_fills_up_meanwhile(hub, fetch, target, capsys, monkeypatch):
    """Catches a library's error, and a part of a file under its final name."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    assert fetch("--yes") == 1
    assert "is full. Free some space. Run the same command again to resume" in error_of(capsys)
    assert content(target) == {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 404}, "it is not there, or it needs a token"),
        ({"gated": True}, "Accept its terms at"),
        ({"files": {"README.md": b"card"}}, "has no weights that this program can load"),
        ({"gone": {SHARD}}, "has no such file"),
    ],
    ids=str,
)
def test_what_a_server_refuses(fault, words, hub, fetch, target, capsys):
    """Catches a trace of the library's where a sentence belongs."""
    for name, value in fault.items():
        setattr(hub, name, value)
    assert fetch("--yes") == 1
    assert words in error_of(capsys)
    assert content(target) == {}


def test_nobody_is_there(tmp_path, capsys):
    """Catches a trace where there is no network."""
    assert main(["download", NAME, "--yes", "--to", str(tmp_path), "--endpoint", "http://127.0.0.1:9"]) == 1
    assert "Check the network or choose another --endpoint" in error_of(capsys)


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_nothing_is_fetched_unasked(words, hub, fetch, target, capsys):
    """Catches a download that begins without a yes."""
    assert fetch(*words) == (0 if words else 1)
    assert hub.requests == [] and not target.exists()
    assert words or "Add --yes" in error_of(capsys)


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("no", 1), ("", 1)])
def test_the_answer_counts(answer, status, fetch, target, monkeypatch):
    """Catches an answer that is not heard."""
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert fetch() == status
    assert bool(content(target)) == (status == 0)


def test_the_list_asks_no_server(capsys, monkeypatch):
    """Catches a network asked where nobody wanted it, and a checkpoint that is not listed."""
    monkeypatch.setattr(library, "ask", None)
    assert main(["download", "--list"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == [each.name for each in PUBLISHED]


@pytest.mark.parametrize(("words", "said"), [([], "NAME is missing"), (["blip3o-next-sft-3"], f"Did you mean {NAME}")])
def test_a_name_that_is_wrong_is_told(words, said, capsys):
    """Catches a usage wall where a name belongs."""
    assert main(["download", *words]) in (1, 2)
    assert said in error_of(capsys)


@pytest.mark.parametrize("name", ["../model.safetensors", "model/../../x.safetensors", "model..\\..\\x.safetensors"])
def test_a_name_that_leads_out_of_the_folder_is_not_fetched(name):
    """Catches a server that writes where it likes."""
    assert find_published("BLIP3o-NEXT-SFT-3B").wants("model-1.safetensors")
    assert not find_published("BLIP3o-NEXT-SFT-3B").wants(name)


def test_the_line_names_the_checkpoint_of_a_folder():
    """Catches a line that downloads another checkpoint than the one that is missing."""
    assert download_line(f"a/{NAME.lower()}/") == f"blip3o download {NAME}"
    assert download_line("mine") == "blip3o download --list"


def test_the_models_folder_is_comfyuis(tmp_path, monkeypatch):
    """Catches ten gigabytes that ComfyUI does not find."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    assert models_folder() == tmp_path / "models/blip3o"
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "models").mkdir(parents=True)
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert models_folder() == comfyui / "models/blip3o"
    extra = {"disk": {"base_path": str(tmp_path / "disk"), "blip3o": "blip\nother"}}
    (comfyui / "extra_model_paths.yaml").write_text(json.dumps(extra))
    assert models_folder() == tmp_path / "disk/blip"
