"""Thousands of damaged .pth files, each made from a real one by a seed: all are read or refused in words."""

import json
import subprocess
import sys

import pytest

from tests.support.paths import GOLDEN, TOP

# In a process of its own, because an audit hook stays for ever: what a pickle could do is an event there.
FUZZ = r"""
import codecs, io, json, pickletools, random, resource, struct, sys, zipfile
from pathlib import Path

from blip3o_core.errors import Blip3oError
from blip3o_core.weights.pth_file import read_pth
from blip3o_core.weights.safetensors_file import TensorEntry, open_unchanged

source, place, first, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
whole = source.read_bytes()
with zipfile.ZipFile(io.BytesIO(whole)) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
[listing] = [name for name in members if name.endswith("data.pkl")]
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1)


def bytes_changed(dice, content):
    content = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(len(content))
        how = dice.randrange(5)
        if how == 0:
            content[at] = dice.randrange(256)
        elif how == 1:
            content[at] ^= 1 << dice.randrange(8)
        elif how == 2:
            struct.pack_into("<L", content, min(at, len(content) - 4), dice.choice(NUMBERS))
        elif how == 3:
            del content[at : at + dice.randrange(1, 40)]
        else:
            content[at:at] = content[: dice.randrange(1, 40)] if dice.random() < 0.5 else dice.randbytes(3)
        if len(content) < 8:
            break
    return bytes(content)


def steps_changed(dice, content):
    places = [at for _, _, at in pickletools.genops(content)] + [len(content)]
    steps = [content[a:b] for a, b in zip(places, places[1:])]
    for _ in range(dice.choice((1, 1, 2, 5))):
        at, other = dice.randrange(len(steps)), dice.randrange(len(steps))
        how = dice.randrange(5)
        if how == 0:
            del steps[at]
        elif how == 1:
            steps.insert(at, steps[other])
        elif how == 2:
            steps[at], steps[other] = steps[other], steps[at]
        elif how == 3:
            steps[at] = bytes([dice.choice(pickletools.opcodes).code.encode("latin-1")[0]]) + dice.randbytes(4)
        else:
            steps[at] = dice.choice((b"cos\nsystem\n", b"cbuiltins\neval\n", b"R", b"b", b"K\xff", b"Q"))
        if not steps:
            break
    return b"".join(steps)


def damaged(seed):
    dice = random.Random(seed)
    if dice.random() < 0.4:
        return bytes_changed(dice, whole)
    changed = dict(members)
    name = listing if dice.random() < 0.8 else dice.choice(list(members))
    if name == listing and dice.random() < 0.8:
        changed[name] = steps_changed(dice, changed[name])
    elif changed[name]:
        changed[name] = bytes_changed(dice, changed[name]) if len(changed[name]) > 8 else b""
    if dice.random() < 0.1:
        changed.pop(dice.choice(list(changed)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in changed.items():
            archive.writestr(name, content)
    return out.getvalue()


def tensors(value, depth=0):
    if isinstance(value, TensorEntry):
        yield value
    elif isinstance(value, dict) and depth < 6:
        for one in value.values():
            yield from tensors(one, depth + 1)


events = []
WATCHED = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "pickle.", "shutil.", "ctypes.")
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)
path, found, watching = place / "ta_tok.pth", {"read": 0, "refused": 0, "wrong": []}, [False]
read_pth(source, "")  # imports what it needs
codecs.lookup("raw_unicode_escape")  # pickletools decodes one kind of step with it, by this name of its own
sys.addaudithook(lambda event, values: watching[0] and event.startswith(WATCHED) and events.append(event))
for seed in range(first, first + count):
    path.write_bytes(damaged(seed))
    watching[0] = True
    try:
        for entry in tensors(read_pth(path, "Remedy.")):
            with open_unchanged(entry) as reader:
                assert reader.read(entry).shape == entry.shape
        found["read"] += 1
    except Blip3oError as error:
        found["refused"] += 1
        if not (str(path) in str(error) and str(error).endswith("Remedy.") and len(str(error)) < 2000):
            found["wrong"].append([seed, str(error)[:300]])
    except BaseException as error:
        found["wrong"].append([seed, repr(error)[:300]])
    finally:
        watching[0] = False
print(json.dumps({**found, "events": sorted(set(events)), "left": sorted(one.name for one in place.iterdir())}))
"""


@pytest.mark.parametrize(
    ("first", "count"), [(0, 500), pytest.param(10_000, 40_000, marks=pytest.mark.long)], ids=["sample", "long"]
)
def test_a_damaged_file_is_read_or_refused_in_words(first, count, tmp_path):
    """Catches code that runs, memory that is taken on a claim, and errors of Python for a file that was damaged."""
    source = GOLDEN / "checkpoints" / "ta_tok" / "unpickle_test_easydict_args_truncated_sd.pth"
    words = [sys.executable, "-c", FUZZ, str(source), str(tmp_path), str(first), str(count)]
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == [] and found["events"] == [] and found["left"] == ["ta_tok.pth"]
    assert found["read"] + found["refused"] == count and found["refused"] > found["read"] > 0, found
