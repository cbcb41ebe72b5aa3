"""LoRA files for the language model: equal to peft's own merge, and refused whole where a tensor fits nothing."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip3o_core.errors import Blip3oError
from blip3o_core.weights.lora import CONFIG, FILE, language_matrices, merge_lora, read_lora
from tests.support.attacks import read_safetensors, write_safetensors
from tests.support.loras import merged_by_peft, write_lora


@pytest.fixture(scope="module")
def matrices(language):
    return language_matrices(language)


@pytest.fixture(scope="module")
def lora(tiny, tmp_path_factory):
    return write_lora(tmp_path_factory.mktemp("loras") / "first", tiny, 1)


@pytest.fixture
def changed(lora, tmp_path):
    """A copy of the LoRA's folder, after `edit(tensors)` and changes of its configuration; gives the file."""

    def change(edit=None, config=True, name=FILE, **fields):
        folder = shutil.copytree(lora, tmp_path / f"lora{len(list(tmp_path.iterdir()))}")
        tensors = load_file(folder / FILE)
        (folder / FILE).unlink()
        save_file((edit and edit(tensors)) or tensors, folder / name)
        settings = json.loads((folder / CONFIG).read_text()) | fields
        (folder / CONFIG).write_text(json.dumps(settings))
        if not config:
            (folder / CONFIG).unlink()
        return folder / name

    return change


def merged(language, *loras):
    network = deepcopy(language)
    for file, strength in loras:
        merge_lora(network, read_lora(file, language_matrices(network)), strength)
    return network.state_dict()


def differences(ours, theirs):
    return [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)]


@pytest.mark.parametrize("strength", [1.0, 0.5, -2.0])
def test_a_lora_is_what_peft_merges(language, tiny, lora, strength):
    """Catches a factor that is turned, scaled wrongly or put on another layer. Equal to the bit."""
    theirs = merged_by_peft(tiny, [(lora, strength)])
    ours = merged(language, (lora, strength))
    assert not differences(ours, theirs)
    assert len(differences(ours, language.state_dict())) == 3 * language.config.num_hidden_layers


def test_loras_in_a_row_add_up(language, tiny, lora, tmp_path):
    """Catches a second LoRA that replaces the first, and settings of peft that change the scale."""
    second = write_lora(
        tmp_path / "second", tiny, 2, ["q_proj", "embed_tokens"], use_rslora=True, lora_alpha=5,
        alpha_pattern={"embed_tokens": 2}, rank_pattern={"q_proj": 2},
    )  # fmt: skip
    theirs = merged_by_peft(tiny, [(lora, 1.0), (second, 0.5)])
    ours = merged(language, (lora, 1.0), (second, 0.5))
    assert not differences(ours, theirs)
    assert not torch.equal(ours["model.embed_tokens.weight"], language.state_dict()["model.embed_tokens.weight"])


def renamed(prefix, down, up, underscores=False):
    """The names of another tool, with alphas of 6."""

    def edit(tensors):
        out = {}
        for name, tensor in tensors.items():
            layer, end = name.removeprefix("base_model.model.").split(".lora_")
            layer = prefix + (layer.replace(".", "_") if underscores else layer)
            out[layer + (down if end.startswith("A") else up)] = tensor
            out[f"{layer}.alpha"] = torch.tensor(6.0)
        return out

    return edit


def test_other_tools_name_the_same_tensors_otherwise(lora, changed, matrices):
    """Catches a file of a common trainer that is refused, or whose alphas are passed over."""
    wanted = read_lora(lora, matrices)
    kohya = renamed("lora_te_", ".lora_down.weight", ".lora_up.weight", underscores=True)
    stock = renamed("text_encoders.", ".lora_A.default.weight", ".lora_B.default.weight")
    files = [
        changed(kohya, config=False, name="kohya.safetensors"),
        changed(stock, config=False),
        changed(named("model.model.model", "model.model")),  # peft around the model without its head
    ]
    for file in files:
        found = read_lora(file, matrices)
        assert {n: c.scale for n, c in found.changes.items()} == {n: c.scale for n, c in wanted.changes.items()}
        assert all(torch.equal(found.changes[name].up, change.up) for name, change in wanted.changes.items())
    bare = read_lora(changed(config=False), matrices)
    assert {change.scale for change in bare.changes.values()} == {1.0} and "no alpha" in bare.scale
    assert "scale 2 (lora_alpha" in wanted.summary and "rank 3" in wanted.summary


def test_the_digest_is_of_the_content(lora, changed, matrices):
    """Catches hidden states that are reused for another LoRA, and tokens that a copied file no longer fits."""
    one = read_lora(lora, matrices)
    assert read_lora(changed(), matrices).digest == one.digest
    others = [changed(lora_alpha=7), changed(lambda t: {name: tensor * 1.01 for name, tensor in t.items()})]
    assert len({one.digest, *(read_lora(file, matrices).digest for file in others)}) == 3
    assert len({one.identity(strength) for strength in (1, 0.5, -1)}) == 3 and one.identity(1) == one.identity(1.0)


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
Q = LAYER + ".lora_"


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def put(name, tensor):
    return lambda tensors: tensors | {name: tensor}


def named(pattern, by):
    return lambda tensors: {name.replace(pattern, by): tensor for name, tensor in tensors.items()}


MISFITS = {
    "diffusion": (named("base_model.model.", "diffusion_model."), "LoraLoaderModelOnly"),
    "sana": (
        put("transformer_blocks.0.attn1.to_q.lora_A.weight", torch.zeros(3, 9)),
        "1 of its 13 tensors.*LoraLoaderModelOnly",
    ),
    "layers": (named("layers.1.", "layers.35."), "6 of its 12 tensors .*at least 36 layers; this one has 2"),
    "names": (named("q_proj", "query"), r"4 of its 12 tensors fit no weight.*first .*query\.lora_"),
    "whole layer": (put("base_model.model.lm_head.weight", torch.zeros(9, 9)), "modules_to_save.*Merge the adapter"),
    "dora": (put("base_model.model.x.lora_magnitude_vector.weight", torch.zeros(9)), "It is a DoRA file"),
    "half": (without(Q + "A.weight"), "down matrix is missing"),
    "width": (put(Q + "A.weight", torch.zeros(3, 4096)), "another model: it changes .* as 96 x 4096, .* 96 x 64"),
    "rank": (put(Q + "A.weight", torch.zeros(2, 64)), "cannot be multiplied: up is .*96, 3.* down is .*2, 64"),
    "huge rank": (
        lambda tensors: tensors | {Q + "A.weight": torch.zeros(5000, 64), Q + "B.weight": torch.zeros(96, 5000)},
        "has rank 5,000, for a matrix of 96 x 64",
    ),
    "whole numbers": (put(Q + "A.weight", torch.zeros(3, 64, dtype=torch.int32)), "is I32"),
    "nan": (put(Q + "B.weight", torch.full((96, 3), torch.nan)), "NaN or infinite"),
    "twice": (put(Q + "A.default.weight", torch.zeros(3, 64)), "changes .* twice"),
    "alphas": (put(LAYER + ".alpha", torch.zeros(3)), "has 3 numbers, not 1"),
    "infinite alpha": (put(LAYER + ".alpha", torch.tensor(torch.inf)), "alpha .* is inf"),
    "nothing": (lambda tensors: {"x": torch.zeros(0)}, "1 of its 1 tensors"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused(name, changed, matrices):
    """Catches a LoRA that is applied in part, or not at all, without a word."""
    edit, says = MISFITS[name]
    with pytest.raises(Blip3oError, match=f"(?s){says}"):
        read_lora(changed(edit), matrices)


CONFIGS = {
    "kind": ({"peft_type": "LOHA"}, "'LOHA', not LORA"),
    "dora": ({"use_dora": True}, "use_dora"),
    "turned": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' also changed"),
    "alpha": ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    "no rank": ({"r": 0}, "r is 0"),
    "another": ({"r": 8}, "another LoRA: it says r 8"),
    "pattern": ({"alpha_pattern": {"(a+)+$": 2}}, "alpha_pattern is"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_that_are_not_read_are_refused(name, changed, matrices):
    """Catches a scale that is guessed, and adapters that only act together with weights of their own."""
    fields, says = CONFIGS[name]
    with pytest.raises(Blip3oError, match=f"(?s){says}"):
        read_lora(changed(**fields), matrices)


def damaged(folder, kind):
    file = folder / FILE
    header, data = read_safetensors(file)
    name = next(iter(header.keys() - {"__metadata__"}))
    match kind:
        case "cut":
            file.write_bytes(file.read_bytes()[:-40])
        case "empty":
            file.write_bytes(b"")
        case "pickle":
            file.write_bytes(b"\x80\x04cos\nsystem\n" * 9)
        case "pointer":
            file.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "huge header":
            write_safetensors(file, b"{}", length=2**40)
        case "claims terabytes":
            header[name] |= {"shape": [2**40, 3], "data_offsets": [0, 2**43]}
            write_safetensors(file, header, data)
        case "no tensors":
            write_safetensors(file, {})
        case "config":
            (folder / CONFIG).write_text("[" * 100_000)
        case "gone":
            file.unlink()
    return folder


@pytest.mark.parametrize(
    "kind",
    ["cut", "empty", "pickle", "pointer", "huge header", "claims terabytes", "no tensors", "config", "gone"],
)
def test_damaged_files_are_named(kind, changed, matrices):
    """Catches a traceback, a crash or a full memory where a download was cut short."""
    with pytest.raises(Blip3oError, match="adapter_"):
        read_lora(damaged(changed().parent, kind), matrices)
