"""Shards and packed latents that were damaged, or made to do harm, given to `train`."""

import gzip
import io
import math
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.attacks import attacks, check
from tests.support.bad_training import image, training


def tar(*members, mode: str = "w") -> Callable:
    """A shard of (name, bytes) and (name, type)."""

    def prepare(place: Path) -> None:
        with tarfile.open(place / "d.tar", mode) as shard:
            for name, content in members:
                member = tarfile.TarInfo(name)
                if isinstance(content, bytes) and len(content) != 1:
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
                else:
                    member.type, member.linkname = content, "/etc/passwd"
                    shard.addfile(member)

    return prepare


def raw_tar(content: bytes | Callable[[bytes], bytes]) -> Callable:
    def prepare(place: Path) -> None:
        tar(("a.png", image()), ("a.txt", b"black"))(place)
        whole = (place / "d.tar").read_bytes()
        (place / "d.tar").write_bytes(content(whole) if callable(content) else content)

    return prepare


def header(name: str, size: bytes, kind: bytes = b"0", **fields: tuple[int, bytes]) -> bytes:
    """A tar header with a size and other fields as nobody writes them, and the right sum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size.ljust(12, b"\0"), kind
    for start, content in fields.values():
        block[start : start + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = header("a.txt", b"00000000000\0", b"S", real=(483, b"\x80\0\0\x0f" + bytes(8)))
NEGATIVE = header("a.png", b"\xff" * 12)
SHARD = {"data": lambda place: [str(place / "d.tar")]}
SHARDS = [
    training("a shard that is fine", None, tar(("a.png", image()), ("a.txt", b"red")), **SHARD),
    training("members that leave the folder", None, tar(("../../evil.png", image()), ("/evil.txt", b"red")), **SHARD),
    training(
        "a link to the system",
        r"contains no images .*links to what is not in the shard",
        tar(("a.png", tarfile.SYMTYPE)),
        **SHARD,
    ),
    training(
        "a device in a shard", r"contains no images .*devices and pipes", tar(("a.png", tarfile.CHRTYPE)), **SHARD
    ),
    training(
        "json nested 200,000 deep",
        r"a\.json cannot be read as JSON: it is nested too deeply",
        tar(("a.png", image()), ("a.json", b"[" * 200_000)),
        **SHARD,
    ),
    training(
        "json that is a list",
        r"a\.json must contain a JSON object",
        tar(("a.png", image()), ("a.json", b"[1,2]")),
        **SHARD,
    ),
    training(
        "json without a caption",
        r'a\.json has no "caption"',
        tar(("a.png", image()), ("a.json", b'{"text": "red"}')),
        **SHARD,
    ),
    training(
        "a text in other bytes",
        r"a\.txt, line 1, is not UTF-8",
        tar(("a.png", image()), ("a.txt", b"\xff\xfa")),
        **SHARD,
    ),
    training("a shard cut in a member", r"cut short|unexpected end", raw_tar(lambda whole: whole[:600]), **SHARD),
    training("a shard of garbage", r"uncompressed \.tar shard", raw_tar(b"x" * 5000), **SHARD),
    training("a shard of nothing", r"uncompressed \.tar shard", raw_tar(b""), **SHARD),
    training("a compressed shard", r"uncompressed \.tar shard", raw_tar(gzip.compress), **SHARD),
    training("two shards in one file", r"several shards were joined", raw_tar(lambda whole: whole + whole), **SHARD),
    training("a sparse member of 60 GB", r"sparse", raw_tar(SPARSE + bytes(1024)), **SHARD),
    training("a member of a negative size", r"d\.tar", raw_tar(NEGATIVE + bytes(1024)), **SHARD),
    training(
        "a member of an exabyte",
        r"cut short|d\.tar",
        raw_tar(header("a.png", b"\x80\0\0\0\x10" + bytes(7)) + bytes(1024)),
        **SHARD,
    ),
    training(
        "10,000 long names before a member",
        r"d\.tar",
        raw_tar(b"".join([header("././@LongLink", b"00000000001\0", b"L") + b"x".ljust(512, b"\0")] * 10_000)),
        **SHARD,
    ),
    training("a shard that is a pipe", r"data names", lambda place: os.mkfifo(place / "d.tar"), **SHARD),
]


def packed(**changes) -> Callable:
    """A packed file whose tensors are changed; bytes are captions."""

    def prepare(place: Path) -> None:
        tensors = {"codes": torch.zeros(2, 64, dtype=torch.int32), "latents": torch.zeros(2, 32, 8, 8)}
        tensors["captions"] = torch.frombuffer(bytearray(b'["red", "red"]'), dtype=torch.uint8)
        for name, change in changes.items():
            given = (
                change(tensors[name]) if callable(change) else torch.frombuffer(bytearray(change), dtype=torch.uint8)
            )
            tensors[name] = given.contiguous()
        save_file(tensors, place / "d.safetensors")

    return prepare


PACK = {"data": lambda place: [str(place / "d.safetensors")]}
PACKS = [
    training("a packed file that is fine", None, packed(), **PACK),
    training("captions nested 200,000 deep", r"nested too deeply", packed(captions=b"[" * 200_000), **PACK),
    training("captions in other bytes", r"not UTF-8", packed(captions=b"\xff\xff"), **PACK),
    training("captions of floats", r"captions is .*must be bytes", packed(captions=lambda old: torch.zeros(3)), **PACK),
    training("too few captions", r"1 captions for 2 images", packed(captions=b'["red"]'), **PACK),
    training("codes beyond the codebook", r"codes are .* to 1000000", packed(codes=lambda old: old + 10**6), **PACK),
    training("codes below zero", r"codes are -1", packed(codes=lambda old: old - 1), **PACK),
    training("codes that are true or false", r"must be integer", packed(codes=lambda old: old.bool()), **PACK),
    training("codes of uint64", r"must be integer", packed(codes=lambda old: old.to(torch.uint64)), **PACK),
    training("latents of NaN", r"row \d: its latents contains NaN", packed(latents=lambda old: old * math.nan), **PACK),
    training(
        "latents of 8 bits", r"must be floating-point", packed(latents=lambda old: old.to(torch.float8_e4m3fn)), **PACK
    ),
    training(
        "no rows",
        r"contains no images",
        packed(codes=lambda old: old[:0], latents=lambda old: old[:0], captions=b"[]"),
        **PACK,
    ),
    training("codes without width", r"0 codes per image", packed(codes=lambda old: old[:, :0]), **PACK),
    training(
        "a packed file cut short",
        r"d\.safetensors",
        lambda place: (
            packed()(place),
            (place / "d.safetensors").write_bytes((place / "d.safetensors").read_bytes()[:-9]),
        ),
        **PACK,
    ),
]


@attacks([SHARDS[4], PACKS[1]], slow=[*SHARDS[:4], *SHARDS[5:], PACKS[0], *PACKS[2:]])
def test_bad_shards_are_refused_in_words(attack, tmp_path):
    """Catches tracebacks and hangs for archives from the internet, and captions or latents of something else."""
    check(attack, tmp_path)
