"""Attention of one token, for `step`: a head's keys are split among programs, and what they find is joined later.

HEADS query heads of WIDTH numbers, of which HEADS // KV share the keys of one of KV heads. SPLITS parts a head, read
KEYS at a time. The cache of a layer is (keys or values, rows, KV, length, WIDTH).
"""

import triton
import triton.language as tl

from .tiles import normed_words, packed, places, rounded, squares, unpack


@triton.jit
def rotated(head, gain, cos, sin, eps, WIDTH: tl.constexpr, WIDTH2: tl.constexpr, ACTS: tl.constexpr):
    """A head's query or key, normed and rotated: the first and the second numbers of its words, rounded float32."""
    words: tl.constexpr = WIDTH // (2 if ACTS == 1 else 1)
    i = tl.arange(0, WIDTH2)
    inside = i < words
    # A number turns with the one half a head away.
    partner = tl.where(i < words // 2, i + words // 2, i - words // 2)
    sign = tl.where(i < words // 2, -1.0, 1.0)
    x, g = tl.load(head + i, mask=inside, other=0), tl.load(gain + i, mask=inside, other=0)
    y, h = tl.load(head + partner, mask=inside, other=0), tl.load(gain + partner, mask=inside, other=0)
    c, s = tl.load(cos + i, mask=inside, other=0), tl.load(sin + i, mask=inside, other=0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(squares(x, ACTS)) / WIDTH + eps)
    x, y = normed_words(x, g, scale, ACTS), normed_words(y, h, scale, ACTS)
    first = turned(x, y, c, s, sign, 0, ACTS)
    second = first
    if ACTS == 1:
        second = turned(x, y, c, s, sign, 1, ACTS)
    return first, second


@triton.jit
def turned(x, y, cos, sin, sign, j: tl.constexpr, ACTS: tl.constexpr):
    along = rounded(unpack(x, j, ACTS) * unpack(cos, j, ACTS), ACTS)
    across = rounded(unpack(y, j, ACTS) * sign * unpack(sin, j, ACTS), ACTS)
    return rounded(along + across, ACTS)


@triton.jit
def part_of(
    item, firsts, cache, at, length, rows, HEADS: tl.constexpr, KV: tl.constexpr, WORDS: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """(keys, values, begin, end) of part `item`; of the last row where there is no such item.

    `firsts` (rows,): where a row's prompt begins behind its padding. `at`: the place of the token that is fed.
    """
    split, head = item % SPLITS, (item // SPLITS) % HEADS
    b = tl.minimum(item // (SPLITS * HEADS), rows - 1)
    keys = cache + (b * KV + head // (HEADS // KV)) * length * WORDS
    first = tl.load(firsts + b)
    share = (at + 1 - first + SPLITS - 1) // SPLITS
    begin = first + split * share
    return keys, keys + rows * KV * length * WORDS, begin, tl.minimum(begin + share, at + 1)


@triton.jit
def load_keys(store, begin, end, WORDS: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr):
    """(KEYS, WIDTH2) words of keys or values from place `begin` on."""
    n, i = begin + tl.arange(0, KEYS), tl.arange(0, WIDTH2)
    return tl.load(store + n[:, None] * WORDS + i[None, :], mask=(n < end)[:, None] & (i < WORDS)[None, :], other=0)


@triton.jit
def attend_part(
    item, k, v, qkv, gain_q, gain_k, cos, sin, firsts, cache, parts, lse, at, step, total, length, eps, scale, rows,
    HEADS: tl.constexpr, KV: tl.constexpr, WIDTH: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr,
    SPLITS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """A head's query against a part of its keys -> `parts`, and the logarithm of its mass -> `lse`.

    `k`, `v`: its first keys and values. The token's own key and value are put into the cache on the way.
    """
    words: tl.constexpr = WIDTH // (2 if ACTS == 1 else 1)
    split, head, b = item % SPLITS, (item // SPLITS) % HEADS, item // (SPLITS * HEADS)
    keys, values, begin, end = part_of(item, firsts, cache, at, length, rows, HEADS, KV, words, SPLITS)
    i, n = tl.arange(0, WIDTH2), tl.arange(0, KEYS)
    inside = i < words
    row = qkv + b * (HEADS + 2 * KV) * words
    angle = (b * total + step) * words
    q0, q1 = rotated(row + head * words, gain_q, cos + angle, sin + angle, eps, WIDTH, WIDTH2, ACTS)
    highest = tl.full((1,), float("-inf"), tl.float32)
    mass = tl.zeros((1,), tl.float32)
    first = tl.zeros((WIDTH2,), tl.float32)
    second = tl.zeros((WIDTH2,), tl.float32)
    cached = tl.minimum(end, at)
    for start in range(begin, cached, KEYS):
        now_k, now_v = k, v
        k = load_keys(keys, start + KEYS, cached, words, WIDTH2, KEYS)
        v = load_keys(values, start + KEYS, cached, words, WIDTH2, KEYS)
        products = unpack(now_k, 0, ACTS) * q0[None, :]
        if ACTS == 1:
            products += unpack(now_k, 1, ACTS) * q1[None, :]
        scores = tl.where(start + n < cached, tl.sum(products, 1) * scale, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 0))
        p, shrink = tl.exp(scores - higher), tl.exp(highest - higher)
        mass = mass * shrink + tl.sum(p, 0)
        first = first * shrink + tl.sum(p[:, None] * unpack(now_v, 0, ACTS), 0)
        if ACTS == 1:
            second = second * shrink + tl.sum(p[:, None] * unpack(now_v, 1, ACTS), 0)
        highest = higher
    if (begin <= at) & (end == at + 1):
        kv = head // (HEADS // KV)
        k0, k1 = rotated(row + (HEADS + kv) * words, gain_k, cos + angle, sin + angle, eps, WIDTH, WIDTH2, ACTS)
        value = tl.load(row + (HEADS + KV + kv) * words + i, mask=inside, other=0)
        products = k0 * q0
        if ACTS == 1:
            products += k1 * q1
        score = tl.sum(products, 0) * scale
        higher = tl.maximum(highest, score)
        p, shrink = tl.exp(score - higher), tl.exp(highest - higher)
        mass = mass * shrink + p
        first = first * shrink + p * unpack(value, 0, ACTS)
        if ACTS == 1:
            second = second * shrink + p * unpack(value, 1, ACTS)
        highest = higher
        if head % (HEADS // KV) == 0:
            tl.store(keys + at * words + i, packed(k0, k1, ACTS), mask=inside)
            tl.store(values + at * words + i, value, mask=inside)
    part = (b * HEADS + head) * SPLITS + split
    some = tl.maximum(mass, 1e-30)
    tl.store(parts + part * WIDTH + i, first / some, mask=inside)
    if ACTS == 1:
        tl.store(parts + part * WIDTH + words + i, second / some, mask=inside)
    tl.store(lse + part * 4 + tl.arange(0, 4), tl.where(mass > 0, highest + tl.log(some), float("-inf")))


@triton.jit
def attend(
    w, qkv, gain_q, gain_k, cos, sin, firsts, cache, parts, lse, at, step, total, length, eps, scale, rows, program,
    HEADS: tl.constexpr, KV: tl.constexpr, WIDTH: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr, SPLITS: tl.constexpr, PROGRAMS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """All parts that fall to this program. `w`: (keys, values) of the first of them, from `first_keys`."""
    words: tl.constexpr = WIDTH // (2 if ACTS == 1 else 1)
    k, v = w
    for item in range(program, rows * HEADS * SPLITS, PROGRAMS):
        if item > program:
            k, v = first_keys(item, firsts, cache, at, length, rows, HEADS, KV, words, SPLITS, WIDTH2, KEYS)
        attend_part(item, k, v, qkv, gain_q, gain_k, cos, sin, firsts, cache, parts, lse, at, step, total, length, eps,
                    scale, rows, HEADS, KV, WIDTH, WIDTH2, KEYS, SPLITS, ACTS)  # fmt: skip


@triton.jit
def first_keys(
    item, firsts, cache, at, length, rows, HEADS: tl.constexpr, KV: tl.constexpr, WORDS: tl.constexpr,
    SPLITS: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The first keys and values of a part; the token's own are not among them yet."""
    keys, values, begin, end = part_of(item, firsts, cache, at, length, rows, HEADS, KV, WORDS, SPLITS)
    end = tl.minimum(end, at)
    return load_keys(keys, begin, end, WORDS, WIDTH2, KEYS), load_keys(values, begin, end, WORDS, WIDTH2, KEYS)


@triton.jit
def load_joined(
    parts, lse, unit, part: tl.constexpr, NQ: tl.constexpr, PARTS: tl.constexpr, CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """(CHUNKS, 128) words of what the heads of a row attended to."""
    each: tl.constexpr = 2 if ACTS == 1 else 1
    words: tl.constexpr = WIDTH // each
    at = places(unit, part, PARTS, CHUNKS)
    inside = at < NQ // each
    head, i = at // words, at % words
    # There are four of each number, so that neighbouring threads read neighbouring words.
    copy = (tl.arange(0, 128) % 4)[None, :]
    highest = tl.full((CHUNKS, 128), float("-inf"), tl.float32)
    for s in tl.static_range(SPLITS):
        highest = tl.maximum(highest, tl.load(lse + (head * SPLITS + s) * 4 + copy, mask=inside, other=0.0))
    mass = tl.zeros((CHUNKS, 128), tl.float32)
    first = tl.zeros((CHUNKS, 128), tl.float32)
    second = tl.zeros((CHUNKS, 128), tl.float32)
    for s in tl.static_range(SPLITS):
        share = tl.exp(tl.load(lse + (head * SPLITS + s) * 4 + copy, mask=inside, other=0.0) - highest)
        numbers = parts + (head * SPLITS + s) * WIDTH + i
        mass += share
        first += share * tl.load(numbers, mask=inside, other=0.0)
        if ACTS == 1:
            second += share * tl.load(numbers + words, mask=inside, other=0.0)
    return packed(rounded(first / mass, ACTS), rounded(second / mass, ACTS), ACTS)


@triton.jit
def load_attended(
    parts, lse, unit, NQ: tl.constexpr, PARTS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
    SPLITS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """As `tiles.load_vector`, of what the heads of a row attended to."""
    x0 = load_joined(parts, lse, unit, 0, NQ, PARTS, CHUNKS, WIDTH, SPLITS, ACTS)
    x1, x2, x3 = x0, x0, x0
    if PARTS > 1:
        x1 = load_joined(parts, lse, unit, 1, NQ, PARTS, CHUNKS, WIDTH, SPLITS, ACTS)
    if PARTS > 2:
        x2 = load_joined(parts, lse, unit, 2, NQ, PARTS, CHUNKS, WIDTH, SPLITS, ACTS)
        x3 = load_joined(parts, lse, unit, 3, NQ, PARTS, CHUNKS, WIDTH, SPLITS, ACTS)
    return x0, x1, x2, x3
