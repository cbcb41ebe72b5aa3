"""What the registry and an installer get: complete, small, and it works where nothing else of the project lies."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import tomllib

from tests.support.paths import TOP
from tools.comfyui.server import PACK_FOLDER, Server
from tools.comfyui.workflow import to_prompt
from tools.environment import comfyui_path
from tools.serve import SAMPLE

COMFY = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "node"]
needs_git = pytest.mark.skipif(not (TOP / ".git").exists(), reason="an archive is made of what git knows")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A clone of the last commit, where commands may leave files."""
    folder = tmp_path_factory.mktemp("checkout") / "comfyui-blip3o-next"
    subprocess.run(["git", "clone", "-q", "--shared", str(TOP), str(folder)], check=True)
    return folder


def comfy(words: list[str], place: Path) -> str:
    """A command of comfy-cli, without its questions and without telling anybody -> what it prints."""
    environment = {**os.environ, "DO_NOT_TRACK": "1", "HOME": str(place.parent), "PYTHONPATH": ""}
    done = subprocess.run([*COMFY, *words], cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_list_of_nodes_is_complete():
    """Catches a node that ComfyUI Manager does not know, so that a workflow with it names no pack to install."""
    texts = json.loads((TOP / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    listed = json.loads((TOP / "node_list.json").read_text(encoding="utf-8"))
    assert listed == {name: node["description"] for name, node in sorted(texts.items())}


def test_the_name_is_one_that_the_registry_takes():
    """Catches a name that repeats the host's, and an entry that cannot be changed after the first publication."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    pack = project["tool"]["comfy"]
    assert "comfyui" not in pack["DisplayName"].lower() and pack["PublisherId"] and pack["requires-comfyui"]
    assert project["project"]["name"] == PACK_FOLDER and (TOP / "docs" / "images" / "icon.png").is_file()


@needs_git
@pytest.mark.long
def test_the_registry_finds_nothing_wrong(checkout):
    """Catches a pyproject.toml that would be refused on the day of publication."""
    said = comfy(["validate"], checkout)
    assert "Warning" not in said and "warnings found" not in said and "passed successfully" in said


@needs_git
@pytest.mark.long
def test_the_archive_is_small_and_runs_in_comfyui(checkout, tmp_path):
    """Catches an archive with 23 MB of recorded numbers in it, and one that lacks what a node, a sample or the bundled
    model needs."""
    comfy(["pack"], checkout)
    [archive] = checkout.glob("*.zip")
    pack = tmp_path / "unpacked" / PACK_FOLDER
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        packed.extractall(pack)
    assert archive.stat().st_size < 40e6
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/", "docs/images/"))]
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "node_list.json", "LICENSE"} <= set(names)
    (tmp_path / "base" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "base" / "custom_nodes" / PACK_FOLDER).symlink_to(pack)
    if not (comfyui_path() / "main.py").is_file():
        pytest.skip("there is no ComfyUI")
    with Server(tmp_path / "base") as server, server.client() as client:
        known = client.object_info()
        assert set(json.loads((pack / "node_list.json").read_text(encoding="utf-8"))) <= set(known)
        samples = client.get("/workflow_templates").json()[PACK_FOLDER]
        assert samples and set(samples) == {path.stem for path in (pack / "workflows").glob("*.json")}
        sample = pack / "workflows" / f"{SAMPLE}.json"
        result = client.run(to_prompt(json.loads(sample.read_text(encoding="utf-8")), known), timeout=300)
        assert result.status == "success" and result.images, result.error


@needs_git
@pytest.mark.long
def test_the_wheel_makes_an_image_in_another_folder(checkout, tmp_path):
    """Catches a wheel without the bundled model, and a command that only works beside the sources."""
    pip = [sys.executable, "-m", "pip", "-q"]
    wheels = tmp_path / "wheels"
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(checkout)]
    subprocess.run(build, check=True, timeout=300)
    shutil.rmtree(checkout / "build", ignore_errors=True)
    [wheel] = wheels.glob("*.whl")
    place = tmp_path / "fresh"
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    # The large packages of this environment, behind its own.
    (site / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True, timeout=300)
    work = tmp_path / "elsewhere"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python.with_name("blip3o")), "generate", "--prompt=a red circle", "--steps=2"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{Path('output/00001.png')}\n" and (work / "output" / "00001.png").is_file()
