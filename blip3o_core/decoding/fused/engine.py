"""The kernels as a loop: one call feeds a token and chooses the next, on memory that stays."""

import torch
import torch.nn.functional as F
import triton

from ...models.language import LanguageModel, stored_weight
from ..cuda_graph import captured_or_eager, decode_with_graph, repeat
from ..direct import why_not_direct
from ..interface import Callback, Decoded, Prefilled
from ..sampling import Chooser, choose
from ..step_by_step import decode_through_modules
from . import MAX_ROWS, sampler
from .step import COLUMNS, step_kernel
from .tiles import BFLOAT16, FLOAT8, FLOAT32, INT8
from .trial import passes

KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.int8: INT8, torch.float8_e4m3fn: FLOAT8}
PER_WORD = {FLOAT32: 1, BFLOAT16: 2, INT8: 4, FLOAT8: 4}
MAX_KEPT = 4096  # of top-k
KEYS = 128  # that a program reads at a time
WARPS = 8
BLOCK = 1024  # logits of a program of the sampler


def decode_fused(prefilled: Prefilled, choose: Chooser, callback: Callback | None) -> Decoded:
    """Engine "fused"; where its first step fails or is wrong, "graph" serves, or "modules" for quantised weights."""
    loop = FusedLoop(prefilled, choose)
    if not passes(loop):
        graph = why_not_direct(prefilled.lm, prefilled.device, prefilled.dtype) is None
        return (decode_with_graph if graph else decode_through_modules)(prefilled, choose, callback)
    cuda = prefilled.device.type == "cuda"
    repeat(captured_or_eager(loop, prefilled.device) if cuda else loop, loop.ids, callback)
    return Decoded(loop.ids, [prefilled.total] * prefilled.batch, loop.hidden)


class FusedLoop:
    """Decode steps of one run. Nothing is allocated in a call, so that it can be captured as a CUDA graph."""

    def __init__(self, prefilled: Prefilled, choose: Chooser, programs: int | None = None):
        """`programs`: how many walk through the layers, one for each multiprocessor by default; in Triton's
        interpreter, where they run one after the other, two are enough to show what they share."""
        lm, device, dtype, cache = prefilled.lm, prefilled.device, prefilled.dtype, prefilled.cache
        config, rows = lm.config, len(prefilled.state)
        self.prefilled, self._choose = prefilled, choose
        self.ids, self.hidden = prefilled.new_outputs()
        self._interpreted, self._layers = device.type == "cpu", config.num_hidden_layers
        if programs is None:
            programs = 2 if self._interpreted else torch.cuda.get_device_properties(device).multi_processor_count
        self._programs = programs
        heads, kv, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        acts = KINDS[dtype]
        self._table, self._kept, weights = _table(lm, device)
        chunks = min(16, triton.next_power_of_2(triton.cdiv(config.hidden_size // PER_WORD[weights], 128)))
        per_program = rows * max(config.hidden_size, heads * width)

        def zeros(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(shape, device=device, dtype=of)

        def words(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.view(torch.int32)

        self._logits = zeros(rows, len(choose.head), of=torch.float32)
        self._counter, self._token = zeros(1, of=torch.long), zeros(rows, of=torch.long)
        self._barrier = zeros(1, of=torch.int32)
        angles = [table.contiguous() for table in lm.model.rotary_emb(cache.data, prefilled.positions)]
        # As many parts as there are programs for, the same for every batch: a row's sums are to run in the same order.
        splits = max(1, programs // heads - 1)
        parts = rows * heads * (splits + 1)
        self._arguments = [
            self._table, words(zeros(rows, config.hidden_size)), words(zeros(rows, (heads + 2 * kv) * width)),
            zeros(parts * width, of=torch.float32), zeros(parts * 4, of=torch.float32),
            words(zeros(rows, config.intermediate_size)), words(cache.data), *map(words, angles),
            (~prefilled.keep).sum(1).to(torch.int32), self._counter, self._token, self.ids, words(self.hidden),
            words(lm.model.embed_tokens.weight), words(lm.model.norm.weight), words(choose.head), self._logits,
            self._barrier, words(zeros(programs * per_program)), cache.filled, prefilled.total, cache.data.shape[-2],
            config.rms_norm_eps, width**-0.5, rows, prefilled.batch,
        ]  # fmt: skip
        single = rows == 1
        self._constants = {
            "D": config.hidden_size, "F": config.intermediate_size, "V": len(choose.head), "HEADS": heads, "KV": kv,
            "WIDTH": width, "WIDTH2": triton.next_power_of_2(width // PER_WORD[acts]), "SINGLE": single,
            "ROWS2": 1 if single else triton.next_power_of_2(MAX_ROWS), "TILE": min(16, 128 // chunks),
            "CHUNKS": chunks, "PROGRAMS": programs, "SPLITS": splits, "KEYS": KEYS, "WEIGHTS": weights, "ACTS": acts,
        }  # fmt: skip
        self._sampler = _SamplerKernels(prefilled, choose, self._counter, self._token)
        self.rewind()

    def rewind(self) -> None:
        """Back to the end of the prompt, its token chosen."""
        state = self.prefilled.state
        self._counter.zero_()
        self._barrier.zero_()
        self._sampler.reset()
        self.hidden[:, 0] = state[: self.prefilled.batch, 0]
        # Row by row: a product over several rows may round them otherwise.
        self._sampler(torch.cat([F.linear(each, self._choose.head) for each in state]).float())

    def __call__(self) -> None:
        """Feed the token that was chosen, store it and its state, choose the next."""
        layers, grid = self._layers, (self._programs,)
        if self._interpreted:
            for layer in range(layers):
                for part in range(5):
                    step_kernel[grid](*self._arguments, layer, layer + 1, PART=part, **self._constants)
            step_kernel[grid](*self._arguments, 0, 0, PART=5, **self._constants)
        else:
            # Cooperative: the card refuses a grid that it cannot run at once, which would wait for itself.
            step_kernel[grid](*self._arguments, 0, layers, PART=-1, **self._constants, num_warps=WARPS, num_stages=1,
                              enable_fp_fusion=True, launch_cooperative_grid=True)  # fmt: skip
        self._sampler(self._logits)


class _SamplerKernels:
    """Logits -> the next tokens, in `token`."""

    def __init__(self, prefilled: Prefilled, choose: Chooser, counter: torch.Tensor, token: torch.Tensor):
        self._choose, self._total, self._counter, self._token = choose, prefilled.total, counter, token
        sampling, size, device = choose.sampling, len(choose.head), prefilled.device
        kept = 1 if sampling.greedy else min(sampling.top_k, size)
        self._kept = kept if 0 < kept <= MAX_KEPT else None
        # What guidance and temperature make of bfloat16 logits has more digits.
        self._rounds = 2 if prefilled.dtype == torch.bfloat16 and not choose.guided else 4
        self._rows = prefilled.batch
        if self._kept is not None:
            blocks, rows = triton.cdiv(size, BLOCK), self._rows
            self._padded = max(16, triton.next_power_of_2(kept))
            self._counts = torch.zeros(rows, self._rounds, 256, device=device, dtype=torch.int32)
            self._tallies = torch.zeros(rows, blocks, 2, device=device, dtype=torch.int32)
            self._values = torch.zeros(rows, self._padded, device=device)
            self._places = torch.zeros(rows, self._padded, device=device, dtype=torch.int32)

    def reset(self) -> None:
        if self._kept is not None:
            self._counts.zero_()

    def __call__(self, logits: torch.Tensor) -> None:
        chooser, total = self._choose, self._total
        sampling, uniforms, guided = chooser.sampling, chooser.uniforms, chooser.guided
        logits = chooser.guide(logits)
        if self._kept is None:
            at = self._counter.clamp(max=total - 1)
            ids = choose(logits, uniforms.index_select(1, at)[:, 0], sampling, shortcut=False) + chooser.first_id
            self._token.copy_(torch.cat([ids, ids]) if guided else ids)
            return
        size, kept, rounds = logits.shape[-1], self._kept, self._rounds
        blocks = triton.cdiv(size, BLOCK)
        grid = (self._rows, blocks)
        for digit in range(rounds):
            sampler.count_kernel[grid](logits, self._counts, size, kept, ROUND=digit, ROUNDS=rounds, BLOCK=BLOCK)
        sampler.tally_kernel[grid](logits, self._counts, self._tallies, size, kept, ROUNDS=rounds, BLOCK=BLOCK)
        sampler.gather_kernel[grid](
            logits, self._counts, self._tallies, self._values, self._places, size, kept, ROUNDS=rounds, BLOCK=BLOCK,
            BLOCKS=triton.next_power_of_2(blocks), KP=self._padded,
        )  # fmt: skip
        sampler.pick_kernel[(self._rows,)](
            self._values, self._places, self._counts, uniforms, self._counter, self._token, kept, total,
            sampling.top_p, sampling.temperature if not sampling.greedy else 1.0, chooser.first_id, 2 if guided else 1,
            ROUNDS=rounds, KP=self._padded, num_warps=8,
        )  # fmt: skip


def _table(lm: LanguageModel, device: torch.device) -> tuple[torch.Tensor, list, int]:
    """Addresses of all weights of the layers, what must stay alive for them, and the kind of the matrices."""
    table, kept, kinds = [], [], set()
    for layer in lm.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        matrices = [
            attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            mlp.gate_proj, mlp.up_proj, mlp.down_proj,
        ]  # fmt: skip
        gains = [layer.input_layernorm, layer.post_attention_layernorm, attention.q_norm, attention.k_norm]
        stored = [stored_weight(module) for module in matrices]
        scales = [_row_scales(*each) for each in stored]
        addresses = [weight for weight, _ in stored] + [gain.weight for gain in gains]
        kept += [*addresses, *scales]
        kinds |= {KINDS[weight.dtype] for weight, _ in stored}
        table.append([each.data_ptr() for each in addresses] + [0 if s is None else s.data_ptr() for s in scales])
    if len(table[0]) != COLUMNS or len(kinds) != 1:
        raise ValueError(
            f"a layer has {len(table[0])} addresses of {len(kinds)} kinds; the kernel reads {COLUMNS} of one"
        )
    return torch.tensor(table, device=device), kept, kinds.pop()


def _row_scales(weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor | None:
    """A float32 scale for each row."""
    if scale is None:
        return None
    return scale.float().reshape(-1).expand(len(weight)).contiguous()
