"""One token through the language model, in one launch.

Every program goes through all layers. A layer has five parts, each of which needs all of what the one before it made:

    qkv = [q | k | v] norm(x)          attend          x += o attended
    gated = silu(gate norm(x)) * (up norm(x))          x += down gated

Between them the programs meet at a barrier. The weights of a part depend on nothing, so a program asks for its first
tile before it waits, and for the next one before it multiplies the last. In a test without a card, where programs run
one after the other, a launch does one part (PART) of one layer.
"""

import triton
import triton.language as tl

from .attention import attend, first_keys, load_attended
from .barrier import arrive, wait
from .tiles import (
    load_normed,
    load_numbers,
    load_part,
    load_qkv,
    load_rows,
    load_vector,
    multiply,
    plus_row,
    rounded,
    scaled,
    stacked,
    store_numbers,
    store_vector,
)

COLUMNS = 18  # of the table: addresses of 7 matrices, 4 gains, 7 vectors of scales


@triton.jit
def norm_rows(
    source, embedding, token, embedded, gain, scratch, eps, rows, D: tl.constexpr, PARTS: tl.constexpr,
    CHUNKS: tl.constexpr, UNITS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """norm(x) of every row of the batch into this program's own memory."""
    words: tl.constexpr = D // (2 if ACTS == 1 else 1)
    for b in range(rows):
        x = source + b * words
        if embedded:
            x = embedding + tl.multiple_of(tl.load(token + b) * words, 4)
        for unit in tl.static_range(UNITS):
            x0, x1, x2, x3 = load_normed(x, gain, unit, D, eps, PARTS, CHUNKS, UNITS, ACTS)
            store_vector(scratch + b * words, x0, x1, x2, x3, unit, words, PARTS, CHUNKS)
    tl.debug_barrier()


@triton.jit
def multiply_rows(
    y, tile, unit, vectors, x0, x1, x2, x3, rows, K: tl.constexpr, SINGLE: tl.constexpr, HELD: tl.constexpr,
    ROWS2: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """(ROWS2, TILE) sums, with a tile times unit `unit` of every row's vector of K numbers.

    `HELD`: there is one vector, and it is x0, ...
    """
    each: tl.constexpr = 2 if ACTS == 1 else 1
    per: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    if SINGLE:
        if not HELD:
            x0, x1, x2, x3 = load_vector(vectors, unit, K // each, per // each, CHUNKS)
        y = plus_row(y, 0, multiply(tile, x0, x1, x2, x3, TILE, CHUNKS, WEIGHTS, ACTS), ROWS2)
    else:
        for b in range(rows):
            v0, v1, v2, v3 = load_vector(vectors + b * (K // each), unit, K // each, per // each, CHUNKS)
            y = plus_row(y, b, multiply(tile, v0, v1, v2, v3, TILE, CHUNKS, WEIGHTS, ACTS), ROWS2)
    return y


# The parts of a layer. A part goes through its tiles in turns, a unit of each at a time, and has two of them under way:
# the first two since before the program waited, the others since the turn before the last.


@triton.jit
def turn(
    t, program, K: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, PER: tl.constexpr
):
    """(first row, unit) of a program's turn in a matrix whose rows have K numbers."""
    units: tl.constexpr = (K // PER + CHUNKS * 128 - 1) // (CHUNKS * 128)
    return (program + t // units * PROGRAMS) * TILE, t % units


@triton.jit
def tile_qkv(
    t, q, k, v, program, D: tl.constexpr, NQ: tl.constexpr, NK: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr,
    PROGRAMS: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    row, unit = turn(t, program, D, TILE, CHUNKS, PROGRAMS, PER)
    return load_qkv(q, k, v, row, NQ, NK, D // PER, unit, TILE, CHUNKS)


@triton.jit
def project_qkv(
    w, w2, q, k, v, scale_q, scale_k, scale_v, x, embedding, token, embedded, gain, qkv, scratch, eps, rows, program,
    D: tl.constexpr, NQ: tl.constexpr, NK: tl.constexpr, SINGLE: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr, PER: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    """qkv = [q | k | v] norm(x); where `embedded`, x is what the tokens embed as."""
    N: tl.constexpr = NQ + 2 * NK
    units: tl.constexpr = (D // PER + CHUNKS * 128 - 1) // (CHUNKS * 128)
    turns: tl.constexpr = ((N + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS * units
    held: tl.constexpr = SINGLE & (units == 1)  # the vector stays in registers
    x0, x1, x2, x3 = None, None, None, None
    if held:
        source = x
        if embedded:
            source = embedding + tl.multiple_of(tl.load(token) * (D // EACH), 4)
        x0, x1, x2, x3 = load_normed(source, gain, 0, D, eps, PER // EACH, CHUNKS, units, ACTS)
    else:
        norm_rows(x, embedding, token, embedded, gain, scratch, eps, rows, D, PER // EACH, CHUNKS, units, ACTS)
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    y = tl.zeros((ROWS2, TILE), tl.float32)
    for t in range(turns):
        row, unit = turn(t, program, D, TILE, CHUNKS, PROGRAMS, PER)
        y = multiply_rows(
            y, w, unit, scratch, x0, x1, x2, x3, rows, D, SINGLE, held, ROWS2, TILE, CHUNKS, WEIGHTS, ACTS
        )
        w = w2
        if t + 2 < turns:
            w2 = tile_qkv(t + 2, q, k, v, program, D, NQ, NK, TILE, CHUNKS, PROGRAMS, PER)
        if unit == units - 1:
            if WEIGHTS > 1:
                y = scaled(y, stacked(scale_q, scale_k, scale_v, row, NQ, NK, 1), r, N - row)
            mask = (b < rows)[:, None] & (row + r < N)[None, :]
            store_numbers(qkv, b[:, None] * N + (row + r)[None, :], rounded(y, ACTS), mask, ACTS)
            y = tl.zeros((ROWS2, TILE), tl.float32)


@triton.jit
def tile_rows(
    t, matrix, program, N: tl.constexpr, K: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr,
    PROGRAMS: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    row, unit = turn(t, program, K, TILE, CHUNKS, PROGRAMS, PER)
    return load_rows(matrix, row, N, K // PER, unit, TILE, CHUNKS)


@triton.jit
def add_projected(
    w, w2, matrix, scales, source, lse, x, scratch, rows, program,
    D: tl.constexpr, K: tl.constexpr, ATTENDED: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
    SINGLE: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr,
    WEIGHTS: tl.constexpr, ACTS: tl.constexpr, PER: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """x += matrix source. `ATTENDED`: `source` is what attention left behind, in parts."""
    units: tl.constexpr = (K // PER + CHUNKS * 128 - 1) // (CHUNKS * 128)
    turns: tl.constexpr = ((D + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS * units
    held: tl.constexpr = ATTENDED & SINGLE & (units == 1)
    x0, x1, x2, x3 = None, None, None, None
    if held:
        x0, x1, x2, x3 = load_attended(source, lse, 0, K, PER // EACH, CHUNKS, WIDTH, SPLITS, ACTS)
    elif ATTENDED:
        for b_ in range(rows):
            for u in tl.static_range(units):
                v0, v1, v2, v3 = load_attended(
                    source + b_ * (K * (SPLITS + 1)), lse + b_ * (K // WIDTH * (SPLITS + 1) * 4), u, K, PER // EACH,
                    CHUNKS, WIDTH, SPLITS, ACTS,
                )  # fmt: skip
                store_vector(scratch + b_ * (K // EACH), v0, v1, v2, v3, u, K // EACH, PER // EACH, CHUNKS)
        tl.debug_barrier()
        source = scratch
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    y = tl.zeros((ROWS2, TILE), tl.float32)
    for t in range(turns):
        row, unit = turn(t, program, K, TILE, CHUNKS, PROGRAMS, PER)
        y = multiply_rows(y, w, unit, source, x0, x1, x2, x3, rows, K, SINGLE, held, ROWS2, TILE, CHUNKS, WEIGHTS, ACTS)
        w = w2
        if t + 2 < turns:
            w2 = tile_rows(t + 2, matrix, program, D, K, TILE, CHUNKS, PROGRAMS, PER)
        if unit == units - 1:
            there = b[:, None] * D + (row + r)[None, :]
            mask = (b < rows)[:, None] & (row + r < D)[None, :]
            if WEIGHTS > 1:
                y = scaled(y, scales, row + r, D)
            before = load_numbers(x, there, mask, ACTS)
            store_numbers(x, there, rounded(before + rounded(y, ACTS), ACTS), mask, ACTS)
            y = tl.zeros((ROWS2, TILE), tl.float32)


@triton.jit
def project_gated(
    w, w2, gate, up, scale_g, scale_u, x, gain, gated, scratch, eps, rows, program,
    D: tl.constexpr, F: tl.constexpr, SINGLE: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr, PER: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    """gated = silu(gate norm(x)) * (up norm(x)), the two by turns."""
    units: tl.constexpr = (D // PER + CHUNKS * 128 - 1) // (CHUNKS * 128)
    turns: tl.constexpr = ((F + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS * units * 2
    held: tl.constexpr = SINGLE & (units == 1)
    x0, x1, x2, x3 = None, None, None, None
    if held:
        x0, x1, x2, x3 = load_normed(x, gain, 0, D, eps, PER // EACH, CHUNKS, units, ACTS)
    else:
        norm_rows(x, x, x, False, gain, scratch, eps, rows, D, PER // EACH, CHUNKS, units, ACTS)
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    g = tl.zeros((ROWS2, TILE), tl.float32)
    u = tl.zeros((ROWS2, TILE), tl.float32)
    for t in range(turns):
        row, unit = turn(t // 2, program, D, TILE, CHUNKS, PROGRAMS, PER)
        zero = tl.zeros((ROWS2, TILE), tl.float32)
        y = multiply_rows(
            zero, w, unit, scratch, x0, x1, x2, x3, rows, D, SINGLE, held, ROWS2, TILE, CHUNKS, WEIGHTS, ACTS
        )
        w = w2
        if t + 2 < turns:
            w2 = tile_rows(t // 2 + 1, tl.where(t % 2 == 0, gate, up), program, F, D, TILE, CHUNKS, PROGRAMS, PER)
        g += tl.where(t % 2 == 0, y, 0.0)
        u += tl.where(t % 2 == 0, 0.0, y)
        if (unit == units - 1) & (t % 2 == 1):
            if WEIGHTS > 1:
                g, u = scaled(g, scale_g, row + r, F), scaled(u, scale_u, row + r, F)
            g, u = rounded(g, ACTS), rounded(u, ACTS)
            silu = rounded(g / (1.0 + tl.exp(-g)), ACTS)
            mask = (b < rows)[:, None] & (row + r < F)[None, :]
            store_numbers(gated, b[:, None] * F + (row + r)[None, :], rounded(silu * u, ACTS), mask, ACTS)
            g = tl.zeros((ROWS2, TILE), tl.float32)
            u = tl.zeros((ROWS2, TILE), tl.float32)


@triton.jit
def project_logits(
    w, w2, head, x, gain, hidden, logits, counter, scratch, step, total, eps, rows, drawn, program,
    D: tl.constexpr, V: tl.constexpr, SINGLE: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, ACTS: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """logits = head norm(x). The normed states of the rows that are drawn are kept, and the step is counted."""
    words: tl.constexpr = D // EACH
    units: tl.constexpr = (words + CHUNKS * 128 - 1) // (CHUNKS * 128)
    turns: tl.constexpr = ((V + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS * units
    held: tl.constexpr = SINGLE & (units == 1)
    x0, x1, x2, x3 = None, None, None, None
    if held:
        x0, x1, x2, x3 = load_normed(x, gain, 0, D, eps, 1, CHUNKS, units, ACTS)
    else:
        norm_rows(x, x, x, False, gain, scratch, eps, rows, D, 1, CHUNKS, units, ACTS)
    if program == 0:
        for b_ in range(drawn):
            for u in tl.static_range(units):
                h, _, _, _ = load_normed(x + b_ * words, gain, u, D, eps, 1, CHUNKS, units, ACTS)
                place = hidden + (b_ * (total + 1) + step + 1) * words
                store_vector(place, h, h, h, h, u, words, 1, CHUNKS)
        tl.store(counter, (step + 1).to(tl.int64))
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    y = tl.zeros((ROWS2, TILE), tl.float32)
    for t in range(turns):
        row, unit = turn(t, program, D, TILE, CHUNKS, PROGRAMS, EACH)
        y = multiply_rows(y, w, unit, scratch, x0, x1, x2, x3, rows, D, SINGLE, held, ROWS2, TILE, CHUNKS, ACTS, ACTS)
        w = w2
        if t + 2 < turns:
            w2 = tile_rows(t + 2, head, program, V, D, TILE, CHUNKS, PROGRAMS, EACH)
        if unit == units - 1:
            mask = (b < rows)[:, None] & (row + r < V)[None, :]
            tl.store(logits + b[:, None] * V + (row + r)[None, :], rounded(y, ACTS), mask=mask)
            y = tl.zeros((ROWS2, TILE), tl.float32)


@triton.jit(do_not_specialize=["begin", "total", "length", "rows", "drawn", "layer_from", "layer_to"])
def step_kernel(
    table, x, qkv, parts, lse, gated, cache, cos, sin, firsts, counter, token, ids, hidden, embedding, gain, head,
    logits, barrier, scratch, begin, total, length, eps, scale, rows, drawn, layer_from, layer_to,
    PART: tl.constexpr, D: tl.constexpr, F: tl.constexpr, V: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr,
    WIDTH: tl.constexpr, WIDTH2: tl.constexpr, SINGLE: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, SPLITS: tl.constexpr, KEYS: tl.constexpr, WEIGHTS: tl.constexpr,
    ACTS: tl.constexpr,
):  # fmt: skip
    """Feeds the tokens in `token`, notes them in `ids` and their states in `hidden`, and writes the next ones' logits.

    `table` (layers, COLUMNS) int64 addresses; x, qkv, gated: activations; parts, lse: of attention; `counter`: tokens
    fed so far; `begin`: places of the cache that the prompt has; `total`: tokens of an image; `length`: of the cache;
    `rows` that are fed, of which the first `drawn` are noted; `scratch`: room for a vector of each row, for each
    program. Memory of weights and activations is given as words, logits as float32.
    """
    EACH: tl.constexpr = 2 if ACTS == 1 else 1
    PER: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    NQ: tl.constexpr = HEADS * WIDTH
    NK: tl.constexpr = KV * WIDTH
    words: tl.constexpr = D // EACH
    whole: tl.constexpr = PART < 0
    program = tl.program_id(0)
    step = tl.load(counter).to(tl.int32)
    at = begin + step
    arrivals = step * (5 * layer_to * PROGRAMS)
    scratch += program * rows * (max(D, NQ) // EACH)
    if whole or PART == 0:
        # What is fed is put down for the sums that the layers add to.
        if (layer_from == 0) & (program == 0):
            for b in range(rows):
                fed = tl.load(token + b)
                for unit in tl.static_range((words + CHUNKS * 128 - 1) // (CHUNKS * 128)):
                    e = load_part(embedding + tl.multiple_of(fed * words, 4), unit, words, 0, 1, CHUNKS)
                    store_vector(x + b * words, e, e, e, e, unit, words, 1, CHUNKS)
                if b < drawn:
                    tl.store(ids + b * total + step, fed)
    for layer in range(layer_from, layer_to):
        m = table + layer * 18
        q, k, v, o = tl.load(m), tl.load(m + 1), tl.load(m + 2), tl.load(m + 3)
        gate, up, down = tl.load(m + 4), tl.load(m + 5), tl.load(m + 6)
        before = tl.multiple_of(tl.load(m + 7).to(tl.pointer_type(tl.int32)), 16)
        after = tl.multiple_of(tl.load(m + 8).to(tl.pointer_type(tl.int32)), 16)
        gain_q = tl.multiple_of(tl.load(m + 9).to(tl.pointer_type(tl.int32)), 16)
        gain_k = tl.multiple_of(tl.load(m + 10).to(tl.pointer_type(tl.int32)), 16)
        scale_q, scale_k, scale_v, scale_o = tl.load(m + 11), tl.load(m + 12), tl.load(m + 13), tl.load(m + 14)
        scale_g, scale_u, scale_d = tl.load(m + 15), tl.load(m + 16), tl.load(m + 17)
        store = cache + layer * (length.to(tl.int64) * rows * (2 * KV * (WIDTH // EACH)))
        if whole or PART == 0:
            w = tile_qkv(0, q, k, v, program, D, NQ, NK, TILE, CHUNKS, PROGRAMS, PER)
            w2 = tile_qkv(1, q, k, v, program, D, NQ, NK, TILE, CHUNKS, PROGRAMS, PER)
            if whole:
                if layer > 0:
                    wait(barrier, arrivals)
            project_qkv(
                w, w2, q, k, v, scale_q, scale_k, scale_v, x, embedding, token, layer == 0, before, qkv, scratch, eps,
                rows, program, D, NQ, NK, SINGLE, ROWS2, TILE, CHUNKS, PROGRAMS, WEIGHTS, ACTS, PER, EACH,
            )  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 2:
            # Attention has little to read: the next matrix is under way beside it.
            w = tile_rows(0, o, program, D, NQ, TILE, CHUNKS, PROGRAMS, PER)
            w2 = tile_rows(1, o, program, D, NQ, TILE, CHUNKS, PROGRAMS, PER)
        if whole or PART == 1:
            keys, values = first_keys(
                program, firsts, store, at, length, rows, HEADS, KV, WIDTH // EACH, SPLITS, WIDTH2, KEYS
            )
            if whole:
                wait(barrier, arrivals)
            attend(
                keys, values, qkv, gain_q, gain_k, cos, sin, firsts, store, parts, lse, at, step, total, length, eps,
                scale, rows, program, HEADS, KV, WIDTH, WIDTH2, KEYS, SPLITS, PROGRAMS, ACTS,
            )  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 2:
            if whole:
                wait(barrier, arrivals)
            add_projected(
                w, w2, o, scale_o, parts, lse, x, scratch, rows, program, D, NQ, True, WIDTH, SPLITS, SINGLE, ROWS2,
                TILE, CHUNKS, PROGRAMS, WEIGHTS, ACTS, PER, EACH,
            )  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 3:
            w = tile_rows(0, gate, program, F, D, TILE, CHUNKS, PROGRAMS, PER)
            w2 = tile_rows(0, up, program, F, D, TILE, CHUNKS, PROGRAMS, PER)
            if whole:
                wait(barrier, arrivals)
            project_gated(w, w2, gate, up, scale_g, scale_u, x, after, gated, scratch, eps, rows, program, D, F, SINGLE,
                          ROWS2, TILE, CHUNKS, PROGRAMS, WEIGHTS, ACTS, PER, EACH)  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 4:
            w = tile_rows(0, down, program, D, F, TILE, CHUNKS, PROGRAMS, PER)
            w2 = tile_rows(1, down, program, D, F, TILE, CHUNKS, PROGRAMS, PER)
            if whole:
                wait(barrier, arrivals)
            add_projected(
                w, w2, down, scale_d, gated, lse, x, scratch, rows, program, D, F, False, WIDTH, SPLITS, SINGLE, ROWS2,
                TILE, CHUNKS, PROGRAMS, WEIGHTS, ACTS, PER, EACH,
            )  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
    if whole or PART == 5:
        output = head.to(tl.int64)
        w = tile_rows(0, output, program, V, D, TILE, CHUNKS, PROGRAMS, EACH)
        w2 = tile_rows(1, output, program, V, D, TILE, CHUNKS, PROGRAMS, EACH)
        if whole:
            wait(barrier, arrivals)
        project_logits(w, w2, output, x, gain, hidden, logits, counter, scratch, step, total, eps, rows, drawn,
                       program, D, V, SINGLE, ROWS2, TILE, CHUNKS, PROGRAMS, ACTS, EACH)  # fmt: skip
