"""Checkpoints for the shared server; the loader lists its folder anew for every prompt."""

import shutil
import textwrap

import pytest

from tests.support.paths import GOLDEN
from tests.support.tiny_checkpoint import Sizes, make_checkpoint

RECORDED = GOLDEN / "checkpoints"


@pytest.fixture(scope="session")
def checkpoints(server):
    """The server's `blip3o` model folder."""
    folder = server.base / "models/blip3o"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoints):
    """The folder of the checkpoint called "tiny"."""
    return make_checkpoint(checkpoints / "tiny")


@pytest.fixture(scope="session")
def edit_checkpoint(checkpoints):
    """ "edit": takes references in cross-attention and beside the noise."""
    switches = ("use_und_image_vae", "use_und_image_vae_as_noise")
    return make_checkpoint(checkpoints / "edit", edit=switches, sizes=Sizes(prompt_limit=400))


@pytest.fixture(scope="session")
def long_checkpoint(checkpoints):
    """ "long": enough tokens that decoding takes seconds, so that a test can interrupt it."""
    return make_checkpoint(checkpoints / "long", sizes=Sizes(grid=50))


@pytest.fixture(scope="session")
def other_checkpoint(checkpoints):
    """ "other": another vocabulary, so its tokens mean nothing to "tiny"."""
    return make_checkpoint(checkpoints / "other", seed=1, sizes=Sizes(codes=80))


@pytest.fixture(scope="session")
def golden(checkpoints):
    """The folder "golden" of the authors' tiny checkpoints: "edit_vae", "t2i" and the configs "sana" that both need.

    Beside it "ta_tok/ta_tok.pth". Copies: what a test writes beside them must not reach the recorded ones.
    """
    for target, names in {"golden": ("edit_vae", "t2i", "sana", "ta_tok"), "": ("ta_tok",)}.items():
        for name in names:
            shutil.copytree(RECORDED / name, checkpoints / target / name, dirs_exist_ok=True)
    return checkpoints / "golden"


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    """A ComfyUI without a server; its base directory is `comfyui.base`."""
    from tools.comfyui.inside import LIBRARIES, Host

    with Host(tmp_path_factory.mktemp("inside"), ready=LIBRARIES) as host:
        yield host


@pytest.fixture
def in_host(comfyui):
    """Runs a function inside that ComfyUI, in a fork of its own."""
    return comfyui.run


@pytest.fixture(scope="session")
def loose_checkpoint(tmp_path_factory):
    """A folder outside every model folder, for tests that need no server. A test that changes it takes a copy."""
    return str(make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny"))


# What a script in ComfyUI starts with: render(model, ...) draws with the stock KSampler, `says` gives the refusal.
TOOLS = """
    import comfy.samplers, importlib, nodes, torch

    def stock(file, name):
        return getattr(importlib.import_module("comfy_extras.nodes_" + file), name)

    def condition(seed, tokens=26, width=40, **more):
        return [[torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed)), more]]

    def render(model, positive=None, negative=None, latent=None, steps=6, sampler="euler", **more):
        latent = {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 8} if latent is None else latent
        pair = positive or condition(1), negative or condition(2)
        with torch.inference_mode():
            return nodes.common_ksampler(model, 3, steps, 2.0, sampler, "simple", *pair, latent, **more)[0]["samples"]

    def says(call):
        try:
            call()
        except Exception as error:
            return type(error).__name__ + ": " + str(error)
        return "nothing"

    model = module(".nodes.host.model").load_diffusion(arguments["folder"], None, "fp32")
"""


@pytest.fixture
def look(comfyui, loose_checkpoint):
    """Runs source text behind TOOLS in ComfyUI; its last line prints JSON."""

    def run(source: str, folder: str = loose_checkpoint):
        return comfyui.run(textwrap.dedent(TOOLS) + "import json\n" + textwrap.dedent(source), folder=folder)

    return run
