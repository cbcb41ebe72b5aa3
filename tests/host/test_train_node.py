"""A LoRA is trained by reward in a graph."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import BUNDLED, NAME
from blip3o_core.cli.main import main
from tests.support.loras import write_lora
from tools.comfyui.graphs import node

pytest.importorskip("trl", reason="the `rl` extra is not installed")

SMALL = {"prompts": "a red circle left of a blue star", "reward": "tiny", "updates": 2, "group": 2, "rank": 2}

NUMBERS = {"one": 1, "two": 2}


def training(**changes) -> dict:
    widgets = {**SMALL, "file_name": "small", "seed": 1, "learning_rate": 1e-3, "kl": 0.04, **changes}
    return {
        "load": node("BLIP3oLoader", checkpoint=NAME, dtype="auto"),
        "train": node("BLIP3oTrainLoRA", **{"lm": ["load", 0], **widgets}),
    }


def using(name) -> dict:
    """Tokens with the LoRA that BLIP3o LoRA Loader has from its list, or from the training node."""
    return {
        "lora": node("BLIP3oLoraLoader", lm=["load", 0], lora_name=name, strength=1.0),
        "write": node(
            "BLIP3oTokenGenerator", lm=["lora", 0], prompt="a red circle", seed=1, batch_size=1, sampling="greedy"
        ),
        "info": node("PreviewAny", source=["write", 1]),
    }


def loaded_by_the_cli(server, name: str, out: Path) -> int:
    lora = server.base / "models/loras" / name
    return main(["generate", "--prompt", "a red circle", "--steps", "1", "--lora", str(lora), "--out", str(out)])


def test_a_lora_is_trained_and_loads_wherever_loras_load(client, server, tmp_path):
    """Catches a run that ComfyUI cannot start, a LoRA that is not saved or that a loader refuses, one that takes the
    place of another, and a training that nobody sees."""
    taken = server.base / "models/loras/small"
    taken.mkdir(parents=True)
    name = "small_00002/adapter_model.safetensors"
    graph = training()
    graph["name"] = node("PreviewAny", source=["train", 1])
    graph |= using(["train", 1])
    result = client.run(graph, timeout=300)
    assert result.status == "success", result.error["exception_message"]
    assert result.outputs["name"]["text"] == [name] and not list(taken.iterdir())
    note = result.outputs["train"]["blip3o_notes"][0]
    assert note.startswith(f"Saved as models/loras/{name}. Reward on the prompts to measure with: ")
    [place] = result.outputs["train"]["images"]
    with Image.open(io.BytesIO(client.view(**place))) as shown, Image.open(io.BytesIO(result.previews[0].image)) as one:
        assert shown.width == one.width == 512 and shown.height > 200
    run = Path(server.base, "temp", place["subfolder"], "run")
    assert (run / "report.html").is_file() and not list(run.glob("step-*")) and not (run / "trainer").exists()
    assert client.run({"load": graph["load"], **using(name)}).status == "success"
    assert loaded_by_the_cli(server, name, tmp_path / "a.png") == 0


@pytest.mark.long
def test_a_cancelled_training_keeps_what_was_learnt(client, server, tmp_path):
    """Catches a cancel that waits for the whole run, loses the LoRA, or leaves the process behind."""
    told = []

    def stop(kind, data):
        if kind == "progress" and data["value"] >= 1 and not told:
            told.append(data["value"])
            client.interrupt()

    result = client.run(training(updates=100_000, file_name="cut"), timeout=300, on_event=stop)
    assert result.status == "interrupted" and result.error["node_id"] == "train"
    assert loaded_by_the_cli(server, "cut/adapter_model.safetensors", tmp_path / "a.png") == 0
    assert client.run(training(prompts=" ")).status == "error"  # the next run starts


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": " \n "}, "prompts is empty. Write what the images should show"),
        ({"prompts": "a\n" * 10_001}, "prompts has 10,001 lines, more than 10,000."),
        ({"reward": "train_code.yaml"}, "uses own code"),
        ({"reward": "../secret.yaml"}, "Cannot find the reward '../secret.yaml'"),
        ({"file_name": "../above"}, "file_name is '../above'. It must name a new folder in models/loras"),
        ({"lm": ["lora", 0]}, "lm has a LoRA or another change"),
        ({"reference": ["two", 0]}, "There are 2 reference images for 1 prompts. Connect one for each line"),
        ({"mask": ["white", 0]}, "mask belongs to an edit, but no reference is connected."),
        ({"reference": ["one", 0], "mask": ["white", 0]}, "The mask is 32x64 and the image is 64x64."),
    ],
    ids=["empty", "many", "code", "elsewhere", "name", "lora", "references", "mask", "size"],
)
def test_what_cannot_be_trained_is_told_before_anything_starts(client, server, changes, sentence):
    """Catches a workflow that runs code or writes elsewhere, and a mistake that is found after minutes of loading."""
    folder = server.base / "models/blip3o_rewards"
    folder.mkdir(exist_ok=True)
    (folder / "train_code.yaml").write_text("rewards:\n- {name: mine, use: 'os:getcwd'}\n")
    graph = training(**changes)
    if "lm" in changes:
        write_lora(server.base / "models/loras/before", BUNDLED, 1)
        graph["lora"] = node(
            "BLIP3oLoraLoader", lm=["load", 0], lora_name="before/adapter_model.safetensors", strength=1.0
        )
    graph |= {
        name: node("EmptyImage", width=64, height=64, batch_size=count, color=0) for name, count in NUMBERS.items()
    }
    graph["white"] = node("SolidMask", value=1.0, width=32, height=64)
    before = set(Path(server.base).glob("temp/blip3o_train_*"))
    result = client.run(graph)
    assert result.status == "error" and result.error["node_id"] == "train"
    assert sentence in result.error["exception_message"]
    assert set(Path(server.base).glob("temp/blip3o_train_*")) == before


@pytest.mark.long
def test_edits_are_trained_with_their_references(client, server):
    """Catches references that the training does not see, or that belong to other prompts."""
    graph = training(
        prompts="make the circle blue\n\nmake the background green", reward="consistency", file_name="edit"
    )
    graph["first"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0xFF0000)
    graph["second"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x0000FF)
    graph["both"] = node("ImageBatch", image1=["first", 0], image2=["second", 0])
    graph["left"] = node("SolidMask", value=1.0, width=32, height=64)
    graph["black"] = node("SolidMask", value=0.0, width=64, height=64)
    graph["mask"] = node("MaskComposite", destination=["black", 0], source=["left", 0], x=0, y=0, operation="add")
    graph["train"]["inputs"] |= {"reference": ["both", 0], "mask": ["mask", 0]}
    before = set(Path(server.base).glob("temp/blip3o_train_*"))
    result = client.run(graph, timeout=300)
    assert result.status == "success", result.error["exception_message"]
    [folder] = set(Path(server.base).glob("temp/blip3o_train_*")) - before
    lines = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    pixels = [Image.open(folder / line["references"][0]).getpixel((9, 9)) for line in lines]
    assert pixels == [(255, 0, 0), (0, 0, 255)]
    assert [line["mask"] for line in lines] == ["mask-00001.png"] * 2
    with Image.open(folder / "mask-00001.png") as mask:
        assert (mask.getpixel((9, 9)), mask.getpixel((50, 9))) == (255, 0)
    assert [line["prompt"] for line in lines] == ["make the circle blue", "make the background green"]
    assert "held_out_reward/consistency" in (folder / "run/log.jsonl").read_text()


def test_a_training_that_fails_says_why_in_its_own_words(in_host):
    """Catches a failure that is shown as an exit status, advice that ComfyUI's user cannot follow, a reward that judges
    nothing for hours, and a training that is asked for without its packages."""

    def look(module):
        import subprocess
        import sys
        import tempfile
        from pathlib import Path

        training, child = module(".nodes.host.training"), module(".nodes.host.child")
        logs = module(".nodes.host.training_log")
        said = []

        def says(call):
            try:
                call()
            except ValueError as error:
                said.append(str(error))

        def followed(code, log=""):
            folder = Path(tempfile.mkdtemp())
            (folder / "run").mkdir()
            (folder / "run/log.jsonl").write_text(log)
            run = training.RewardRun(folder, logs.RewardLog(folder / "run", 2))
            command = [sys.executable, "-c", code]
            child.start = lambda *_, **streams: subprocess.Popen(command, stdin=subprocess.PIPE, **streams)
            says(run.follow)
            return run

        followed("import sys; sys.exit('step 1\\nerror: The disk is full. Continue with --resume after that.')")
        followed("import os; os.kill(os.getpid(), 9)")
        looked = '{"step": 0, "held_out_judged/text": 0.0, "held_out_unjudged": 8}\n{"step": 1, "rew'
        said.append(followed("import time; time.sleep(600)", looked).log.warnings)
        training.PACKAGES = ("torch", "no_such_package")
        says(training._require_packages)
        return said

    full, killed, unjudged, warnings, missing = in_host(look)
    assert full == "The training failed: The disk is full."
    assert "ended by signal 9" in killed
    assert unjudged.startswith("The reward has no number for any image, so nothing can be learnt.")
    assert warnings == ["text judges 0% of the prompts: the others do not ask for it."]
    assert "no_such_package" in missing and "[train,rl]" in missing and "torch" not in missing.partition(". ")[0]


def test_a_second_cancel_ends_a_training_that_does_not_listen(in_host):
    """Catches a cancel that ComfyUI's user cannot enforce, and one that is told as an error."""

    def look(module):
        import subprocess
        import sys
        import tempfile
        from pathlib import Path

        import comfy.model_management as mm

        training, child, processes = module(".nodes.host.training"), module(".nodes.host.child"), []
        logs = module(".nodes.host.training_log")
        folder = Path(tempfile.mkdtemp())
        (folder / "run").mkdir()
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"

        def start(*_, **streams):
            processes.append(subprocess.Popen([sys.executable, "-c", deaf], stdin=subprocess.PIPE, **streams))
            return processes[0]

        def cancel():
            if (folder / "output.txt").read_text():
                mm.interrupt_current_processing()
                throw()

        throw, mm.throw_exception_if_processing_interrupted, child.start = (
            mm.throw_exception_if_processing_interrupted, cancel, start
        )  # fmt: skip
        try:
            training.RewardRun(folder, logs.RewardLog(folder / "run", 2)).follow()
        except mm.InterruptProcessingException:
            return processes[0].returncode

    assert in_host(look) == -9
