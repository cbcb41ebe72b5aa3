"""A folder of images becomes a LoRA in a graph, and the LoRA an image."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import BUNDLED, NAME
from blip3o_core.cli.main import main
from tests.support.training_world import COLOURS, make_data, make_shards
from tools.comfyui.graphs import node
from tools.example_images import COUNT, FOLDER, examples

for package in ("accelerate", "peft", "tensorboard"):
    pytest.importorskip(package, reason="the `train` extra is not installed")
for package in ("imagehash", "py3langid", "pyarrow"):
    pytest.importorskip(package, reason="the `curate` extra is not installed")

EXAMPLES = "night (example images)"


def graph(**changes) -> dict:
    widgets = {"file_name": "night", "seed": 1, "steps": 2, "batch": 2, "learning_rate": 1e-3, "rank": 2, **changes}
    return {
        "load": node("BLIP3oLoader", checkpoint=NAME, dtype="auto"),
        "curate": node(
            "BLIP3oCurateImages", folder=EXAMPLES, output_name="night", min_side=256, min_sharpness=5.0,
            near_duplicates="drop", default_caption="",
        ),
        "train": node("BLIP3oTrainLoRAOnImages", **{"lm": ["load", 0], "shards": ["curate", 0], **widgets}),
        "name": node("PreviewAny", source=["train", 1]),
    }  # fmt: skip


def test_what_the_node_asks_for_can_be_trained(in_host, tmp_path):
    """Catches settings that `blip3o train` refuses, captions that are not those of the shards, and a run without the
    LoRA where the node looks for it."""

    def look(module, folder, shards, out):
        import json
        from pathlib import Path

        training, reader = module(".nodes.host.training_on_images"), module(".blip3o_core.shards.read")
        lm, shards = (
            module(".nodes.host.language").load_language(folder, None, "fp32"),
            reader.ShardFolder(Path(shards)),
        )
        request = training.Request("", "night", steps=2, batch=4, learning_rate=1e-3, rank=2, seed=1)
        asked = training._settings(lm, request, Path(out), shards.folder, training._captions(shards))
        training.ImagesRun(Path(out), training.LossLog(Path(out, "run"), 2)).config.write_text(json.dumps(asked))
        return asked["sample_prompts"]

    shards = make_shards(make_data(tmp_path / "data"), tmp_path / "shards")
    captions = in_host(look, folder=str(BUNDLED), shards=str(shards), out=str(tmp_path))
    assert captions == [f"a {colour} square" + " on white" * k for k, colour in enumerate(COLOURS[:4])]
    assert main(["train", str(tmp_path / "train.yaml")]) == 0
    assert (tmp_path / "run/step-00000002/adapter/adapter_model.safetensors").is_file()
    assert len(list((tmp_path / "run/samples").iterdir())) == 2


@pytest.mark.long
def test_a_folder_becomes_a_lora_that_loads(client, server, tmp_path):
    """Catches a run that ComfyUI cannot start, shards that it cannot read, a LoRA that loaders refuse, a training that
    nobody sees, one that runs again for nothing, and weights or images that are left behind."""
    result = client.run(graph(), timeout=300)
    assert result.status == "success", result.error["exception_message"]
    name = "night/adapter_model.safetensors"
    assert result.outputs["name"]["text"] == [name]
    note = result.outputs["train"]["blip3o_notes"][0]
    assert note.startswith(f"Saved as models/loras/{name}. Loss ")
    assert note.endswith(" 24 images, each seen 0.167 times.")
    [place] = result.outputs["train"]["images"]
    with Image.open(io.BytesIO(client.view(**place))) as shown:
        assert shown.width == 512 and shown.height > 300  # the curve, and four images under it
    run = Path(server.base, "temp", place["subfolder"], "run")
    assert (run / "log.jsonl").is_file() and not list(run.glob("step-*")) and not (run / "cache").exists()
    lora = server.base / "models/loras/night"
    words = ["generate", "--prompt", "a red circle", "--steps", "1", "--lora", str(lora)]
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 0
    again = client.run(graph(), timeout=300)
    assert "train" in again.cached and not (server.base / "models/loras/night_00002").exists()


@pytest.mark.long
def test_a_cancelled_training_keeps_what_was_learnt(client, server):
    """Catches a cancel that waits for the whole run, loses the LoRA, or leaves the process behind."""
    told = []

    def stop(kind, data):
        if kind == "progress" and data["node"] == "train" and data["value"] >= 1 and not told:
            told.append(data["value"])
            client.interrupt()

    result = client.run(graph(steps=100_000, file_name="cut"), timeout=300, on_event=stop)
    assert result.status == "interrupted" and result.error["node_id"] == "train"
    assert (server.base / "models/loras/cut/adapter_model.safetensors").is_file()
    assert client.run(graph(steps=1, file_name="after"), timeout=300).status == "success"


@pytest.mark.parametrize(
    ("shards", "sentence"),
    [
        ("/etc", "shards is '/etc'. It must be a folder of shards in output/curated"),
        ("../../models", "shards is '../../models'. It must be a folder"),
        ("linked", "shards is 'linked'. It must be a folder"),
        (" ", "shards is ' '. It must be a folder"),
        ("absent", "has no manifest.json, so it is not a complete folder of shards."),
        ("none", "has no images, so there is nothing to learn from."),
    ],
    ids=["root", "above", "link", "nothing", "absent", "empty"],
)
def test_a_workflow_trains_on_curated_shards_alone(client, server, tmp_path, shards, sentence):
    """Catches a workflow of a stranger that trains on files elsewhere, and a fault that is told after minutes."""
    out = server.base / "output/curated"
    (out / "none").mkdir(parents=True, exist_ok=True)
    (out / "none/manifest.json").write_text(json.dumps({"format": "blip3o shards", "version": 1, "shards": []}))
    (out / "linked").unlink(missing_ok=True)
    (out / "linked").symlink_to(tmp_path)
    wanted = graph(shards=["text", 0]) | {"text": node("PrimitiveString", value=shards)}
    result = client.run(wanted)
    assert result.status == "error" and result.error["node_id"] == "train"
    assert sentence in result.error["exception_message"]


def test_the_example_images_are_what_their_generator_writes():
    """Catches an image or caption edited by hand, one that was left behind, and one without its caption."""
    wanted = examples()
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(
        f"{name}.{ending}" for name in wanted for ending in ("png", "txt")
    )
    assert len(wanted) == COUNT + 3
    for name, (image, text) in wanted.items():
        assert (FOLDER / f"{name}.txt").read_text(encoding="utf-8") == f"{text}\n"
        with Image.open(FOLDER / f"{name}.png") as saved:
            assert saved.convert("RGB").tobytes() == image.tobytes(), name
