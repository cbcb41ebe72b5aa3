"""A list of prompts passes through a graph, and a grid shows what its images are worth."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.seeds import seed_of
from tools.comfyui.graphs import SIDE, node, text_to_image

PROMPTS = "# one\na red circle\n\n# two\na blue star\na green square"


def evaluated(**changes) -> dict:
    """Images of PROMPTS in one step, scored and in a grid; `changes`: other inputs, by node."""
    graph = text_to_image(NAME, (SIDE, SIDE), 1, prompt="", steps=1)
    del graph["save"]
    graph |= {
        "list": node("BLIP3oPromptList", prompts=PROMPTS, file="the prompts above", sample=0, limit=0),
        "score": node("BLIP3oScoreImages", images=["decode", 0], prompt=["list", 0], reward="tiny", weight=1.0),
        "grid": node(
            "BLIP3oEvaluationGrid", images=["decode", 0], prompts=["list", 0], scores=["score", 0],
            categories=["list", 2], columns=2, image_width=96, filename_prefix="evaluated/run",
        ),
        "save": node("SaveImage", images=["grid", 0], filename_prefix="grid"),
        "table": node("PreviewAny", source=["grid", 1]),
    }  # fmt: skip
    graph["generate"]["inputs"] |= {"prompt": ["list", 0], "seed": ["list", 1]}
    for id, inputs in changes.items():
        graph[id]["inputs"] |= inputs
    return graph


def test_every_prompt_has_an_image_a_score_and_its_category(client, server):
    """Catches prompts, images, scores and categories that are paired in another order, a mean over the wrong ones, and
    a file that is lost or overwritten."""
    result = client.run(evaluated())
    assert result.status == "success", result.error
    first, second = (server.base / f"output/evaluated/run_0000{k}_.json" for k in (1, 2))
    found = json.loads(first.read_text(encoding="utf-8"))
    assert [one["prompt"] for one in found["items"]] == ["a red circle", "a blue star", "a green square"]
    assert [one["category"] for one in found["items"]] == ["one", "two", "two"]
    scores = [one["scores"][0] for one in found["items"]]
    assert scores == pytest.approx([float(f"{each:.12g}") for each in scores]) and found["made_by"]["prompt"]
    assert found["means"]["overall"]["mean"] == pytest.approx(np.mean(scores))
    [table] = result.outputs["table"]["text"]
    assert f"| two | {np.mean(scores[1:]):.3f} (" in table and "| **overall** |" in table
    [place] = result.outputs["save"]["images"]
    grid = Image.open(io.BytesIO(client.view(**place)))
    assert grid.width == 2 * (96 + 8) and grid.height > 2 * 96
    # Another width draws again and writes the next file; nothing is generated again.
    again = client.run(evaluated(grid={"image_width": 64}))
    assert again.status == "success" and second.is_file() and "decode" in again.cached


def test_prompts_and_seeds_are_those_of_the_command_line(in_host):
    """Catches seeds that change with the list, other seeds than `blip3o evaluate own` has, and a file read wrongly."""

    def look(module):
        import folder_paths

        evaluation, root = module(".nodes.host.evaluation"), folder_paths.get_input_directory()
        with open(f"{root}/list.jsonl", "w", encoding="utf-8") as file:
            file.write('{"id": "cat", "prompt": "a cat", "category": "animals"}\n{"id": 7, "prompt": "a tree"}\n')
        above = evaluation.prompt_files.NONE
        text = evaluation.list_prompts("# x\n a cat \r\n\r\na tree\n# y\na dog", above, 0, 0)
        return [
            text,
            evaluation.list_prompts("", "list.jsonl", 3, 0),
            evaluation.list_prompts("a\nb\nc", above, 0, 2)[0],
        ]

    text, file, limited = in_host(look)
    assert text[0] == ["a cat", "a tree", "a dog"] and text[2] == ["x", "x", "y"] and limited == ["a", "b"]
    assert text[1] == [seed_of("evaluation", "own", f"{k:05d}", 0) for k in range(3)]
    assert file == [
        ["a cat", "a tree"], [seed_of("evaluation", "own", id, 3) for id in ("cat", "7")], ["animals", ""]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "where", "sentence"),
    [
        ({"list": {"prompts": "# only a category\n"}}, "list", "prompts is empty. Write one prompt on each line"),
        ({"list": {"file": "../secret.txt"}}, "list", "Cannot find the prompt file '../secret.txt' in "),
        ({"list": {"file": "edits.jsonl"}}, "list", "edits.jsonl, line 1 has references."),
        ({"list": {"file": "twice.jsonl"}}, "list", "the id 'a' is that of twice.jsonl, line 1, too."),
        ({"grid": {"images": ["one image", 0]}}, "grid", "prompts has 3 entries and images has 1. Connect"),
    ],
)
def test_what_does_not_fit_is_told(client, server, changes, where, sentence):
    """Catches a workflow that reads a file elsewhere, edits without their references, and labels of other images."""
    inputs = server.base / "input"
    inputs.joinpath("edits.jsonl").write_text('{"prompt": "make it red", "references": "/etc/hostname"}\n')
    inputs.joinpath("twice.jsonl").write_text('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n')
    graph = evaluated(**changes)
    graph["one image"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    if where == "grid":
        del graph["grid"]["inputs"]["scores"]
    error = client.run(graph).error
    assert error["node_id"] == where and sentence in error["exception_message"]


def test_samples_of_a_prompt_count_as_one(in_host):
    """Catches a prompt that counts by its number of images, a missing score that counts as 0, scores of other
    images, and a grid that fills the memory."""

    def look(module):
        import torch

        def fault(call, *inputs):
            try:
                call(*inputs)
            except ValueError as error:
                return str(error)

        evaluation = module(".nodes.host.evaluation")
        images = [torch.rand(2, 64, 48, 3), torch.rand(1, 32, 32, 4)]
        found = evaluation.evaluate(images, ["a", "b"], ["x"], [1.0, 0.0, None])
        means, table = evaluation.summarise(found)
        shape = list(evaluation.draw(found, 3, 64).shape)
        large = evaluation.evaluate([images[1].expand(200, -1, -1, -1)], ["a"], [], None)
        faults = [fault(evaluation.evaluate, images, ["a"], [], [1.0]), fault(evaluation.draw, large, 1, 1024)]
        return means, table, shape, faults

    means, table, shape, (error, too_large) = in_host(look)
    assert too_large.startswith("The grid of 200 images would have 1,024x204,800 pixels, and at most 178 million")
    assert means["overall"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 1} and list(means["categories"]) == ["x"]
    assert "1 of 2 prompts have no score and count in no mean." in table
    assert error.startswith("scores has 1 numbers for 3 images.")
    assert shape[0] == 1 and shape[2] == 3 * (64 + 8) and shape[3] == 3
