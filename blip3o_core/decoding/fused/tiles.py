"""Tiles of weight matrices times vectors, for `step`.

Memory is read in words of 32 bits: one float32, two bfloat16, or four int8 or fp8 numbers. A tile is TILE rows of a
matrix by CHUNKS x 128 words. A warp has whole rows of it, 16 bytes a thread, so that a row's sum stays in the warp.

Constants of all kernels: WEIGHTS and ACTS are the kinds of weights and activations (FLOAT32, ...); PER and EACH the
numbers in a word of them; PARTS = PER // EACH words of a vector meet one word of weights.
"""

import triton
import triton.language as tl

FLOAT32, BFLOAT16, INT8, FLOAT8 = 0, 1, 2, 3  # FLOAT8 is e4m3


@triton.jit
def unpack(words, j: tl.constexpr, KIND: tl.constexpr):
    """Number j of each int32 word, as float32."""
    if KIND == 0:
        return words.to(tl.float32, bitcast=True)
    elif KIND == 1:
        if j == 0:
            return (words << 16).to(tl.float32, bitcast=True)
        else:
            return (words & -65536).to(tl.float32, bitcast=True)
    elif KIND == 2:
        return ((words << (24 - 8 * j)) >> 24).to(tl.float32)
    else:
        byte = words >> (8 * j)
        bits = ((byte & 0x80) << 24) | ((byte & 0x7F) << 20)
        # float32 counts its exponent from 127, e4m3 from 7: 2 ** 120.
        return bits.to(tl.float32, bitcast=True) * 1.329227995784916e36


@triton.jit
def rounded(x, KIND: tl.constexpr):
    """float32 -> the nearest number of the kind, as float32."""
    if KIND == 1:
        # By hand: Triton's interpreter, which the tests use, cuts off instead.
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        return bits.to(tl.float32, bitcast=True)
    else:
        return x


@triton.jit
def packed(first, second, KIND: tl.constexpr):
    """Rounded float32 numbers -> words; `second` counts for bfloat16 only."""
    if KIND == 1:
        low = (first.to(tl.int32, bitcast=True) >> 16) & 0xFFFF
        return low | (second.to(tl.int32, bitcast=True) & -65536)
    else:
        return first.to(tl.int32, bitcast=True)


@triton.jit
def store_numbers(base, offsets, x, mask, KIND: tl.constexpr):
    """Store rounded float32 numbers. `base` points to words, `offsets` count numbers."""
    bits = x.to(tl.int32, bitcast=True)
    if KIND == 1:
        numbers = base.to(tl.pointer_type(tl.int16), bitcast=True)
        tl.store(numbers + offsets, (bits >> 16).to(tl.int16), mask=mask)
    else:
        tl.store(base + offsets, bits, mask=mask)


@triton.jit
def load_numbers(base, offsets, mask, KIND: tl.constexpr):
    """Load numbers as float32. `base` points to words, `offsets` count numbers."""
    if KIND == 1:
        numbers = base.to(tl.pointer_type(tl.int16), bitcast=True)
        return (tl.load(numbers + offsets, mask=mask, other=0).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return tl.load(base + offsets, mask=mask, other=0).to(tl.float32, bitcast=True)


# Tiles of matrices


@triton.jit
def load_tile(
    first, rows, WORDS: tl.constexpr, unit, TILE: tl.constexpr, CHUNKS: tl.constexpr
):  # fmt: skip
    """(CHUNKS * TILE, 128) words, chunk by chunk: unit `unit` of the rows that begin at address `first`, WORDS a row.

    `rows`: how many there are, the rest is 0 and not read.
    """
    k = tl.arange(0, CHUNKS * TILE)
    row, chunk = k % TILE, k // TILE
    column = (unit * CHUNKS + chunk)[:, None] * 128 + tl.arange(0, 128)[None, :]
    # The hints make loads of 16 bytes; `engine` sees to it that they hold.
    base = tl.multiple_of(first.to(tl.pointer_type(tl.int32)), 16)
    words = base + tl.multiple_of(row[:, None] * WORDS, [4, 4]) + column
    mask = (row < rows)[:, None] & (column < WORDS)
    return tl.load(words, mask=mask, other=0, eviction_policy="evict_first")


@triton.jit
def load_rows(
    matrix, row, N: tl.constexpr, WORDS: tl.constexpr, unit, TILE: tl.constexpr, CHUNKS: tl.constexpr
):  # fmt: skip
    """The tile at `row` of a matrix of N rows at address `matrix`; 0 behind its end."""
    return load_tile(matrix + row.to(tl.int64) * (WORDS * 4), tl.where(row < N, TILE, 0), WORDS, unit, TILE, CHUNKS)


@triton.jit
def stacked(q, k, v, row, NQ: tl.constexpr, NK: tl.constexpr, WORDS: tl.constexpr):
    """Address of a row of three matrices as if they lay one below the other."""
    at = row.to(tl.int64) * (WORDS * 4)
    in_v = v + at - (NQ + NK) * (WORDS * 4)
    return tl.where(row < NQ, q + at, tl.where(row < NQ + NK, k + at - NQ * (WORDS * 4), in_v))


@triton.jit
def load_qkv(
    q, k, v, row, NQ: tl.constexpr, NK: tl.constexpr, WORDS: tl.constexpr, unit, TILE: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    first = stacked(q, k, v, row, NQ, NK, WORDS)
    return load_tile(first, tl.where(row < NQ + 2 * NK, TILE, 0), WORDS, unit, TILE, CHUNKS)


@triton.jit
def multiply(tile, x0, x1, x2, x3, TILE: tl.constexpr, CHUNKS: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr):
    """A tile times a vector, (TILE,) float32. x0, x1, ...: (CHUNKS, 128), the vector's PARTS for this unit."""
    tile = tl.reshape(tile, (CHUNKS, TILE, 128))
    per: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    each: tl.constexpr = 2 if ACTS == 1 else 1
    total = tl.zeros((TILE, 128), tl.float32)
    for j in tl.static_range(per):
        if j // each == 0:
            x = x0
        elif j // each == 1:
            x = x1
        elif j // each == 2:
            x = x2
        else:
            x = x3
        # Unpacked behind the broadcast: what the warps exchange are words, half of the numbers' size.
        total += tl.sum(unpack(tile, j, WEIGHTS) * unpack(x[:, None, :], j % each, ACTS), 0)
    return tl.sum(total, 1)


@triton.jit
def scaled(y, scales, rows, N):
    """Sums of quantised weights times the scales of their rows."""
    return y * tl.load(scales.to(tl.pointer_type(tl.float32)) + rows, mask=rows < N, other=0.0)[None, :]


@triton.jit
def plus_row(sums, b, more, ROWS2: tl.constexpr):
    """(ROWS2, TILE) sums, with `more` (TILE,) added to those of row b of the batch."""
    return sums + tl.where((tl.arange(0, ROWS2) == b)[:, None], more[None, :], 0.0)


# Vectors


@triton.jit
def places(unit, part: tl.constexpr, PARTS: tl.constexpr, CHUNKS: tl.constexpr):
    """(CHUNKS, 128): which words of a vector meet the words of a unit."""
    chunk = unit * CHUNKS + tl.arange(0, CHUNKS)
    return (chunk[:, None] * 128 + tl.arange(0, 128)[None, :]) * PARTS + part


@triton.jit
def load_part(x, unit, words, part: tl.constexpr, PARTS: tl.constexpr, CHUNKS: tl.constexpr):
    at = places(unit, part, PARTS, CHUNKS)
    return tl.load(x + at, mask=at < words, other=0)


@triton.jit
def load_vector(x, unit, words, PARTS: tl.constexpr, CHUNKS: tl.constexpr):
    """All parts of a vector that meet a unit: four in any case, of which PARTS mean something."""
    x0 = load_part(x, unit, words, 0, PARTS, CHUNKS)
    x1, x2, x3 = x0, x0, x0
    if PARTS > 1:
        x1 = load_part(x, unit, words, 1, PARTS, CHUNKS)
    if PARTS > 2:
        x2, x3 = load_part(x, unit, words, 2, PARTS, CHUNKS), load_part(x, unit, words, 3, PARTS, CHUNKS)
    return x0, x1, x2, x3


@triton.jit
def store_vector(target, x0, x1, x2, x3, unit, words, PARTS: tl.constexpr, CHUNKS: tl.constexpr):
    """What `load_vector` reads."""
    at = places(unit, 0, PARTS, CHUNKS)
    tl.store(target + at, x0, mask=at < words)
    if PARTS > 1:
        tl.store(target + at + 1, x1, mask=at + 1 < words)
    if PARTS > 2:
        tl.store(target + at + 2, x2, mask=at + 2 < words)
        tl.store(target + at + 3, x3, mask=at + 3 < words)


@triton.jit
def squares(x, ACTS: tl.constexpr):
    n = unpack(x, 0, ACTS)
    total = n * n
    if ACTS == 1:
        n = unpack(x, 1, ACTS)
        total += n * n
    return total


@triton.jit
def normed_words(x, gain, scale, ACTS: tl.constexpr):
    """gain * (x * scale), rounded where Qwen3's norm rounds: behind each of the two products."""
    first = rounded(unpack(gain, 0, ACTS) * rounded(unpack(x, 0, ACTS) * scale, ACTS), ACTS)
    second = first
    if ACTS == 1:
        second = rounded(unpack(gain, 1, ACTS) * rounded(unpack(x, 1, ACTS) * scale, ACTS), ACTS)
    return packed(first, second, ACTS)


@triton.jit
def load_normed(
    x, gain, unit: tl.constexpr, D: tl.constexpr, eps, PARTS: tl.constexpr, CHUNKS: tl.constexpr, UNITS: tl.constexpr,
    ACTS: tl.constexpr,
):  # fmt: skip
    """Parts of the RMS norm of x (D numbers in UNITS units) that meet a unit."""
    words: tl.constexpr = D // (2 if ACTS == 1 else 1)
    g0, g1, g2, g3 = load_vector(gain, unit, words, PARTS, CHUNKS)
    v0, v1, v2, v3 = load_vector(x, 0, words, PARTS, CHUNKS)
    total = squares(v0, ACTS)
    if PARTS > 1:
        total += squares(v1, ACTS)
    if PARTS > 2:
        total += squares(v2, ACTS) + squares(v3, ACTS)
    for other in tl.static_range(1, UNITS):
        for part in tl.static_range(PARTS):
            total += squares(load_part(x, other, words, part, PARTS, CHUNKS), ACTS)
    scale = 1.0 / tl.sqrt_rn(tl.sum(total) / D + eps)
    if UNITS > 1:
        v0, v1, v2, v3 = load_vector(x, unit, words, PARTS, CHUNKS)
    x0 = normed_words(v0, g0, scale, ACTS)
    x1, x2, x3 = x0, x0, x0
    if PARTS > 1:
        x1 = normed_words(v1, g1, scale, ACTS)
    if PARTS > 2:
        x2, x3 = normed_words(v2, g2, scale, ACTS), normed_words(v3, g3, scale, ACTS)
    return x0, x1, x2, x3
