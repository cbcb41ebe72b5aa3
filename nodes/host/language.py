"""The language model and the image tokenizer as parts the host loads, offloads, patches and frees.

Both run on the host's main device: its text-encoder device is the CPU on small cards, fatal for a loop of 729 steps.
"""

import logging
from contextlib import contextmanager
from dataclasses import replace

import comfy.model_management as mm
import comfy.utils
import torch
from latent_preview import MAX_PREVIEW_RESOLUTION
from PIL import Image

from ...blip3o_core import memory, pipeline
from ...blip3o_core.checkpoint.checkpoint import LANGUAGE, TOKENIZER, open_checkpoint
from ...blip3o_core.checkpoint.tatok_file import open_tatok
from ...blip3o_core.decoding.interface import Compute
from ...blip3o_core.decoding.sampling import Sampling
from ...blip3o_core.diffusion.reference_mode import Strengths
from ...blip3o_core.editing.image_mentions import missing_image_numbers
from ...blip3o_core.editing.references import References, encode_references
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.prompts.vocabulary import CodesId
from ...blip3o_core.seeds import row_seeds
from ...blip3o_core.tokens import ImageTokens, code_colours, mosaic
from .offload import NAMED, SUPPORTED, dtypes, manage, streamed, supported, swap_leaves
from .quantised import PLAIN, check, quantise, scratch

PUBLISHED_SIDE = 1024
PREVIEW_PIXELS = 8  # a token's square in the live preview


class Part:
    """A network with the patcher that manages it. `patcher` is where LoRA nodes add patches, on a `clone()`."""

    def __init__(self, patcher, dtype: torch.dtype):
        self.patcher, self.dtype = patcher, dtype

    def clone(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.patcher = self.patcher.clone()
        return other

    @property
    def network(self):
        return self.patcher.model

    @contextmanager
    def loaded(self, memory: int):
        """The network's weights within reach of the compute device, and `memory` bytes free there; gives the device."""
        mm.load_models_gpu([self.patcher], memory_required=memory)
        device = self.patcher.load_device
        with mm.cuda_device_context(device):
            yield device


class Language(Part):
    """What travels as BLIP3O_LM: Qwen3, its connector, the prompt encoder and the vocabulary of one checkpoint."""

    def __init__(self, patcher, dtype, encoder, identity: str, reference_mode):
        """`identity`: of the weights as stored. `reference_mode`: the ReferenceMode of the checkpoint."""
        super().__init__(patcher, dtype)
        self.encoder, self._identity, self.reference_mode = encoder, identity, reference_mode
        self._scratch = scratch(self.network, dtype)
        self._colours = None  # of the codes in previews; patches do not change them

    @property
    def identity(self) -> str:
        """Equal only for the same weights, patches and dtype: hidden states may be reused between equals."""
        patches = self.patcher.patches_uuid if self.patcher.patches else "plain"
        return f"{self._identity}:{self.dtype}:{patches}"

    def prefill_bytes(self, rows: int, length: int) -> int:
        """Bytes beside the weights for one pass over `rows` x `length` tokens."""
        return memory.lm_prefill_bytes(self.network.config, rows, length, self.dtype) + self._scratch

    def decode_bytes(self, rows: int, length: int, whole_vocabulary: bool) -> int:
        """Bytes beside the weights to write up to `length` tokens in `rows`."""
        vocabulary = self.network.vocabulary
        words = vocabulary.size if whole_vocabulary else vocabulary.num_codes
        return memory.lm_decode_bytes(self.network.config, rows, length, words, self.dtype) + self._scratch

    def generate_tokens(
        self, prompts, seed, sampling, negative_prompt="", parse_special=False, reference: References | None = None
    ) -> ImageTokens:
        """Write one picture of tokens per prompt, with the host's progress bar and interrupt on every token."""
        total = self.network.num_tokens
        guided = sampling.guidance > 1
        features, seeds = self.reference_mode.features, row_seeds(seed, len(prompts))
        request = pipeline.Request(prompts, seeds, negative_prompt, reference, features, parse_special)
        texts = [*prompts, *([negative_prompt] if guided else [])]
        longest = max(len(request.prompt_ids(self.encoder, text)) for text in texts)
        rows = len(prompts) * (2 if guided else 1)
        with self.loaded(self.decode_bytes(rows, longest + total, not sampling.image_tokens_only)) as device:
            return pipeline.generate_tokens(
                self.network,
                self.encoder,
                request,
                sampling,
                callback=self._progress(device),
                source=self.identity,
                compute=Compute(device, self.dtype),
            )

    def _progress(self, device):
        """A callback for every token; after each row of the grid it shows the codes so far, a colour each."""
        network, bar = self.network, comfy.utils.ProgressBar(self.network.num_tokens)
        if self._colours is None:
            self._colours = code_colours(network.code_embedding(torch.empty(0, device=device, dtype=self.dtype)))
        colours = self._colours

        def step(done, total, codes):
            mm.throw_exception_if_processing_interrupted()
            if done == 1:  # every weight has been used: only now is it known where the host's dynamic VRAM keeps them
                self._warn_if_streamed(device, total)
            preview = None
            if done % network.grid[1] == 0:
                image = Image.fromarray(mosaic(codes(), colours, network.grid).numpy())
                image = image.resize((image.width * PREVIEW_PIXELS, image.height * PREVIEW_PIXELS), Image.NEAREST)
                preview = ("JPEG", image, MAX_PREVIEW_RESOLUTION)
            bar.update_absolute(done, total, preview)

        return step

    def _warn_if_streamed(self, device, total: int) -> None:
        away = streamed(self.patcher)
        if away:
            logging.getLogger(__name__).warning(
                "BLIP3o: the language model does not fit on %s: %.2f of its %.2f GB stay in main memory and are copied "
                "for each of %d tokens, which is slow. Ways out: lm_weights int8 or fp8 in BLIP3o Loader, fewer "
                "pictures at once, closing other programs on the device, a smaller --reserve-vram, no --novram.",
                device,
                away / 1e9,
                self.patcher.model_size() / 1e9,
                total,
            )

    def conditionings(self, tokens, reference=None, strengths=Strengths(), reference_mode="auto") -> tuple[list, list]:
        """Positive and null as the host's CONDITIONING; a mask rides along only where a row ended early.

        Both carry how strongly references count in `reference_mode` (see `REFERENCE_MODES`), and the latents of the
        one that is given; ReferenceLatent may add others.
        """
        _, asked = self.reference_mode.select(reference_mode, strengths, "The checkpoint")
        if tokens.prompt_ids is None:
            tokens = replace(tokens, prompt_ids=[self.encoder.encode(prompt) for prompt in tokens.prompts])
        longest = max(map(len, tokens.prompt_ids)) + tokens.codes.shape[1]
        with self.loaded(self.prefill_bytes(len(tokens), longest)) as device:
            compute = Compute(device, self.dtype)
            both = pipeline.condition(self.network, tokens, self.identity, strengths.text, compute)
        extra = {} if both.mask is None else {"attention_mask": both.mask}
        extra |= {
            "reference_cross": strengths.cross if asked.cross else 0.0,
            "reference_noise": strengths.noise if asked.noise else 0.0,
        }
        if reference is not None and (asked.cross or asked.noise):
            extra["reference_latents"] = reference.latents
        rest = mm.intermediate_device()
        null = {**extra, "reference_null": True}
        return [[both.positive.to(rest), extra]], [[both.negative.to(rest), null]]


def rows_of(prompt: str, copies: int, by_line: bool) -> list[str]:
    """The prompts of a batch; `by_line`: each line that is not empty, `copies` times."""
    prompts = [line for line in prompt.splitlines() if line.strip()] if by_line else [prompt]
    return [each for each in prompts or [prompt] for _ in range(copies)]


def settings(choice: dict | None, guidance: float, vocabulary: str) -> Sampling:
    """The token generator's widgets -> Sampling. `choice`: the dynamic combo with the inputs of its option."""
    kind = (choice or {}).get("sampling")
    common = {"guidance": guidance, "image_tokens_only": vocabulary != "full"}
    if kind == "greedy":
        return Sampling(top_k=1, **common)
    if kind == "sample":
        chosen = {name: choice[name] for name in ("top_k", "top_p", "temperature") if name in choice}
        return Sampling(**chosen, **common)
    # The host lets an unknown option of a dynamic combo through to here.
    raise Blip3oError(f"sampling is {kind!r}: choose 'sample' or 'greedy'.")


def describe(tokens: ImageTokens, lm: Language, reference: References | None = None) -> str:
    """One line per row: seed, tokens that count, distinct codes; room in the prompt; what an edit names in vain."""
    lines = [f"{len(tokens)} x {tokens.grid[0]}x{tokens.grid[1]} image tokens"]
    for seed, length, codes in zip(tokens.seeds, tokens.lengths, tokens.codes, strict=True):
        lines.append(f"seed {seed}: {length} tokens, {codes[:length].unique().numel()} different")
    longest = max(map(len, tokens.prompt_ids))
    lines.append(f"prompt: {longest} of {lm.encoder.limit} tokens")
    if reference is not None:
        lines[-1] += f", {reference.codes.numel()} of them for reference pictures"
        for prompt in dict.fromkeys(tokens.prompts):
            for number in missing_image_numbers(prompt, len(reference)):
                lines.append(f"warning: the instruction names image {number}, there are {len(reference)}")
    return "\n".join(lines)


class ImageTokenizerPart(Part):
    """What travels as BLIP3O_TATOK."""

    def __init__(self, patcher, dtype, codes_id: CodesId, side: int, patch: int = 1):
        """`side`: pixels on a side of the pictures that the checkpoint draws; `patch`: cells of its transformer's."""
        super().__init__(patcher, dtype)
        self.codes_id, self.side, self.patch = codes_id, side, patch

    def references(self, vae, pictures: list, fit: str, side: int) -> References:
        """PIL pictures -> References. `vae`: the host's; `side` 0: as the checkpoint draws."""
        shape = self.network.shape
        with self.loaded(4 * shape.tokens * (shape.mlp + 8 * shape.width) * self.dtype.itemsize) as device:
            return encode_references(
                self.network, vae.encode, pictures, fit=fit, side=side or self.side,
                multiple=vae.spacial_compression_encode() * self.patch, codes_id=self.codes_id, device=device,
            )  # fmt: skip


def load_language(folder, diffusion, choice, lm_weights=PLAIN, checkpoint=None) -> Language:
    """`choice`: the loader's dtype widget; `lm_weights`: how matrices are stored, see `quantised`."""
    check(lm_weights)
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    device, identity = mm.get_torch_device(), checkpoint.identity
    weights, compute = dtypes(choice, checkpoint.tables[LANGUAGE], device)
    network = checkpoint.load_language(weights if lm_weights == PLAIN else None)
    if network.reference_connector is not None:
        del network.model.und_image_vae_connector  # MODEL has it
    if lm_weights != PLAIN:
        quantise(network, lm_weights, weights)
        identity = f"{identity}:{lm_weights}"
    swap_leaves(network, cast=compute != weights)
    recipe = (load_language_patcher, (folder, diffusion, choice, lm_weights))
    # A CUDA graph reads weights where they lay when it was recorded: they are not to be paged in by parts. The host
    # does the same with text encoders that write tokens.
    patcher = manage(network, device, mm.unet_offload_device(), recipe, disable_dynamic=True)
    return Language(patcher, compute, checkpoint.prompt_encoder, identity, checkpoint.reference_mode)


def load_language_patcher(*arguments, disable_dynamic=True):
    return load_language(*arguments).patcher


def load_image_tokenizer(
    folder, diffusion, choice, disable_dynamic=False, checkpoint=None
) -> ImageTokenizerPart | None:
    """None when the checkpoint brings no image tokenizer: text to image needs none."""
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    if checkpoint.tower is None:
        return None
    device = mm.get_torch_device()
    # transformers' SigLIP casts pixels to the dtype of its weights, so these are kept in the dtype to compute in.
    _, compute = dtypes(choice, checkpoint.tables[TOKENIZER], device)
    network = swap_leaves(checkpoint.load_image_tokenizer(compute))
    recipe = (load_image_tokenizer_patcher, (folder, diffusion, choice))
    patcher = manage(network, device, mm.unet_offload_device(), recipe, disable_dynamic)
    patch = checkpoint.transformer_config.get("patch_size", 1)
    return ImageTokenizerPart(patcher, compute, checkpoint.codes_id, checkpoint.trained_side, patch)


def load_tatok_file(path, choice, disable_dynamic=False) -> ImageTokenizerPart:
    """The published file alone; its pictures are those that the published model draws."""
    file, device = open_tatok(path), mm.get_torch_device()
    compute = NAMED.get(choice) or supported(mm.unet_dtype(device, supported_dtypes=SUPPORTED), device)
    network = swap_leaves(file.load(compute))
    recipe = (load_tatok_file_patcher, (path, choice))
    patcher = manage(network, device, mm.unet_offload_device(), recipe, disable_dynamic)
    return ImageTokenizerPart(patcher, compute, file.codes_id, PUBLISHED_SIDE)


def load_tatok_file_patcher(*arguments, disable_dynamic=False):
    return load_tatok_file(*arguments, disable_dynamic=disable_dynamic).patcher


def load_image_tokenizer_patcher(*arguments, disable_dynamic=False):
    return load_image_tokenizer(*arguments, disable_dynamic=disable_dynamic).patcher
