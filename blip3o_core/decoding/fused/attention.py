"""Attention of one token, for `step`: a head's keys are split among programs, and what they find is joined later.

HEADS query heads of WIDTH numbers, of which HEADS // KV share the keys of one of KV heads. SPLITS parts of a head's
cached keys, read KEYS at a time. The cache of a layer is (keys or values, rows, KV, length, WIDTH).
"""

import triton
import triton.language as tl

from .tiles import normed_words, packed, places, rounded, squares, unpack


@triton.jit
def rotated(head, gain, cos, sin, eps, WIDTH: tl.constexpr, WIDTH2: tl.constexpr, ACTS: tl.constexpr):
    """A head's query or key, normed and rotated: (16, WIDTH2) words, every line the same.

    Sixteen lines are what eight warps hold of a block of keys, so that no warp needs another for the sum or for the
    products that follow.
    """
    words: tl.constexpr = WIDTH // (2 if ACTS == 1 else 1)
    i = tl.arange(0, WIDTH2)[None, :] + tl.zeros((16, 1), tl.int32)
    inside = i < words
    # A number turns with the one half a head away.
    partner = tl.where(i < words // 2, i + words // 2, i - words // 2)
    sign = tl.where(i < words // 2, -1.0, 1.0)
    x, g = tl.load(head + i, mask=inside, other=0), tl.load(gain + i, mask=inside, other=0)
    y, h = tl.load(head + partner, mask=inside, other=0), tl.load(gain + partner, mask=inside, other=0)
    c, s = tl.load(cos + i, mask=inside, other=0), tl.load(sin + i, mask=inside, other=0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(squares(x, ACTS), 1) / WIDTH + eps)
    x, y = normed_words(x, g, scale[:, None], ACTS), normed_words(y, h, scale[:, None], ACTS)
    first = turned(x, y, c, s, sign, 0, ACTS)
    second = first
    if ACTS == 1:
        second = turned(x, y, c, s, sign, 1, ACTS)
    return packed(first, second, ACTS)


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
    """(keys, values, begin, end) of part `item` among the cached ones; of the last row where there is no such item.

    `firsts` (rows,): where a row's prompt begins behind its padding. `at`: the place of the token that is fed. A head
    has SPLITS parts of cached keys, and a last one of the token's own.
    """
    split, head = item % (SPLITS + 1), (item // (SPLITS + 1)) % HEADS
    b = tl.minimum(item // ((SPLITS + 1) * HEADS), rows - 1)
    keys = cache + (b * KV + head // (HEADS // KV)) * length * WORDS
    first = tl.load(firsts + b)
    share = (at - first + SPLITS - 1) // SPLITS
    begin = first + split * share
    return keys, keys + rows * KV * length * WORDS, begin, tl.minimum(begin + share, at)


@triton.jit
def load_keys(store, begin, end, WORDS: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr):
    """(KEYS, WIDTH2) words of keys or values from place `begin` on."""
    n, i = begin + tl.arange(0, KEYS), tl.arange(0, WIDTH2)
    return tl.load(store + n[:, None] * WORDS + i[None, :], mask=(n < end)[:, None] & (i < WORDS)[None, :], other=0)


@triton.jit
def first_keys(
    item, firsts, cache, at, length, rows, HEADS: tl.constexpr, KV: tl.constexpr, WORDS: tl.constexpr,
    SPLITS: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The first keys and values of a part."""
    keys, values, begin, end = part_of(item, firsts, cache, at, length, rows, HEADS, KV, WORDS, SPLITS)
    return load_keys(keys, begin, end, WORDS, WIDTH2, KEYS), load_keys(values, begin, end, WORDS, WIDTH2, KEYS)


@triton.jit
def attend_cached(
    k, v, q, keys, values, begin, end, scale, WORDS: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr,
    ACTS: tl.constexpr,
):  # fmt: skip
    """(highest score, mass, first and second numbers of the words) of a query against keys `begin` to `end`.

    `k`, `v`: the first KEYS of them. Sixteen lines of keys are summed apart until the end.
    """
    highest = tl.full((16,), -1e30, tl.float32)
    mass = tl.zeros((16,), tl.float32)
    first = tl.zeros((16, WIDTH2), tl.float32)
    second = tl.zeros((16, WIDTH2), tl.float32)
    n = tl.reshape(tl.arange(0, KEYS), (KEYS // 16, 16))
    for start in range(begin, end, KEYS):
        now_k, now_v = tl.reshape(k, (KEYS // 16, 16, WIDTH2)), tl.reshape(v, (KEYS // 16, 16, WIDTH2))
        if start + KEYS < end:
            k = load_keys(keys, start + KEYS, end, WORDS, WIDTH2, KEYS)
            v = load_keys(values, start + KEYS, end, WORDS, WIDTH2, KEYS)
        products = unpack(now_k, 0, ACTS) * unpack(q, 0, ACTS)[None, :, :]
        if ACTS == 1:
            products += unpack(now_k, 1, ACTS) * unpack(q, 1, ACTS)[None, :, :]
        seen = start + n < end
        scores = tl.where(seen, tl.sum(products, 2) * scale, -1e30)
        higher = tl.maximum(highest, tl.max(scores, 0))
        p, shrink = tl.where(seen, tl.exp(scores - higher[None, :]), 0.0), tl.exp(highest - higher)
        mass = mass * shrink + tl.sum(p, 0)
        first = first * shrink[:, None] + tl.sum(p[:, :, None] * unpack(now_v, 0, ACTS), 0)
        if ACTS == 1:
            second = second * shrink[:, None] + tl.sum(p[:, :, None] * unpack(now_v, 1, ACTS), 0)
        highest = higher
    top = tl.max(highest, 0)
    shrink = tl.exp(highest - top)
    first, second = tl.sum(first * shrink[:, None], 0), tl.sum(second * shrink[:, None], 0)
    return top, tl.sum(mass * shrink, 0), first, second


@triton.jit
def attend(
    k, v, qkv, gain_q, gain_k, cos, sin, firsts, cache, parts, lse, at, step, total, length, eps, scale, rows, program,
    HEADS: tl.constexpr, KV: tl.constexpr, WIDTH: tl.constexpr, WIDTH2: tl.constexpr, KEYS: tl.constexpr,
    SPLITS: tl.constexpr, PROGRAMS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """The parts of heads that fall to this program -> `parts`, and the logarithms of their mass -> `lse`.

    `k`, `v`: of the first part, from `first_keys`. A head's last part is the token's own key, which is cached.
    """
    words: tl.constexpr = WIDTH // (2 if ACTS == 1 else 1)
    for item in range(program, rows * HEADS * (SPLITS + 1), PROGRAMS):
        if item > program:
            k, v = first_keys(item, firsts, cache, at, length, rows, HEADS, KV, words, SPLITS, WIDTH2, KEYS)
        split, head = item % (SPLITS + 1), (item // (SPLITS + 1)) % HEADS
        b = item // ((SPLITS + 1) * HEADS)
        keys, values, begin, end = part_of(item, firsts, cache, at, length, rows, HEADS, KV, words, SPLITS)
        row = qkv + b * (HEADS + 2 * KV) * words
        angle = (b * total + step) * words
        q = rotated(row + head * words, gain_q, cos + angle, sin + angle, eps, WIDTH, WIDTH2, ACTS)
        i = tl.arange(0, WIDTH2)
        inside = i < words
        there = parts + item * WIDTH
        if split < SPLITS:
            top, mass, first, second = attend_cached(
                k, v, q, keys, values, begin, end, scale, words, WIDTH2, KEYS, ACTS
            )
            some = tl.maximum(mass, 1e-30)
            tl.store(there + i, first / some, mask=inside)
            if ACTS == 1:
                tl.store(there + words + i, second / some, mask=inside)
            tl.store(lse + item * 4 + tl.arange(0, 4), tl.where(mass > 0, top + tl.log(some), float("-inf")))
        else:
            kv = head // (HEADS // KV)
            key = rotated(row + (HEADS + kv) * words, gain_k, cos + angle, sin + angle, eps, WIDTH, WIDTH2, ACTS)
            value = tl.load(row + (HEADS + KV + kv) * words + i, mask=inside, other=0)
            products = unpack(key, 0, ACTS) * unpack(q, 0, ACTS)
            if ACTS == 1:
                products += unpack(key, 1, ACTS) * unpack(q, 1, ACTS)
            score = tl.max(tl.sum(products, 1), 0) * scale  # every line has it
            tl.store(there + i, unpack(value, 0, ACTS), mask=inside)
            if ACTS == 1:
                tl.store(there + words + i, unpack(value, 1, ACTS), mask=inside)
            tl.store(lse + item * 4 + tl.arange(0, 4), score)
            if head % (HEADS // KV) == 0:
                line, column = tl.arange(0, 16)[:, None], i[None, :]
                tl.store(keys + at * words + line * 0 + column, key, mask=(line == 0) & (column < words))
                tl.store(values + at * words + i, value, mask=inside)


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
    for s in tl.static_range(SPLITS + 1):
        highest = tl.maximum(highest, tl.load(lse + (head * (SPLITS + 1) + s) * 4 + copy, mask=inside, other=0.0))
    mass = tl.zeros((CHUNKS, 128), tl.float32)
    first = tl.zeros((CHUNKS, 128), tl.float32)
    second = tl.zeros((CHUNKS, 128), tl.float32)
    for s in tl.static_range(SPLITS + 1):
        share = tl.exp(tl.load(lse + (head * (SPLITS + 1) + s) * 4 + copy, mask=inside, other=0.0) - highest)
        numbers = parts + (head * (SPLITS + 1) + s) * WIDTH + i
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
