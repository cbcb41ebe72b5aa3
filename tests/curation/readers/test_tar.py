"""Tars: everything that can be read of one is read, and what cannot is reported with its place and reason."""

import dataclasses
import gzip
import io
import json
import random
import tarfile

import pytest

from blip3o_core.curation.readers.find import find_pieces, read
from blip3o_core.curation.readers.pieces import Piece
from blip3o_core.curation.readers.tar import NEIGHBOURHOOD
from blip3o_core.curation.sample import Broken, Sample
from blip3o_core.errors import Blip3oError


def image(number: int, size: int = 700) -> bytes:
    """Bytes that stand for an image: no reader here decodes it."""
    return bytes([255, 216, 255]) + random.Random(number).randbytes(size)


def pairs(count: int, first: int = 0) -> dict[str, bytes]:
    members = {}
    for number in range(first, first + count):
        members[f"{number:04d}.jpg"] = image(number)
        members[f"{number:04d}.txt"] = f"image {number}".encode()
    return members


def tar(members, end: bool = True, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """`members`: {name: bytes}, or pairs of a name and bytes or a TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        length = archive.offset
    return buffer.getvalue() if end else buffer.getvalue()[:length]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


def results(tmp_path, data: bytes, name: str = "shard.tar", **options):
    (tmp_path / name).write_bytes(data)
    (piece,) = find_pieces(str(tmp_path / name), options)
    found = list(read(piece))
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Broken)]


def test_a_published_shard_is_read_as_it_is(tmp_path):
    """Catches a plain jpg + txt shard, as the authors publish them, that loses or mixes a pair."""
    samples, broken = results(tmp_path, tar(pairs(300)))
    assert not broken
    assert [one.key for one in samples] == [f"{number:04d}" for number in range(300)]
    assert all(one.image == image(int(one.key)) and one.texts == (f"image {int(one.key)}",) for one in samples)
    assert samples[7].place == f"{tmp_path / 'shard.tar'}:0007.jpg"
    assert {one.kind for one in samples} == {"image"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [101, pytest.param(1, marks=pytest.mark.long)])
def test_no_cut_loses_a_sample_before_it_or_invents_one(tmp_path, form, step):
    """Catches a cut, at any byte, that costs a whole sample before it, keeps half of one, or is not reported once."""
    long = "deep/" * 30 + "long"
    members = {f"{long}{name}" if name.startswith("0002") else name: data for name, data in pairs(4).items()}
    members = members if form != tarfile.USTAR_FORMAT else pairs(4)
    whole = tar(members, form=form)
    archive = tarfile.open(fileobj=io.BytesIO(whole))
    ends = [info.offset_data + info.size for info in archive][1::2]  # of the texts, which come second
    expected = [one.image for one in results(tmp_path, whole)[0]]
    mark = (ends[-1] + 511) // 512 * 512 + 512  # where one block of zeros says that the tar is whole
    cuts = sorted({*range(0, mark, step), *(end + one for end in ends for one in (-1, 0, 1)), *range(0, mark, 512)})
    for cut in cuts:
        samples, broken = results(tmp_path, whole[:cut])
        before = sum(end <= cut for end in ends)
        assert [one.image for one in samples] == expected[:before], cut
        assert all(one.texts for one in samples), cut
        assert len(broken) == 1 and broken[0].place.startswith(str(tmp_path / "shard.tar")), (cut, broken)
        assert f"byte {cut:,}" in broken[0].reason or cut == 0 or cut < 512, (cut, broken)


@pytest.mark.parametrize(
    "order", [("jpg", "json", "r1", "r2"), ("json", "r1", "r2", "jpg"), ("r1", "jpg", "r2", "json")]
)
def test_no_cut_makes_an_edit_of_a_composition(tmp_path, order):
    """Catches a sample at the cut that is kept without the reference that was to come, in any order of members."""
    members = {}
    for number in range(3):
        text = json.dumps({"instruction": f"mix {number}"}).encode()
        parts = {"jpg": ("jpg", image(number)), "json": ("json", text)}
        parts |= {f"r{k}": (f"reference{k}.png", image(10 * number + k)) for k in (1, 2)}
        members |= {f"{number}.{parts[one][0]}": parts[one][1] for one in order}
    whole = tar(members)
    for cut in range(4 * 1536, len(whole) - 1024, 256):  # from the end of the first sample
        samples, broken = results(tmp_path, whole[:cut])
        assert samples and all(one.kind == "composition" for one in samples), cut
        assert broken or cut >= 9 * 1536


def test_random_damage_costs_only_what_it_touches(tmp_path):
    """Catches damage in the middle that ends the reading, goes unreported, or makes wrong samples."""
    generator = random.Random(16)
    whole = tar(pairs(12))
    size = 512 + 1024 + 512 + 512  # a header and two blocks of an image, a header and a block of text
    for _ in range(150):
        start = generator.randrange(12 * size)
        length = generator.randrange(1, 3 * size)
        damaged = bytearray(whole)
        damaged[start : start + length] = generator.randbytes(min(length, 12 * size - start))
        samples, broken = results(tmp_path, bytes(damaged))
        untouched = [n for n in range(12) if (n + 1) * size <= start or n * size >= start + length]
        keys = [one.key for one in samples]
        assert set(f"{n:04d}" for n in untouched) <= set(keys), (start, length, broken)
        headers = [start <= at < start + length for n in range(12) for at in (n * size, n * size + 1536)]
        assert broken or not any(headers), (start, length)
        for one in samples:
            if int(one.key) in untouched:
                assert one.image == image(int(one.key)) and one.texts == (f"image {int(one.key)}",)


def test_a_damaged_header_is_named_and_its_neighbour_is_not_a_reconstruction(tmp_path):
    """Catches an image whose text was lost in the damage, kept as if it never had one."""
    damaged = bytearray(tar(pairs(3)))
    at = 1536 + 1024 + 1536  # the header of 0001.txt
    damaged[at : at + 512] = b"x" * 512
    samples, broken = results(tmp_path, bytes(damaged))
    assert [one.key for one in samples] == ["0000", "0002"]
    assert broken[0].reason.startswith(f"Bytes {at:,} to {at + 1024:,} cannot be read")
    assert "may be missing" in broken[1].reason and broken[1].place.endswith("0001.jpg")


def test_members_in_any_order_within_the_neighbourhood(tmp_path):
    """Catches a reader that only groups members that follow each other."""
    members = list(pairs(60).items())
    random.Random(3).shuffle(members)
    samples, broken = results(tmp_path, tar(members))
    assert not broken and sorted(one.key for one in samples) == [f"{n:04d}" for n in range(60)]
    assert all(one.texts == (f"image {int(one.key)}",) for one in samples)


def test_members_too_far_apart_are_named(tmp_path):
    """Catches texts that are dropped without a word, or another image's, where all images stand before all texts."""
    count = NEIGHBOURHOOD + 50
    members = sorted(pairs(count).items(), key=lambda one: one[0].endswith("txt"))
    samples, broken = results(tmp_path, tar(members))
    assert all(not one.texts or one.texts == (f"image {int(one.key)}",) for one in samples)
    assert len(broken) == sum(not one.texts for one in samples) > 0
    assert all("sorted by name" in one.reason for one in broken)
    samples, broken = results(tmp_path, tar(members[::-1]))
    assert all(one.texts for one in samples) and len(broken) == 2 * (count - len(samples)) > 0


def test_joined_shards_keep_both_samples_of_a_name(tmp_path):
    """Catches the second half of joined shards that overwrites the first, or has its keys."""
    first, second = tar(pairs(300)), tar({name: data + b"!" for name, data in pairs(300).items()})
    samples, broken = results(tmp_path, first + second)
    assert not broken and len(samples) == len({one.key for one in samples}) == 600
    assert [one.texts[0] for one in samples][::300] == ["image 0", "image 0!"]


def test_a_name_twice_in_one_sample_is_reported(tmp_path):
    """Catches one of two members of the same name that disappears."""
    members = [*pairs(1).items(), ("0000.jpg", b"other"), ("0000.TXT", b"other")]
    samples, broken = results(tmp_path, tar(members))
    assert [(one.image, one.texts) for one in samples] == [(image(0), ("image 0",))]
    assert len(broken) == 2 and "0000.jpg" in broken[0].reason


def test_names_roles_and_texts_are_those_of_training(tmp_path):
    """Catches rules that differ from those of the trainer's own shards, which the engine also writes."""
    members = {
        "a/01.jpg": b"one",
        "a/01.json": b'{"caption": ["x", "y", " "], "width": 3, "clip": [1]}',
        "a/._01.jpg": b"mac",
        ".DS_Store": b"mac",
        "02.PNG": b"two",
        "02.webp": b"other",
        "02.txt": "\ufeffcafé".encode("utf-8"),
        "02.json": b'{"url": "u"}',
        "03.jpg": b"target",
        "03.reference.jpg": b"r",
        "03.json": b'{"instruction": "make it red"}',
        "04.jpg": b"t",
        "04.reference2.jpg": b"r2",
        "04.reference10.jpg": b"r10",
        "04.txt": b"mix",
        "05.jpg": b"r",
        "05.json": b'{"caption": null}',
        "06.jpg": b"whole",
        "06.seg.png": b"mask",
        "06.txt": b"whole",
        "07.v2.jpg": b"dots",
        "07.v2.txt": b"dots",
        "08.jpg": b"utf-16",
        "08.txt": "wide".encode("utf-16"),
        "09.jpg": b"class",
        "09.cls": b"9",
    }
    samples, broken = results(tmp_path, tar(members))
    assert not broken, broken
    by = {one.place.rsplit(":", 1)[1]: one for one in samples}
    assert by["a/01.jpg"].texts == ("x", "y") and by["a/01.jpg"].meta == {"width": 3}
    assert by["02.PNG"].texts == ("café",) and by["02.PNG"].meta == {"url": "u", "unused": ["02.webp", "02.json"]}
    assert (by["03.jpg"].kind, by["04.jpg"].kind, by["05.jpg"].kind) == ("edit", "composition", "reconstruction")
    assert by["04.jpg"].references == (b"r2", b"r10") and by["04.jpg"].texts == ("mix",)
    assert by["06.jpg"].meta == {"unused": ["06.seg.png"]} and by["09.jpg"].meta == {"unused": ["09.cls"]}
    assert by["07.v2.jpg"].texts == ("dots",) and by["08.jpg"].texts == ("wide",)
    assert len(samples) == 9 and all("." not in one.key and "/" not in one.key for one in samples)


@pytest.mark.parametrize(
    "members, place, words",
    [
        ({"1.jpg": b"x", "1.txt": b"caf\xe9"}, "1.txt", "line 1, is not UTF-8"),
        ({"1.jpg": b"x", "1.txt": b"a" * 2**20}, "1.txt", "1,048,576 bytes"),
        ({"1.jpg": b"x", "1.json": b"{"}, "1.json", "JSON"),
        ({"1.jpg": b"x", "1.json": b"[1]"}, "1.json", "a list"),
        ({"1.jpg": b"x", "1.json": b'{"prompt": "p"}'}, "1.json", "'caption'; its keys: prompt"),
        ({"1.jpg": b"x", "1.json": b'{"caption": 3}'}, "1.json", "must be text"),
        ({"1.jpg": b"x", "1.json": b'{"caption": "\\ud800"}'}, "1.json", "half a character"),
        ({"1.jpg": b"x", "1.json": b'{"instruction": "i"}'}, "1.json", "reference"),
        ({"1.jpg": b"x", "1.reference.png": b"y", "1.json": b'{"caption": "c"}'}, "1.json", "no 'instruction'"),
        ({"1.jpg": b"", "1.txt": b"t"}, "1.jpg", "empty"),
        ({"1.txt": b"t"}, "1.txt", "No image has the name 1."),
        ({"README.md": b"t"}, "README.md", "not an image"),
    ],
)
def test_a_faulty_sample_is_reported_and_the_others_are_kept(tmp_path, members, place, words):
    """Catches a fault that stops the reading, disappears, or is named without its place."""
    samples, broken = results(tmp_path, tar({**members, **pairs(2)}))
    assert [one.key for one in samples] == ["0000", "0001"]
    assert len(broken) == 1 and broken[0].place == f"{tmp_path / 'shard.tar'}:{place}" and words in broken[0].reason


def test_options_name_the_text_and_its_encoding(tmp_path):
    """Catches options that do not reach the reader."""
    samples, _ = results(
        tmp_path, tar({"1.jpg": b"x", "1.json": '{"long": "é"}'.encode("latin-1")}), encoding="latin-1", text="long"
    )
    assert samples[0].texts == ("é",)
    for options, words in (
        ({"txt": "a"}, "Did you mean text"),
        ({"text": 3}, "must be text"),
        ({"encoding": "u9"}, "u9"),
    ):
        with pytest.raises(Blip3oError, match=words):
            find_pieces(str(tmp_path), options)


def test_links_stay_inside_the_tar(tmp_path):
    """Catches links that are dropped, lead out of the tar, or in circles."""
    (tmp_path / "secret.txt").write_text("secret")
    members = [
        ("captions/shared.txt", b"shared"),
        ("1.jpg", b"x"),
        link("1.txt", "captions/shared.txt"),
        ("2.jpg", b"x"),
        link("2.txt", "captions/shared.txt", tarfile.LNKTYPE),
        ("3.jpg", b"x"),
        link("3.txt", str(tmp_path / "secret.txt")),
        ("4.jpg", b"x"),
        link("4.txt", "4.txt"),
        ("5.jpg", b"x"),
        link("5.txt", "pipe", tarfile.FIFOTYPE),
    ]
    samples, broken = results(tmp_path, tar(members))
    assert [(one.key, one.texts) for one in samples] == [("1", ("shared",)), ("2", ("shared",))]
    reasons = sorted(one.reason for one in broken)
    assert len(reasons) == 4 and "device or a pipe" in reasons[0] and "not in the tar" in reasons[1]


@pytest.mark.parametrize("cut", [None, 0.5, 0.9])
def test_a_packed_tar_gives_what_can_be_unpacked(tmp_path, cut):
    """Catches a .tar.gz that is refused, or one that is cut and loses everything."""
    packed = gzip.compress(tar(pairs(50)), 1)
    samples, broken = results(tmp_path, packed[: int(len(packed) * cut)] if cut else packed, "shard.tar.gz")
    assert len(samples) == 50 if cut is None else 50 * cut - 3 < len(samples) < 50
    assert all(one.texts == (f"image {int(one.key)}",) for one in samples)
    assert not broken if cut is None else len(broken) == 1 and "compressed data" in broken[0].reason


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty"),
        (b"not a tar" * 1000, "cannot be read as a tar"),
        (b"BZh91AY" * 99, "bzip2"),
        (bytes(10240), "no files"),
    ],
)
def test_what_is_not_a_tar_is_one_report(tmp_path, data, words):
    """Catches a file that stops the run, or passes as a tar without members."""
    samples, broken = results(tmp_path, data)
    assert not samples and len(broken) == 1 and words in broken[0].reason


def test_headers_that_ask_for_gigabytes_are_damage(tmp_path):
    """Catches a header whose size is believed: memory for it, a loop, or a negative step."""
    good = tar(pairs(2))
    for kind, size in ((b"L", 2**33), (b"x", 2**33), (b"0", -512)):
        info = tarfile.TarInfo("bad")
        info.type, info.size = kind, size
        samples, broken = results(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + good)
        assert [one.key for one in samples] == ["0000", "0001"] and len(broken) == 1


def test_a_piece_is_plain_values_and_reads_the_same_twice(tmp_path):
    """Catches a piece that cannot travel to another process, and a reading that depends on an earlier one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00000.tar").write_bytes(tar(pairs(3)))
    (tmp_path / "00000.tar").write_bytes(tar(pairs(2)))
    pieces = find_pieces(str(tmp_path), {"text": "caption"})
    again = [Piece(**json.loads(json.dumps(dataclasses.asdict(piece)))) for piece in pieces]
    assert again == pieces and len({piece.name for piece in pieces}) == 2 and pieces[0].name == "00000"
    assert [list(read(one)) for one in again] == [list(read(one)) for one in pieces]
