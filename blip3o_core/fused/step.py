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
from .tiles import (
    load_normed, load_numbers, load_part, load_qkv, load_rows, load_vector, multiply, plus_row, rounded, scaled, stacked,
    store_numbers, store_vector,
)  # fmt: skip

COLUMNS = 18  # of the table: addresses of 7 matrices, 4 gains, 7 vectors of scales


@triton.jit
def arrive(barrier):
    """What this program has written is there for all who wait."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        """{
        .reg .pred first;
        .reg .u32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first red.release.gpu.global.add.s32 [$1], 1;
        mov.u32 $0, 0;
        }""",
        "=r,l", [barrier], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def wait(barrier, arrivals):
    """Until so many arrivals have been counted."""
    tl.inline_asm_elementwise(
        """{
        .reg .pred other, early;
        .reg .u32 thread;
        .reg .s32 seen;
        mov.u32 thread, %tid.x;
        setp.ne.u32 other, thread, 0;
        @other bra arrived;
        again:
        ld.acquire.gpu.global.s32 seen, [$1];
        setp.lt.s32 early, seen, $2;
        @early bra again;
        arrived:
        mov.u32 $0, 0;
        }""",
        "=r,l,r", [barrier, arrivals], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    tl.debug_barrier()


@triton.jit
def norm_rows(
    source, embedding, token, embedded, gain, scratch, eps, D: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
    CHUNKS: tl.constexpr, UNITS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """norm(x) of every row of the batch into this program's own memory."""
    words: tl.constexpr = D // (2 if ACTS == 1 else 1)
    for b in range(ROWS):
        x = source + b * words
        if embedded:
            x = embedding + tl.multiple_of(tl.load(token + b) * words, 4)
        for unit in tl.static_range(UNITS):
            x0, x1, x2, x3 = load_normed(x, gain, unit, D, eps, PARTS, CHUNKS, UNITS, ACTS)
            store_vector(scratch + b * words, x0, x1, x2, x3, unit, words, PARTS, CHUNKS)
    tl.debug_barrier()


@triton.jit
def project_qkv(
    w, q, k, v, scale_q, scale_k, scale_v, x, embedding, token, embedded, gain, qkv, scratch, eps, program,
    D: tl.constexpr, NQ: tl.constexpr, NK: tl.constexpr, ROWS: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """qkv = [q | k | v] norm(x); where `embedded`, x is what the tokens embed as. `w`: the first tile."""
    each: tl.constexpr = 2 if ACTS == 1 else 1
    per: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    N: tl.constexpr = NQ + 2 * NK
    units: tl.constexpr = (D // per + CHUNKS * 128 - 1) // (CHUNKS * 128)
    tiles: tl.constexpr = ((N + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS
    held: tl.constexpr = (ROWS == 1) & (units == 1)  # the vector stays in registers
    if held:
        source = x
        if embedded:
            source = embedding + tl.multiple_of(tl.load(token) * (D // each), 4)
        x0, x1, x2, x3 = load_normed(source, gain, 0, D, eps, per // each, CHUNKS, units, ACTS)
    else:
        norm_rows(x, embedding, token, embedded, gain, scratch, eps, D, ROWS, per // each, CHUNKS, units, ACTS)
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    for t in range(tiles):
        row = (program + t * PROGRAMS) * TILE
        y = tl.zeros((ROWS2, TILE), tl.float32)
        for unit in tl.static_range(units):
            now = w
            if unit + 1 < units:
                w = load_qkv(q, k, v, row, NQ, NK, D // per, unit + 1, TILE, CHUNKS)
            else:
                w = load_qkv(q, k, v, row + PROGRAMS * TILE, NQ, NK, D // per, 0, TILE, CHUNKS)
            for each_row in range(ROWS):
                if not held:
                    source = scratch + each_row * (D // each)
                    x0, x1, x2, x3 = load_vector(source, unit, D // each, per // each, CHUNKS)
                y = plus_row(y, each_row, multiply(now, x0, x1, x2, x3, TILE, CHUNKS, WEIGHTS, ACTS), ROWS2)
        if WEIGHTS > 1:
            y = scaled(y, stacked(scale_q, scale_k, scale_v, row, NQ, NK, 1), r, N - row)
        mask = (b < ROWS)[:, None] & (row + r < N)[None, :]
        store_numbers(qkv, b[:, None] * N + (row + r)[None, :], rounded(y, ACTS), mask, ACTS)


@triton.jit
def add_projected(
    w, matrix, scales, source, lse, x, scratch, program,
    D: tl.constexpr, K: tl.constexpr, ATTENDED: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr,
    WEIGHTS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """x += matrix source. `w`: the first tile. `ATTENDED`: `source` is what attention left behind, in parts."""
    each: tl.constexpr = 2 if ACTS == 1 else 1
    per: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    units: tl.constexpr = (K // per + CHUNKS * 128 - 1) // (CHUNKS * 128)
    tiles: tl.constexpr = ((D + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS
    held: tl.constexpr = ATTENDED & (ROWS == 1) & (units == 1)
    if held:
        x0, x1, x2, x3 = load_attended(source, lse, 0, K, per // each, CHUNKS, WIDTH, SPLITS, ACTS)
    elif ATTENDED:
        for each_row in range(ROWS):
            for unit in tl.static_range(units):
                x0, x1, x2, x3 = load_attended(
                    source + each_row * (K * SPLITS), lse + each_row * (K // WIDTH * SPLITS * 4), unit, K, per // each,
                    CHUNKS, WIDTH, SPLITS, ACTS,
                )  # fmt: skip
                store_vector(scratch + each_row * (K // each), x0, x1, x2, x3, unit, K // each, per // each, CHUNKS)
        tl.debug_barrier()
        source = scratch
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    for t in range(tiles):
        row = (program + t * PROGRAMS) * TILE
        there = b[:, None] * D + (row + r)[None, :]
        mask = (b < ROWS)[:, None] & (row + r < D)[None, :]
        before = load_numbers(x, there, mask, ACTS)
        y = tl.zeros((ROWS2, TILE), tl.float32)
        for unit in tl.static_range(units):
            now = w
            if unit + 1 < units:
                w = load_rows(matrix, row, D, K // per, unit + 1, TILE, CHUNKS)
            else:
                w = load_rows(matrix, row + PROGRAMS * TILE, D, K // per, 0, TILE, CHUNKS)
            for each_row in range(ROWS):
                if not held:
                    x0, x1, x2, x3 = load_vector(source + each_row * (K // each), unit, K // each, per // each, CHUNKS)
                y = plus_row(y, each_row, multiply(now, x0, x1, x2, x3, TILE, CHUNKS, WEIGHTS, ACTS), ROWS2)
        if WEIGHTS > 1:
            y = scaled(y, scales, row + r, D)
        store_numbers(x, there, rounded(before + rounded(y, ACTS), ACTS), mask, ACTS)


@triton.jit
def project_gated(
    w, gate, up, scale_g, scale_u, x, gain, gated, scratch, eps, program,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, ROWS2: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """gated = silu(gate norm(x)) * (up norm(x)). `w`: the first tile of `gate`."""
    each: tl.constexpr = 2 if ACTS == 1 else 1
    per: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    units: tl.constexpr = (D // per + CHUNKS * 128 - 1) // (CHUNKS * 128)
    tiles: tl.constexpr = ((F + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS
    held: tl.constexpr = (ROWS == 1) & (units == 1)
    if held:
        x0, x1, x2, x3 = load_normed(x, gain, 0, D, eps, per // each, CHUNKS, units, ACTS)
    else:
        norm_rows(x, x, x, False, gain, scratch, eps, D, ROWS, per // each, CHUNKS, units, ACTS)
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    for t in range(tiles):
        row = (program + t * PROGRAMS) * TILE
        g = tl.zeros((ROWS2, TILE), tl.float32)
        u = tl.zeros((ROWS2, TILE), tl.float32)
        for unit in tl.static_range(units):
            now = w
            w = load_rows(up, row, F, D // per, unit, TILE, CHUNKS)
            for each_row in range(ROWS):
                if not held:
                    source = scratch + each_row * (D // each)
                    x0, x1, x2, x3 = load_vector(source, unit, D // each, per // each, CHUNKS)
                g = plus_row(g, each_row, multiply(now, x0, x1, x2, x3, TILE, CHUNKS, WEIGHTS, ACTS), ROWS2)
            now = w
            if unit + 1 < units:
                w = load_rows(gate, row, F, D // per, unit + 1, TILE, CHUNKS)
            else:
                w = load_rows(gate, row + PROGRAMS * TILE, F, D // per, 0, TILE, CHUNKS)
            for each_row in range(ROWS):
                if not held:
                    source = scratch + each_row * (D // each)
                    x0, x1, x2, x3 = load_vector(source, unit, D // each, per // each, CHUNKS)
                u = plus_row(u, each_row, multiply(now, x0, x1, x2, x3, TILE, CHUNKS, WEIGHTS, ACTS), ROWS2)
        if WEIGHTS > 1:
            g, u = scaled(g, scale_g, row + r, F), scaled(u, scale_u, row + r, F)
        g, u = rounded(g, ACTS), rounded(u, ACTS)
        silu = rounded(g / (1.0 + tl.exp(-g)), ACTS)
        mask = (b < ROWS)[:, None] & (row + r < F)[None, :]
        store_numbers(gated, b[:, None] * F + (row + r)[None, :], rounded(silu * u, ACTS), mask, ACTS)


@triton.jit
def project_logits(
    w, head, x, gain, hidden, logits, counter, scratch, step, total, eps, program,
    D: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, ROWS2: tl.constexpr, DRAWN: tl.constexpr, TILE: tl.constexpr,
    CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """logits = head norm(x). The normed states of the rows that are drawn are kept, and the step is counted."""
    words: tl.constexpr = D // (2 if ACTS == 1 else 1)
    units: tl.constexpr = (words + CHUNKS * 128 - 1) // (CHUNKS * 128)
    tiles: tl.constexpr = ((V + TILE - 1) // TILE + PROGRAMS - 1) // PROGRAMS
    held: tl.constexpr = (ROWS == 1) & (units == 1)
    if held:
        x0, x1, x2, x3 = load_normed(x, gain, 0, D, eps, 1, CHUNKS, units, ACTS)
    else:
        norm_rows(x, x, x, False, gain, scratch, eps, D, ROWS, 1, CHUNKS, units, ACTS)
    if program == 0:
        for each_row in range(DRAWN):
            for unit in tl.static_range(units):
                h, _, _, _ = load_normed(x + each_row * words, gain, unit, D, eps, 1, CHUNKS, units, ACTS)
                place = hidden + (each_row * (total + 1) + step + 1) * words
                store_vector(place, h, h, h, h, unit, words, 1, CHUNKS)
        tl.store(counter, (step + 1).to(tl.int64))
    b, r = tl.arange(0, ROWS2), tl.arange(0, TILE)
    for t in range(tiles):
        row = (program + t * PROGRAMS) * TILE
        y = tl.zeros((ROWS2, TILE), tl.float32)
        for unit in tl.static_range(units):
            now = w
            if unit + 1 < units:
                w = load_rows(head, row, V, words, unit + 1, TILE, CHUNKS)
            else:
                w = load_rows(head, row + PROGRAMS * TILE, V, words, 0, TILE, CHUNKS)
            for each_row in range(ROWS):
                if not held:
                    x0, x1, x2, x3 = load_vector(scratch + each_row * words, unit, words, 1, CHUNKS)
                y = plus_row(y, each_row, multiply(now, x0, x0, x0, x0, TILE, CHUNKS, ACTS, ACTS), ROWS2)
        mask = (b < ROWS)[:, None] & (row + r < V)[None, :]
        tl.store(logits + b[:, None] * V + (row + r)[None, :], rounded(y, ACTS), mask=mask)


@triton.jit(do_not_specialize=["begin", "total", "length", "layer_from", "layer_to"])
def step_kernel(
    table, x, qkv, parts, lse, gated, cache, cos, sin, firsts, counter, token, ids, hidden, embedding, gain, head,
    logits, barrier, scratch, begin, total, length, eps, scale, layer_from, layer_to,
    PART: tl.constexpr, D: tl.constexpr, F: tl.constexpr, V: tl.constexpr, HEADS: tl.constexpr,
    KV: tl.constexpr, WIDTH: tl.constexpr, WIDTH2: tl.constexpr, ROWS: tl.constexpr, ROWS2: tl.constexpr,
    DRAWN: tl.constexpr, TILE: tl.constexpr, CHUNKS: tl.constexpr, PROGRAMS: tl.constexpr, SPLITS: tl.constexpr,
    KEYS: tl.constexpr, SCRATCH: tl.constexpr, WEIGHTS: tl.constexpr, ACTS: tl.constexpr,
):  # fmt: skip
    """Feeds the tokens in `token`, notes them in `ids` and their states in `hidden`, and writes the next ones' logits.

    `table` (layers, COLUMNS) int64 addresses; x, qkv, gated: activations; parts, lse: of attention; `counter`: tokens
    fed so far; `begin`: places of the cache that the prompt has; `total`: tokens of a picture; `length`: of the cache;
    `scratch`: SCRATCH words for each program. Memory of weights and activations is given as words, logits as float32.
    """
    each: tl.constexpr = 2 if ACTS == 1 else 1
    per: tl.constexpr = 1 if WEIGHTS == 0 else (2 if WEIGHTS == 1 else 4)
    NQ: tl.constexpr = HEADS * WIDTH
    NK: tl.constexpr = KV * WIDTH
    words: tl.constexpr = D // each
    whole: tl.constexpr = PART < 0
    program = tl.program_id(0)
    step = tl.load(counter).to(tl.int32)
    at = begin + step
    arrivals = step * (5 * layer_to * PROGRAMS)
    scratch += program * SCRATCH
    if whole or PART == 0:
        # What is fed is put down for the sums that the layers add to.
        if (layer_from == 0) & (program == 0):
            for b in range(ROWS):
                fed = tl.load(token + b)
                for unit in tl.static_range((words + CHUNKS * 128 - 1) // (CHUNKS * 128)):
                    e = load_part(embedding + tl.multiple_of(fed * words, 4), unit, words, 0, 1, CHUNKS)
                    store_vector(x + b * words, e, e, e, e, unit, words, 1, CHUNKS)
                if b < DRAWN:
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
        store = cache + layer * (length.to(tl.int64) * (2 * ROWS * KV * (WIDTH // each)))
        if whole or PART == 0:
            w = load_qkv(q, k, v, program * TILE, NQ, NK, D // per, 0, TILE, CHUNKS)
            if whole:
                if layer > 0:
                    wait(barrier, arrivals)
            project_qkv(w, q, k, v, scale_q, scale_k, scale_v, x, embedding, token, layer == 0, before, qkv, scratch, eps,
                        program, D, NQ, NK, ROWS, ROWS2, TILE, CHUNKS, PROGRAMS, WEIGHTS, ACTS)  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 2:
            # Attention has little to read: the next matrix is under way beside it.
            w = load_rows(o, program * TILE, D, NQ // per, 0, TILE, CHUNKS)
        if whole or PART == 1:
            kv = first_keys(program, firsts, store, at, length, HEADS, KV, WIDTH // each, ROWS, SPLITS, WIDTH2, KEYS)
            if whole:
                wait(barrier, arrivals)
            attend(kv, qkv, gain_q, gain_k, cos, sin, firsts, store, parts, lse, at, step, total, length, eps, scale,
                   program, HEADS, KV, WIDTH, ROWS, WIDTH2, KEYS, SPLITS, PROGRAMS, ACTS)  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 2:
            if whole:
                wait(barrier, arrivals)
            add_projected(w, o, scale_o, parts, lse, x, scratch, program, D, NQ, True, WIDTH, SPLITS, ROWS, ROWS2, TILE,
                          CHUNKS, PROGRAMS, WEIGHTS, ACTS)  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 3:
            w = load_rows(gate, program * TILE, F, D // per, 0, TILE, CHUNKS)
            if whole:
                wait(barrier, arrivals)
            project_gated(w, gate, up, scale_g, scale_u, x, after, gated, scratch, eps, program, D, F, ROWS, ROWS2, TILE,
                          CHUNKS, PROGRAMS, WEIGHTS, ACTS)  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
        if whole or PART == 4:
            w = load_rows(down, program * TILE, D, F // per, 0, TILE, CHUNKS)
            if whole:
                wait(barrier, arrivals)
            add_projected(w, down, scale_d, gated, lse, x, scratch, program, D, F, False, WIDTH, SPLITS, ROWS, ROWS2, TILE,
                          CHUNKS, PROGRAMS, WEIGHTS, ACTS)  # fmt: skip
            if whole:
                arrive(barrier)
                arrivals += PROGRAMS
    if whole or PART == 5:
        w = load_rows(head.to(tl.int64), program * TILE, V, words, 0, TILE, CHUNKS)
        if whole:
            wait(barrier, arrivals)
        project_logits(w, head.to(tl.int64), x, gain, hidden, logits, counter, scratch, step, total, eps, program, D, V, ROWS,
                       ROWS2, DRAWN, TILE, CHUNKS, PROGRAMS, ACTS)  # fmt: skip
