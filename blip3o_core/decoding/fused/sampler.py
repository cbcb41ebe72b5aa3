"""Top-k, top-p and the draw as a few Triton kernels, in the place of a sort and two dozen launches.

The k-th largest logit is found digit by digit (8 bits at a time, from the highest), its equals are taken in the order
of their places, and the k that remain are never sorted: where the nucleus ends and where the uniform number falls are
found bit by bit, by summing the mass above a tried key.

Keys are logits as whole numbers of the same order, 8 * ROUNDS bits; two rounds are all that bfloat16 has.
"""

import triton
import triton.language as tl


@triton.jit
def ordered(logits, i, V, SH: tl.constexpr):
    """Logits as int64 of the same order, 0 and up. With SH 16 the bits that bfloat16 does not have are left out."""
    bits = tl.load(logits + i, mask=i < V, other=float("-inf")).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (key >> SH).to(tl.int64) + (1 << (31 - SH))


@triton.jit
def threshold(counts, k, ROUNDS: tl.constexpr):
    """(key of the k-th largest as far as it is known, how many with just this key belong to the k)."""
    digits = tl.arange(0, 256)
    need = k
    prefix = tl.zeros((), tl.int64)
    for round in tl.static_range(ROUNDS):
        count = tl.load(counts + round * 256 + digits)
        at_least = tl.cumsum(count, reverse=True)
        digit = tl.sum((at_least >= need).to(tl.int32)) - 1
        need -= tl.sum(tl.where(digits == digit, at_least - count, 0))
        prefix = prefix * 256 + digit
    return prefix, need


@triton.jit(do_not_specialize=["V", "k"])
def count_kernel(logits, counts, V, k, ROUND: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Counts of a digit of the keys, the highest digit first, among keys whose higher digits are the k-th's."""
    SH: tl.constexpr = 32 - 8 * ROUNDS
    b = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    counts += b * (ROUNDS * 256)
    key = ordered(logits + b * V, i, V, SH)
    mask = i < V
    if ROUND > 0:
        prefix, need = threshold(counts, k, ROUND)
        mask = mask & ((key >> (8 * (ROUNDS - ROUND))) == prefix)
    digit = ((key >> (8 * (ROUNDS - 1 - ROUND))) & 255).to(tl.int32)
    found = tl.histogram(digit, 256, mask=mask)
    tl.atomic_add(counts + ROUND * 256 + tl.arange(0, 256), found, sem="relaxed")


@triton.jit(do_not_specialize=["V", "k"])
def tally_kernel(logits, counts, tallies, V, k, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """How many keys of a block are above the k-th, and how many equal it."""
    SH: tl.constexpr = 32 - 8 * ROUNDS
    b, block = tl.program_id(0), tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    kth, need = threshold(counts + b * (ROUNDS * 256), k, ROUNDS)
    key = ordered(logits + b * V, i, V, SH)
    there = tallies + (b * tl.num_programs(1) + block) * 2
    tl.store(there, tl.sum(((key > kth) & (i < V)).to(tl.int32)))
    tl.store(there + 1, tl.sum(((key == kth) & (i < V)).to(tl.int32)))


@triton.jit(do_not_specialize=["V", "k"])
def gather_kernel(
    logits, counts, tallies, values, places, V, k, ROUNDS: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
    KP: tl.constexpr,
):  # fmt: skip
    """The k largest and their places: those above the k-th, then its equals, both in the order of their places."""
    SH: tl.constexpr = 32 - 8 * ROUNDS
    b, block = tl.program_id(0), tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    kth, need = threshold(counts + b * (ROUNDS * 256), k, ROUNDS)
    key = ordered(logits + b * V, i, V, SH)
    value = tl.load(logits + b * V + i, mask=i < V, other=0.0)
    others = tl.arange(0, BLOCKS)
    exists = others < tl.num_programs(1)
    before = exists & (others < block)
    there = tallies + (b * tl.num_programs(1) + others) * 2
    above, equal = tl.load(there, mask=exists, other=0), tl.load(there + 1, mask=exists, other=0)
    first = tl.sum(tl.where(before, above, 0))
    first_equal = tl.sum(above) + tl.sum(tl.where(before, equal, 0))
    is_above, is_equal = ((key > kth) & (i < V)).to(tl.int32), ((key == kth) & (i < V)).to(tl.int32)
    place = tl.where(is_above == 1, first + tl.cumsum(is_above) - 1, first_equal + tl.cumsum(is_equal) - 1)
    kept = ((is_above == 1) | (is_equal == 1)) & (place < k)
    tl.store(values + b * KP + place, value, mask=kept)
    tl.store(places + b * KP + place, i, mask=kept)


@triton.jit
def mass_above(key, mass, limit):
    return tl.sum(tl.where(key > limit, mass, 0.0))


@triton.jit
def least_below(key, mass, limit, strict: tl.constexpr, BITS: tl.constexpr):
    """The least key such that the keys above it have less mass than `limit`; not `strict`: no more than it."""
    above = tl.zeros((), tl.int64) - 1  # the largest one of which this does not hold, -1 for none
    for bit in tl.static_range(BITS + 1):
        # The last round tries 0 where nothing else was too heavy.
        tried = tl.maximum(above, 0) | ((1 << BITS >> 1) >> bit)
        heavy = mass_above(key, mass, tried)
        above = tl.where((heavy >= limit) if strict else (heavy > limit), tl.maximum(above, tried), above)
    return above + 1


@triton.jit(do_not_specialize=["k", "total", "offset", "copies"])
def pick_kernel(
    values, places, counts, uniforms, counter, token, k, total, top_p, temperature, offset, copies,
    ROUNDS: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """token[b] = the place where the row's uniform number falls among the likeliest that make up top_p of the mass.

    In the order of `sampling.choose`; of equals the first place is the first.
    """
    BITS: tl.constexpr = 8 * ROUNDS
    b, n = tl.program_id(0), tl.arange(0, KP)
    value = tl.load(values + b * KP + n, mask=n < k, other=float("-inf"))
    key = tl.where(n < k, ordered(values + b * KP, n, KP, 32 - BITS), -1)
    mass = tl.where(n < k, tl.exp((value - tl.max(value, 0)) / temperature), 0.0)
    step = tl.minimum(tl.load(counter).to(tl.int32), total - 1)
    u = tl.load(uniforms + b * total + step)

    # The last key that is kept: the keys above it have less than top_p of the mass.
    wanted = top_p * tl.sum(mass)
    last = least_below(key, mass, wanted, True, BITS)
    above = mass_above(key, mass, last)
    one = tl.max(tl.where(key == last, mass, 0.0), 0)
    equals = tl.sum((key == last).to(tl.int32))
    kept = tl.minimum(tl.maximum(tl.ceil((wanted - above) / one), 1.0), equals.to(tl.float32))
    kept = tl.where(top_p < 1.0, kept, equals.to(tl.float32))
    target = u * (above + kept * one)

    found = tl.maximum(least_below(key, mass, target, False, BITS), last)
    one = tl.max(tl.where(key == found, mass, 0.0), 0)
    equal = (key == found).to(tl.int32)
    count = tl.where(found == last, kept, tl.sum(equal).to(tl.float32))
    rank = tl.minimum(tl.maximum(tl.floor((target - mass_above(key, mass, found)) / one), 0.0), count - 1)
    chosen = (equal == 1) & (tl.cumsum(equal) - 1 == rank.to(tl.int32))
    id = tl.sum(tl.where(chosen, tl.load(places + b * KP + n, mask=n < k, other=0), 0)) + offset
    for copy in range(copies):
        tl.store(token + copy * tl.num_programs(0) + b, id.to(tl.int64))
    for round in tl.static_range(ROUNDS):
        tl.store(counts + (b * ROUNDS + round) * 256 + tl.arange(0, 256), tl.zeros((256,), tl.int32))
