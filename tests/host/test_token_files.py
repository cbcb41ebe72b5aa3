"""Image tokens in files through ComfyUI: the same image without the prompt, copies of the checkpoint, bad files."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tools.comfyui.graphs import equal, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]
KEEP = {"keep": node("BLIP3oSaveTokens", tokens=["generate", 0], filename_prefix="tokens/test")}


def opened(name: str, checkpoint: str = "tiny") -> dict:
    """The plain graph with the tokens of a file in the place of the Token Generator."""
    graph = text_to_image(checkpoint)
    graph["generate"] = node("BLIP3oLoadTokens", file=name)
    graph["told"] = node("PreviewAny", source=["generate", 1])
    return graph


def pixels(client, result) -> np.ndarray:
    with Image.open(io.BytesIO(client.view(**result.images[0]))) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def saved(server, checkpoint):
    """(the finished run, the saved file, its name in the list)."""
    with server.client() as client:
        result = client.run(text_to_image(batch=2) | KEEP, extra_pnginfo={"workflow": {"nodes": "all of them"}})
    assert result.status == "success", result.error
    place = result.outputs["keep"]["tokens"][0]
    name = f"{place['subfolder']}/{place['filename']}"
    return result, Path(server.base, "output", name), f"{name} [output]"


def test_a_saved_file_renders_the_same_image(client, server, saved):
    """Catches codes, states, seeds or prompts that do not survive the file: another image, or none."""
    before, file, name = saved
    assert name in client.object_info("BLIP3oLoadTokens")["BLIP3oLoadTokens"]["input"]["required"]["file"][1]["options"]
    after = client.run(opened(name))
    assert equal(latents(server, after), latents(server, before))
    assert np.array_equal(pixels(client, after), pixels(client, before))
    assert after.outputs["told"]["text"][0].splitlines()[1:] == [f"seed {k}: a red fox in the snow" for k in (5, 6)]
    assert before.outputs["keep"]["blip3o_notes"] == [f"Saved as output/tokens/{file.name}."]


def test_a_copy_of_the_checkpoint_uses_the_states_of_the_file(client, server, checkpoint, saved):
    """Catches a file that knows its checkpoint by the name of its folder: the language model would run once more."""
    _, file, name = saved
    shutil.copytree(checkpoint, checkpoint.with_name("copied"), dirs_exist_ok=True)
    own = latents(server, client.run(opened(name, "copied")))
    assert equal(own, latents(server, client.run(opened(name))))
    with safe_open(file, "pt") as source:
        text = source.metadata()
    tensors = load_file(file)
    save_file({**tensors, "hidden": tensors["hidden"] + 1}, server.base / "input/other_states.tokens.safetensors", text)
    changed = latents(server, client.run(opened("other_states.tokens.safetensors", "copied")))
    assert not equal(changed, own), "the states of the file are not used"


def test_another_run_gets_another_file_and_the_workflow(client, saved):
    """Catches a file that is overwritten, and one that nobody can find the workflow of."""
    _, file, _ = saved
    before = file.read_bytes()
    result = client.run(text_to_image(seed=8) | KEEP)
    assert result.outputs["keep"]["tokens"][0]["filename"] != file.name and file.read_bytes() == before
    with safe_open(file, "pt") as source:
        text = source.metadata()
    assert json.loads(text["workflow"]) == {"nodes": "all of them"}
    assert json.loads(text["prompt"])["generate"]["class_type"] == "BLIP3oTokenGenerator"
    assert not list(file.parent.glob(".*"))


def test_a_file_that_changed_is_read_again(client, server, saved):
    """Catches a cache that knows a file by its name: the old image would appear under the new one's name."""
    other = client.run(text_to_image(seed=9) | KEEP).outputs["keep"]["tokens"][0]["filename"]
    shutil.copy(saved[1], server.base / "input/same.tokens.safetensors")
    client.run(opened("same.tokens.safetensors"))
    assert "generate" in client.run(opened("same.tokens.safetensors")).cached
    shutil.copy(saved[1].with_name(other), server.base / "input/same.tokens.safetensors")
    assert "generate" in client.run(opened("same.tokens.safetensors")).executed


BAD = {
    "absent.tokens.safetensors": "Cannot find the file 'absent.tokens.safetensors' with image tokens.",
    "../models/x.tokens.safetensors": "Cannot find the file",
    "../models/blip3o/tiny/model.safetensors": "must end with .tokens.safetensors",
    "cut.tokens.safetensors": "cut.tokens.safetensors",
    "noise.tokens.safetensors": "noise.tokens.safetensors",
    "foreign.tokens.safetensors": "holds no image tokens. Choose a file of BLIP3o Save Tokens.",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_told_in_a_sentence(client, server, checkpoint, saved, name):
    """Catches a stack trace, a file outside of the folders that is read, and half a file taken for a whole one."""
    folder = server.base / "input"
    (folder / "cut.tokens.safetensors").write_bytes(saved[1].read_bytes()[:-9])
    (folder / "noise.tokens.safetensors").write_bytes(np.random.default_rng(0).bytes(3000))
    shutil.copy(checkpoint / "model.safetensors", folder / "foreign.tokens.safetensors")
    error = client.run(opened(name)).error
    assert error["node_id"] == "generate" and error["exception_type"] == "Blip3oError", error
    assert BAD[name] in error["exception_message"] and len(error["exception_message"]) < 500


@pytest.mark.parametrize("prefix", ["../outside", "", "a\0b"])
def test_a_prefix_outside_of_the_output_folder_is_refused(client, server, prefix):
    """Catches a workflow from the net that writes where it likes."""
    graph = text_to_image() | {"keep": node("BLIP3oSaveTokens", tokens=["generate", 0], filename_prefix=prefix)}
    error = client.run(graph).error
    assert error["exception_type"] == "Blip3oError" and "such as 'saved/BLIP3o'" in error["exception_message"]
    assert not list(server.base.glob("outside*"))


def test_metadata_can_be_left_out(in_host):
    """Catches a workflow in a file although ComfyUI was started with --disable-metadata."""

    def look(module):
        from types import SimpleNamespace

        from comfy.cli_args import args

        metadata = module(".nodes.host.saving")._metadata
        hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {}})
        kept = metadata(hidden)
        args.disable_metadata = True
        return [kept, metadata(hidden), metadata(None)]

    kept, *left_out = in_host(look)
    assert kept == {"prompt": '{"1": {}}', "workflow": "{}"} and left_out == [{}, {}]


def test_two_runs_at_once_get_two_files(in_host):
    """Catches a file that is overwritten because another run took its number after ComfyUI looked."""

    def look(module):
        from pathlib import Path

        import folder_paths
        import torch

        image_tokens, vocabulary = module(".blip3o_core.tokens.image_tokens"), module(".blip3o_core.prompts.vocabulary")
        codes = torch.arange(4)[None]
        tokens = image_tokens.ImageTokens(codes, (2, 2), ["a"], None, [0], [4], vocabulary.CodesId(num_codes=9))
        folder = Path(folder_paths.get_output_directory(), "taken")
        folder.mkdir(parents=True)
        (folder / "x_00001_.tokens.safetensors").write_bytes(b"mine")
        folder_paths.get_save_image_path = lambda *_: (str(folder), "x", 1, "taken", "taken/x")
        [place] = module(".nodes.host.token_files").save(tokens, "taken/x", ".tokens.safetensors", None)["tokens"]
        return [place["filename"], (folder / "x_00001_.tokens.safetensors").read_text()]

    assert in_host(look) == ["x_00002_.tokens.safetensors", "mine"]
