"""TA-Tok from its own file: the same tower as in a checkpoint, and no pickle that could be more than tensors."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.tatok_file import open_tatok
from blip3o_core.errors import Blip3oError
from blip3o_core.models.image_tokenizer import PREFIX, encode_images
from blip3o_core.weights.pth_file import read_pth
from blip3o_core.weights.safetensors_file import open_unchanged
from tests.support.paths import GOLDEN

RECORDED = GOLDEN / "checkpoints"
BIAS = "encode_task_layer.0.bias"


class Saved:
    """A `ta_tok.pth` of the tiny checkpoint's tower, beside the config it is built by."""

    def __init__(self, folder: Path, tensors: dict, config: dict):
        self.path = folder / "tatok" / "ta_tok.pth"
        self.path.parent.mkdir()
        self.tensors = {n.removeprefix(PREFIX): t.clone() for n, t in tensors.items() if n.startswith(PREFIX)}
        self.tensors |= {f"scale_layer.{name}": torch.full((1, 3, 1, 1), 0.5) for name in ("shift", "scale")}
        self.configure(**config["vision_config"])
        self.save()

    def configure(self, **vision) -> None:
        (self.path.parent / "config.json").write_text(json.dumps({"vision_config": vision}))

    def save(self, args=None, **options) -> Path:
        torch.save({"model": {"name": "ta_tok", "args": args or {}, "sd": self.tensors}}, self.path, **options)
        return self.path


@pytest.fixture
def saved(tmp_path, tensors, config):
    return Saved(tmp_path, tensors, config)


def views(side: int) -> torch.Tensor:
    return torch.rand(2, side, side, 3, generator=torch.Generator().manual_seed(0))


def test_it_is_the_checkpoints_tower(saved, checkpoint):
    """Catches tensors in the wrong place, another number of heads, and a codebook that is known by other rows."""
    file = open_tatok(saved.path)
    assert file.config == checkpoint.image_tokenizer_config and checkpoint.codes_id.understands(file.codes_id)
    own, other = (encode_images(net, views(76), True) for net in (file.load(), checkpoint.load_image_tokenizer()))
    assert torch.equal(own[0], other[0]) and torch.equal(own[1], other[1]) and len(own[0].unique()) > 5


def test_the_authors_file_is_the_tower_of_the_authors_checkpoint():
    """Catches a scale layer that is applied: the file expects [0, 1], checkpoints [-1, 1]."""
    file = open_tatok(RECORDED / "ta_tok" / "ta_tok.pth")
    checkpoint = open_checkpoint(RECORDED / "edit_vae", RECORDED / "sana")
    assert (file.config.num_heads, file.config.image_size) == (4, 90) and checkpoint.codes_id.understands(file.codes_id)
    own, other = (encode_images(net, views(90), True) for net in (file.load(), checkpoint.load_image_tokenizer()))
    assert torch.equal(own[0], other[0]) and torch.equal(own[1], other[1])


def test_the_codebook_is_its_content(saved):
    """Catches a name that another codebook has, too: its codes would be believed to mean the same."""
    first = open_tatok(saved.path).codes_id
    saved.tensors["bottleneck.regularizer.embedding_proj.bias"][0] += 1
    assert open_tatok(saved.save()).codes_id != first


def test_settings_saved_as_an_easydict_need_no_easydict(saved, monkeypatch):
    """Catches the published file refused, or read only where easydict happens to be installed."""
    module = types.ModuleType("easydict")

    class EasyDict(dict):
        pass

    module.EasyDict, EasyDict.__module__, EasyDict.__qualname__ = EasyDict, "easydict", "EasyDict"
    args = EasyDict(input_size=76, bottleneck=EasyDict(name="simvq"))
    args.__dict__.update(args)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "easydict", module)
        saved.save(args)
    monkeypatch.setitem(sys.modules, "easydict", None)
    assert open_tatok(saved.path).load().image_size == 76


def test_the_tensors_are_those_that_torch_reads():
    """Catches numbers read from a wrong place, or in a wrong order or dtype."""
    path = RECORDED / "ta_tok" / "ta_tok.pth"
    expected = torch.load(path, weights_only=True)["model"]["sd"]
    found = read_pth(path, "")["model"]["sd"]
    assert list(found) == list(expected)
    for name, entry in found.items():
        with open_unchanged(entry) as reader:
            assert torch.equal(reader.read(entry), expected[name]), name


def test_parts_of_one_storage_are_read_where_they_lie(tmp_path):
    """Catches views that torch.save stores once: a slice read from the beginning of its storage."""
    whole = torch.arange(24.0).reshape(4, 6)
    named = {"whole": whole, "rows": whole[1:3], "half": whole.half(), "parameter": torch.nn.Parameter(whole[3])}
    torch.save(named, tmp_path / "views.pth")
    for name, entry in read_pth(tmp_path / "views.pth", "").items():
        with open_unchanged(entry) as reader:
            assert torch.equal(reader.read(entry), named[name]), name


def test_reading_changes_nothing_for_other_packs(saved, monkeypatch):
    """Catches PyTorch's list of allowed classes opened for the whole process while the file is read."""
    for name in ("add_safe_globals", "safe_globals", "clear_safe_globals"):
        monkeypatch.setattr(torch.serialization, name, None)
    monkeypatch.setattr(torch, "load", None)
    open_tatok(saved.path).load()


def test_a_file_of_three_tensors_says_what_is_missing():
    """Catches an unpickling error, or a KeyError, for the authors' EasyDict with most tensors taken out."""
    with pytest.raises(Blip3oError, match="position_embedding.weight is missing, there are 3 tensors"):
        open_tatok(RECORDED / "ta_tok" / "unpickle_test_easydict_args_truncated_sd.pth")


class Hostile:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w')",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(saved, tmp_path, zipped):
    """Catches code of a stranger run on this machine, and a message that tells how to run it."""
    saved.save({"input_size": Hostile(tmp_path / "ran")}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        Blip3oError, match=r"refused.*__builtin__\.exec" if zipped else "cut short, or could run code"
    ) as caught:
        open_tatok(saved.path)
    assert not (tmp_path / "ran").exists() and "weights_only" not in str(caught.value)


def test_harmless_classes_are_refused_too(saved):
    """Catches an allow-list that has grown."""
    saved.save({"input_size": Path("a")})
    with pytest.raises(Blip3oError, match="refused.*pathlib"):
        open_tatok(saved.path)


DAMAGE = {
    "missing": (lambda tensors: tensors.pop(BIAS), f"missing: {BIAS}"),
    "unexpected": (lambda tensors: tensors.update(extra=torch.zeros(1)), "unexpected: extra"),
    "shape": (lambda tensors: tensors.update({BIAS: torch.zeros(31)}), rf"shape: {BIAS} is \[31\]"),
    "integers": (lambda tensors: tensors.update({BIAS: torch.zeros(32, dtype=torch.int32)}), f"dtype: {BIAS}"),
    "no tensor": (lambda tensors: tensors.update({BIAS: 3}), "no weights by name"),
    "empty": (lambda tensors: tensors.update({BIAS: torch.zeros(0)}), "no weights by name"),
    "sparse": (lambda tensors: tensors.update({BIAS: torch.zeros(32).to_sparse()}), "refused.*_rebuild_sparse_tensor"),
    "no codebook": (lambda tensors: tensors.pop("bottleneck.regularizer.embedding.weight"), "incomplete"),
    "nothing": (lambda tensors: tensors.clear(), "does not contain all of TA-Tok"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_tensors_that_do_not_fit_are_errors_on_opening(saved, name):
    """Catches a tower with random weights in the place of what is missing."""
    damage, reason = DAMAGE[name]
    damage(saved.tensors)
    with pytest.raises(Blip3oError, match=f"(?s)ta_tok.pth.*{reason}"):
        open_tatok(saved.save())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_an_error_on_loading(saved, value):
    """Catches codes that are all the same because one weight is NaN."""
    saved.tensors[BIAS][3] = value
    with pytest.raises(Blip3oError, match=f"(?s)1 tensors.*NaN or infinite values:.*{BIAS}"):
        open_tatok(saved.save()).load()


def test_files_of_another_kind_are_errors(saved, tmp_path):
    """Catches tracebacks of the zip reader, and a download that broke off."""
    data = saved.path.read_bytes()
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"sd": saved.tensors}, tmp_path / "flat.pth")
    made = {"cut.pth": data[: len(data) // 2], "cut1.pth": data[:-1], "empty.pth": b"", "text.pth": b"<html>"}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.pth").mkdir()
    for name in (*made, "list.pth", "flat.pth", "none.pth", "folder.pth"):
        with pytest.raises(Blip3oError, match=name):
            open_tatok(tmp_path / name)


def test_the_input_side_is_what_the_file_says(saved):
    """Catches pictures resized to another side than the tower saw, when a neighbour's config says another."""
    assert open_tatok(saved.save({"input_size": 71})).config.image_size == 71  # 5 patches of 14, as 76 is
    with pytest.raises(Blip3oError, match="input_size 384.*25 positions"):
        open_tatok(saved.save({"input_size": 384}))


def test_an_unknown_number_of_heads_is_an_error(saved):
    """Catches features computed with a guess."""
    (saved.path.parent / "config.json").unlink()
    with pytest.raises(Blip3oError, match="attention heads is in no file.*vision_config"):
        open_tatok(saved.save({"input_size": 76}))


def test_it_is_loaded_in_one_dtype_and_frozen(saved):
    """Catches a tower of mixed dtypes, which fails in the first matrix product."""
    saved.tensors["bottleneck.in_linear.weight"] = saved.tensors["bottleneck.in_linear.weight"].double()
    file = open_tatok(saved.save())
    for asked, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        network = file.load(asked)
        assert {p.dtype for p in network.parameters()} == {expected} and not network.training
        assert not any(p.requires_grad for p in network.parameters())
