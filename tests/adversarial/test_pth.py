"""A `ta_tok.pth` with code, bombs and lies in it, and thousands of damaged ones: nothing runs, nothing is written."""

import os
import struct
from pathlib import Path

import pytest
import torch

from blip3o_core.checkpoint.tatok_file import open_tatok
from blip3o_core.errors import Blip3oError
from tests.support.pth_files import (
    PUBLISHED,
    arguments,
    billion_laughs,
    call,
    changed_bytes,
    code_archive,
    deflated,
    directory,
    easydict,
    flip,
    many_layers,
    member_outside,
    members,
    old_format,
    same_numbers_again,
    steps,
    storage,
    tensors,
    terabytes,
)

REFUSED = r"is refused: besides plain tensors it contains {}\. .*can run code.*Download ta_tok\.pth again"
DAMAGED = r"Cannot read .*ta_tok\.pth \([\d,]+ bytes\) as a file of weights: .*{}.*Download ta_tok\.pth again"
NO_TATOK = r"not TA-Tok's: it has no weights by name"


TOUCH = "touch PWNED"
MODEL = b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00"  # a dict with itself under "model"
CODE = {
    "os.system": (call(os.system, TOUCH), "posix.system"),
    "eval": (call(eval, "1"), "__builtin__.eval"),
    "exec": (call(exec, "1"), "__builtin__.exec"),
    "getattr": (call(getattr, "x", "upper"), "__builtin__.getattr"),
    "open": (call(open, "PWNED", "w"), "io.open"),
    "torch.load": (call(torch.load, "/etc/passwd"), "torch.serialization.load"),
    "torch.hub.load": (call(torch.hub.load, "a", "b"), "torch.hub.load"),
    "torch.jit.load": (call(torch.jit.load, "x"), "torch.jit._serialization.load"),
    "a class of its own": (steps(b"\x80\x02c__main__\nD\n)\x81."), "__main__.D"),
    "a tensor's method": (steps(b"\x80\x02ctorch\nTensor.numpy\n."), "torch.Tensor.numpy"),
    "names with escape codes": (steps(b"\x80\x02cos\n\x1b[2Jsystem\n."), r"'os\.\\x1b\[2Jsystem'"),
    "protocol 0": (steps(b"cos\nsystem\n(S'touch PWNED'\ntR."), "os.system"),
    "protocol 4": (steps(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "the pickle step SHORT_BINUNICODE"),
    "INST": (steps(b"\x80\x02(S'touch PWNED'\nios\nsystem\n."), "the pickle step STRING"),
    "OBJ": (steps(b"\x80\x02(cos\nsystem\no."), "os.system"),
    "EXT": (steps(b"\x80\x02\x82\x01."), "the pickle step EXT1"),
    "PERSID": (steps(b"Pevil\n."), "the pickle step PERSID"),
    "an integer of a megabyte": (
        steps(b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6),
        "the pickle step LONG4",
    ),
    "a dict called with a bomb": (easydict(b"(](K\x01K\x02e\x85tR"), r"easydict\.EasyDict called with 1 values"),
    "a storage that is called": (steps(b"\x80\x02ctorch\nFloatStorage\nK\x08\x85R."), r"torch\.FloatStorage called .*"),
    "a sparse tensor": (tensors(x=torch.eye(2).to_sparse()), r"torch\._utils\._rebuild_sparse_tensor"),
    "a tensor without numbers": (
        tensors(x=torch.empty(2, device="meta")),
        r"torch.*_rebuild_meta_tensor_no_storage",
    ),
    "a complex tensor": (tensors(x=torch.zeros(2, dtype=torch.complex64)), r"torch\.ComplexFloatStorage"),
}
LIES = {
    "an empty file": (lambda path: path.write_bytes(b""), "it is not a zip"),
    "text": (lambda path: path.write_text("<!DOCTYPE html>" * 99), "it is not a zip"),
    "weights of the old format": (old_format, "it is not a zip"),
    "a code archive": (code_archive, "compressed or encrypted"),
    "cut short": (changed_bytes(lambda content: content[:-300]), "it is not a zip|its end"),
    "one byte short": (changed_bytes(lambda content: content[:-1]), "its parts do not fit"),
    "a compressed list of 100 MB": (deflated, "'?a/data.pkl'? in it is compressed"),
    "two lists of tensors": (members(a__data_pkl=b".", b__data_pkl=b"."), "it is a zip file, but not one"),
    "no list of tensors": (members(x=b"y"), "it is a zip file, but not one"),
    "numbers of other computers": (steps(b"\x80\x02}.", a__byteorder=b"big"), "in the byte order of other"),
    "a list of tensors of 3 MB": (
        steps(b"\x80\x02]" + b"N" * 3 * 2**20 + b"."),
        r"its list of tensors has 3,",
    ),
    "a member of 4 GB": (changed_bytes(terabytes), r"[\d,]+ bytes that it names|its parts"),
    "a table of contents of 4 GB": (directory(2**32 - 1, 0), "its table of contents would have 4,294,967,295"),
    "a table of contents behind the end": (directory(1000, 2**31), "it names 1,000 bytes from byte 2,147,483,648"),
    "a table of contents of weights": (directory(1000, 5000), "its table of contents is damaged"),
    "a flipped bit in the list": (changed_bytes(flip), "the checksum of its list"),
    "text of 2 GB": (steps(b"\x80\x02X\xff\xff\xff\x7fabc."), "its parts do not fit"),
    "tuples 100,000 deep as a key": (
        steps(b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."),
        "it names things",
    ),
    "a list as a key": (steps(b"\x80\x02}]Ns."), "it names things"),
    "an odd number of items": (steps(b"\x80\x02}(X\x01\x00\x00\x00au."), "its parts do not fit"),
    "weights that hold themselves": (
        steps(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00sX\x02\x00\x00\x00sdh\x00s."),
        None,
    ),
    "a billion laughs": (
        billion_laughs,
        None,
    ),
    "attributes of a list": (steps(b"\x80\x02]}b."), "it sets attributes of other things than dicts"),
    "additions to a dict": (steps(b"\x80\x02}Na."), "it adds items to other things than lists"),
    "a call of nothing": (steps(b"\x80\x02NNR."), "it calls other things than functions"),
    "steps without a stack": (steps(b"\x80\x02R."), "its parts do not fit"),
    "steps without an end": (steps(b"\x80\x02}"), "its parts do not fit"),
    "numbers from elsewhere": (storage(4, (4,), (1,), key="../../evil"), r"the numbers \.\./\.\./evil are not there"),
    "fewer numbers than it says": (storage(5, (4,), (1,)), "the numbers 0 are not there, or more or fewer"),
    "a tensor beyond its numbers": (storage(4, (5,), (1,)), "is larger than its 16 bytes"),
    "a tensor that begins beyond them": (storage(4, (4,), (1,), offset=1), "is larger than its 16 bytes"),
    "a tensor before them": (storage(4, (4,), (1,), offset=-1), "a tensor in it has the shape"),
    "a tensor of 2^63 numbers": (storage(4, (2**63,), (1,)), "a tensor in it has the shape"),
    "a tensor of 2^47 by 2^47": (storage(4, (2**47, 2**47), (2**47, 1)), "is larger than its 16 bytes"),
    "a tensor of -1 numbers": (storage(4, (-1,), (1,)), "a tensor in it has the shape"),
    "a tensor of 17 sides": (storage(4, (1,) * 17, (1,) * 17), "a tensor in it has the shape"),
    "one number 10^12 times": (storage(4, (10**12, 8), (0, 0)), "repeats or skips numbers, with strides"),
    "numbers that overlap": (storage(4, (3, 2), (1, 1)), "repeats or skips numbers"),
    "fewer strides than sides": (storage(4, (2, 2), (1,)), "repeats or skips numbers"),
    "a side that is text": (storage(4, ("4",), (1,)), "a tensor in it has the shape"),
    "the same numbers 1,000 times": (same_numbers_again, "its tensors use the same numbers again and again"),
}
CONTENT = {
    "a memo of 2^31": (steps(b"\x80\x02]r\xff\xff\xff\x7f."), NO_TATOK),
    "lists 100,000 deep": (steps(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), NO_TATOK),
    "a dict that holds itself": (steps(MODEL + b"s."), NO_TATOK),
    "attributes of a dict": (easydict(b")\x81}(X\x09\x00\x00\x00__class__Nub"), NO_TATOK),
    "a number format that is a dict": (storage(4, (4,), (1,), dtype="../x"), REFUSED.format(r"torch\.\.\./x")),
    "a member outside": (member_outside, r"does not contain all of TA-Tok"),
    "names that are numbers": (lambda path: torch.save({"model": {"sd": {1: torch.zeros(1)}}}, path), NO_TATOK),
    "weights of 8-bit steps": (
        tensors(encode_task_layer__0__weight=torch.zeros(1).byte()),
        "do not fit TA-Tok",
    ),
    "whole numbers": (tensors(encode_task_layer__0__weight=torch.eye(32).int()), "do not fit TA-Tok"),
    "a name with escape codes": (tensors(**{"\x1b[2Jx\x07": torch.zeros(1)}), r"unexpected: "),
    "9,000 layers": (many_layers, r"it has 9003 layers .*Copy the file again"),
    "input_size -90": (arguments({"input_size": -90}), "input_size -90"),
    "input_size 2^80": (arguments({"input_size": 2**80}), "input_size 1208925819614629174706176"),
    "a pipe": (os.mkfifo, r"ta_tok\.pth is a pipe, not a regular file"),
    "a folder": (Path.mkdir, r"ta_tok\.pth is a folder, not a regular file"),
    "a link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a regular file"),
    "no file": (lambda path: None, r"ta_tok\.pth does not exist"),
    "a Git LFS pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "safetensors": (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), "it is not a zip"),
    "terabytes of nothing": (lambda path: (path.touch(), os.truncate(path, 2**42)), "it is not a zip"),
}
FINE = {
    "the published file": changed_bytes(bytes),
    "input_size as text": arguments({"input_size": "90"}),
    "settings in a list": arguments([1, 2]),
}


def test_every_word_of_a_refusal(tmp_path):
    """Catches a message that does not say what was found, why it matters and what to do."""
    call(os.system, TOUCH)(tmp_path / "ta_tok.pth")
    with pytest.raises(Blip3oError) as caught:
        open_tatok(tmp_path / "ta_tok.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'ta_tok.pth'} is refused: besides plain tensors it contains posix.system. Such a thing can run "
        "code on this machine when it is read. Download ta_tok.pth again, from where it was published."
    )


CASES = {
    **{name: (make, REFUSED.format(says)) for name, (make, says) in CODE.items()},
    **{name: (make, DAMAGED.format(f"(?:{says})") if says else ".") for name, (make, says) in LIES.items()},
    **CONTENT,
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_refused_in_words(name, tmp_path):
    """Catches code that runs, files that hang or fill the memory, and what PyTorch says instead of what to do."""
    make, says = CASES[name]
    path = tmp_path / "ta_tok.pth"
    make(path)
    (tmp_path / "config.json").write_text((PUBLISHED.parent / "siglip2_teacher_config.json").read_text())
    before = set(tmp_path.rglob("*"))
    with pytest.raises(Blip3oError, match=f"(?s){says}") as caught:
        open_tatok(path).load()
    assert len(str(caught.value)) < 3000 and "weights_only" not in str(caught.value)
    assert set(tmp_path.rglob("*")) == before and not Path("PWNED").exists()


@pytest.mark.parametrize("name", FINE)
def test_a_good_file_is_loaded(name, tmp_path):
    """Catches a reader that refuses what it need not."""
    FINE[name](tmp_path / "ta_tok.pth")
    (tmp_path / "config.json").write_text((PUBLISHED.parent / "siglip2_teacher_config.json").read_text())
    open_tatok(tmp_path / "ta_tok.pth").load()
