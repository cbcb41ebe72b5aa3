"""The first lines of `blip3o inspect`: what a creator asks of a checkpoint before anything else."""

import json

import pytest

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.cli.main import main
from tests.support.full_size import LAYOUTS, make_full_size


@pytest.fixture
def answers(capsys):
    """`inspect` of a folder, or of the bundled model -> the answer to each question."""

    def look(folder=None) -> dict[str, str]:
        assert main(["inspect", *([f"--checkpoint={folder}"] if folder else [])]) == 0
        first, _, _ = capsys.readouterr().out.partition("\n\n")
        return {line[:16].strip(): line[16:] for line in first.splitlines()}

    return look


def parameters(folder, *unless: str) -> int:
    """Counted in the files' headers, without the tensors whose names begin with `unless`."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        ends = [entry["data_offsets"] for name, entry in header.items() if not name.startswith(unless)]
        count += sum(end - start for start, end in ends) // 2
    return count


def test_the_bundled_model_is_described(answers):
    """Catches a size in parameters or blocks, the published 1024, and references that the prompt has no room for."""
    told = answers()
    assert told.pop("checkpoint") == "BLIP3o-NEXT-tiny (bundled): coloured shapes and short words only"
    megabytes = sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors")) / 1e6
    assert told.pop("on disk") == f"{megabytes:.1f} MB" and megabytes > 10
    # 512 tokens of prompt, of them 60 for words: seven images of 64 tokens.
    assert told.pop("can edit") == "yes, with up to 7 references (reference modes: tokens, cross, noise, both)"
    checkpoint = open_checkpoint(BUNDLED)
    side, multiple = checkpoint.trained_side, checkpoint.latent_multiple
    assert told.pop("image size") == f"{side}x{side}; other sizes in multiples of {multiple} pixels"
    assert "MB for one image" in told.pop("memory") and "inside the checkpoint" in told.pop("configs from")
    assert not told


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if "edit" in n else pytest.mark.long) for n in LAYOUTS])
def test_a_published_checkpoint_is_described(name, answers, tmp_path):
    """Catches gigabytes of a sparse file's blocks, a head counted as memory of its own, and an edit model that says
    no, or another one that says yes."""
    folder = make_full_size(tmp_path / name, name)
    told = answers(folder)
    assert told["checkpoint"] == name and told["image size"] == "1024x1024; other sizes in multiples of 32 pixels"
    assert told["on disk"] == f"{sum(path.stat().st_size for path in folder.glob('*.safetensors')) / 1e9:.2f} GB"
    # Two bytes each; the language model's head is its embedding.
    weights = 2e-9 * parameters(folder, "lm_head", "model.vision_tower.")
    # 26 of the tower's 27 layers, the codebook and what leads into it.
    layer = 4 * (1152**2 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    tokenizer = 26 * layer + (3 * 14**2 + 1 + 729) * 1152 + 65_536 * 1536 + 1536**2 + 1536 + (1152 + 1) * 1536
    assert f", of it {weights:.2f} GB weights; to edit, {2e-9 * tokenizer:.2f} GB more (counted)" in told["memory"]
    assert weights < float(told["memory"].split()[1]) < weights + 4
    edits = "yes, with up to 2 references (reference modes: tokens, cross, noise, both)"
    assert told["can edit"] == edits if "edit" in name else told["can edit"].startswith("it was not trained for edits")
