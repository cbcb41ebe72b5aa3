"""CONDITIONING in files, inside ComfyUI: the same image afterwards, no key lost, and a refusal by name otherwise."""

import json

import pytest
import torch

from blip3o_core.weights.safetensors_file import read_metadata
from tests.weights.test_nested_file import ATTACKS
from tools.comfyui.graphs import latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]


def saving(**changes):
    """The graph with keys from ComfyUI's own nodes, and both conditionings saved."""
    graph = text_to_image(**changes)
    graph |= {
        "early": node("ConditioningSetTimestepRange", conditioning=["condition", 0], start=0.0, end=0.6),
        "area": node("ConditioningSetAreaPercentage", conditioning=["condition", 0], width=0.5, height=1.0, x=0.0,
                     y=0.0, strength=0.7),
        "both": node("ConditioningCombine", conditioning_1=["early", 0], conditioning_2=["area", 0]),
        "positive": node("BLIP3oSaveConditioning", conditioning=["both", 0], filename_prefix="conditionings/a/plus"),
        "negative": node("BLIP3oSaveConditioning", conditioning=["condition", 1], filename_prefix="negative"),
    }  # fmt: skip
    graph["sample"]["inputs"] |= {"positive": ["positive", 0], "negative": ["negative", 0]}
    return graph


def files_of(result):
    return {id: result.outputs[id]["conditionings"][0] for id in ("positive", "negative")}


def test_a_saved_conditioning_gives_the_same_image(client, server):
    """Catches a key, a dtype or a bit that is lost; files that replace each other; and a model that must be loaded."""
    graph = saving()
    first = client.run(graph)
    saved = files_of(first)
    assert saved["positive"]["subfolder"] == "conditionings/a"
    output = server.base / "output"
    place = output / "conditionings/a" / saved["positive"]["filename"]
    assert json.loads(read_metadata(place)["prompt"])["sample"]["class_type"] == "BLIP3oDiffusionSampler"
    (server.base / "input" / saved["negative"]["filename"]).write_bytes(
        (output / saved["negative"]["filename"]).read_bytes()
    )
    loaded = {name: part for name, part in graph.items() if name in ("load", "empty", "sample", "latents")}
    loaded["positive"] = node(
        "BLIP3oLoadConditioning", file=f"conditionings/a/{saved['positive']['filename']} [output]"
    )
    loaded["negative"] = node("BLIP3oLoadConditioning", file=saved["negative"]["filename"])
    listed = client.object_info()["BLIP3oLoadConditioning"]["input"]["required"]["file"]
    options = listed[1].get("options", listed[0])
    assert all(loaded[name]["inputs"]["file"] in options for name in ("positive", "negative"))
    again = client.run(loaded)
    assert torch.equal(latents(server, again), latents(server, first))
    graph["positive"]["inputs"]["conditioning"] = ["early", 0]
    second = files_of(client.run(graph))["positive"]["filename"]
    assert second != saved["positive"]["filename"] and place.exists()


def test_files_that_are_no_conditioning_are_named(client, server):
    """Catches a traceback, or a file outside ComfyUI's folders that is read."""
    place = server.base / "input"
    (place / "cut.conditioning.safetensors").write_bytes(b"\x09\0\0\0\0\0\0\0{")
    (server.base / "secret.conditioning.safetensors").write_bytes(b"")
    from tests.support.attacks import write_safetensors

    header, data = ATTACKS["another kind"][0]
    write_safetensors(place / "tokens.conditioning.safetensors", header, data)
    says = {"cut.conditioning.safetensors": "cannot be read as a safetensors file",
            "tokens.conditioning.safetensors": "does not hold conditioning",
            "gone.conditioning.safetensors": "Cannot find the file 'gone",
            "../secret.conditioning.safetensors": "Cannot find the file"}  # fmt: skip
    for name, sentence in says.items():
        graph = text_to_image()
        graph["kept"] = node("BLIP3oLoadConditioning", file=name)
        graph["sample"]["inputs"]["positive"] = ["kept", 0]
        result = client.run(graph)
        assert result.status == "error" and sentence in result.error["exception_message"], name
    graph = saving()
    graph["positive"]["inputs"]["filename_prefix"] = "../out"
    result = client.run(graph)
    assert result.status == "error" and "must name a file in the output folder" in result.error["exception_message"]


def test_conditioning_of_other_models(in_host):
    """Catches a key of another model's conditioning that is lost, and a part that is left out in silence."""

    def look(module):
        from pathlib import Path
        from types import SimpleNamespace

        import comfy.controlnet
        import comfy.hooks
        import node_helpers
        import torch
        from comfy import clip_vision

        files, found = module(".nodes.host.conditioning"), {}
        node = module(".nodes.conditioning_files").SaveConditioning
        hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})
        seen = clip_vision.Output()
        seen.last_hidden_state, seen.image_sizes = torch.randn(1, 5, 8), [(3, 2, 2)]
        flux = [[torch.randn(1, 7, 16).bfloat16(), {"pooled_output": torch.randn(1, 8), "guidance": 3.5,
                 "reference_latents": [torch.randn(1, 4, 2, 2)], "reference_latents_method": "index"}]]  # fmt: skip
        wan = node_helpers.conditioning_set_values(
            [[torch.randn(1, 3, 8), {"pooled_output": None, "attention_mask": torch.ones(1, 3, dtype=torch.long)}]],
            {"clip_vision_output": seen, "concat_latent_image": torch.zeros(1, 4, 1, 2, 2), "frame_rate": 25},
        )
        audio = [[None, {"conditioning_lyrics": torch.randn(1, 2, 4), "seconds_start": 0}], (torch.ones(1, 2), {})]

        torch.Tensor.__repr__ = lambda self: f"{self.dtype} {tuple(self.shape)} {self.double().tolist()}"
        clip_vision.Output.__repr__ = lambda self: f"seen {vars(self)}"

        def saved(conditioning):
            name = files.save(conditioning, "other/x", ".conditioning.safetensors", hidden)
            import folder_paths

            return Path(folder_paths.get_output_directory(), name["subfolder"], name["filename"])

        for name, each in {"flux": flux, "wan": wan, "audio": audio}.items():
            found[name] = repr(files.load(saved(each))) == repr(each)
        found["any model"] = node.ANY_MODEL == ("conditioning",)
        folder, said = saved(flux).parent, {}
        before = len(list(folder.iterdir()))

        def sentence(conditioning):
            try:
                saved(conditioning)
            except module(".blip3o_core.errors").Blip3oError as error:
                return str(error)

        bad = {
            "control": comfy.controlnet.ControlBase(), "hooks": comfy.hooks.HookGroup(),
            "gligen": ("position", object()), "model": torch.nn.Linear(1, 1),
        }  # fmt: skip
        for key, value in bad.items():
            said[key] = sentence([flux[0], [torch.zeros(1, 1, 1), {"fine": 1, key: value}]])
        for wrong in ([], {}, [[1]], "text"):
            said[repr(wrong)] = sentence(wrong)
        found["left"] = len(list(folder.iterdir())) - before
        return [found, said]

    found, said = in_host(look)
    assert found == {"flux": True, "wan": True, "audio": True, "any model": True, "left": 0}
    assert "Entry 1" in said["control"] and "before Apply ControlNet" in said["control"]
    assert "hook nodes" in said["hooks"] and "GLIGENTextBoxApply" in said["gligen"]
    assert "'model'" in said["model"] and "Nothing was saved" in said["model"] and all(said.values())
