"""Where the programs of a launch wait for each other. They must all run at once: a cooperative launch."""

import triton
import triton.language as tl


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
