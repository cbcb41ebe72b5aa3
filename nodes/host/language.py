"""The language model as a part that the host loads, offloads, patches and frees.

It runs on the host's main device: the host's text-encoder device is the CPU on small cards, fatal for 729 steps.
"""

import logging
from copy import copy
from dataclasses import replace

import comfy.model_management as mm
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from latent_preview import MAX_PREVIEW_RESOLUTION
from PIL import Image

from ...blip3o_core import memory, pipeline
from ...blip3o_core.checkpoint import LANGUAGE, open_checkpoint
from ...blip3o_core.checkpoint.checkpoint import Checkpoint
from ...blip3o_core.decoding.interface import Compute
from ...blip3o_core.diffusion.reference_mode import Strengths
from ...blip3o_core.editing.references import References
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.seeds import row_seeds
from ...blip3o_core.tiny.code_colours import bundled_colours
from ...blip3o_core.tokens.colours import code_colours, mosaic
from ...blip3o_core.tokens.generate import Request, generate_tokens
from ...blip3o_core.tokens.image_tokens import ImageTokens
from . import colours, notes
from .offload import dtypes, manage, streamed, swap_leaves
from .part import Part
from .quantised import PLAIN, check, quantise, scratch
from .rough import RoughRenders

PREVIEW_PIXELS = 8  # a token's square in the live preview


class Language(Part):
    """What travels as BLIP3O_LM: Qwen3, its connector, the prompt encoder and the vocabulary of one checkpoint."""

    def __init__(self, patcher, dtype, checkpoint: Checkpoint, stored: str):
        """`stored`: how the weights are kept, which their values depend on."""
        super().__init__(patcher, dtype)
        self.encoder, self.reference_mode = checkpoint.prompt_encoder, checkpoint.reference_mode
        self._checkpoint, self._stored = checkpoint.language_identity, stored
        self._scratch = scratch(self.network, dtype)
        self.folder, self.diffusion_folder = checkpoint.folder, checkpoint.diffusion_folder
        self.is_bundled = notes.is_bundled(checkpoint.folder)
        self._changes: tuple[str, ...] = ()  # names of the patches that `with_patches` added, in order
        self._changes_uuid = None  # the host's name for exactly these; it differs from process to process
        self._arbitrary = None  # colours of the codes until some are learned; patches do not change them
        self._shown_by: tuple | None = None  # see `shown_by`

    @property
    def identity(self) -> str:
        """Equal only for the same weights, patches and dtypes: hidden states may be reused between equals."""
        return f"{self._checkpoint}:{self._stored}:{self.dtype}:{'+'.join(self._patches) or 'plain'}"

    @property
    def _patches(self) -> tuple[str, ...]:
        """Names of all patches: by content, or by the host's random name where another node has added some."""
        if not self.patcher.patches:
            return ()
        known = self.patcher.patches_uuid == self._changes_uuid
        return self._changes if known else (str(self.patcher.patches_uuid),)

    @property
    def is_quantised(self) -> bool:
        return self._scratch > 0

    def with_patches(self, patches: dict, strength: float, name: str) -> "Language":
        """A copy with the host's `patches` of weights, by their names. `name`: of their content and strength."""
        changed = self.clone()
        added = changed.patcher.add_patches(patches, strength)
        if len(added) != len(patches):
            lost = min(patches.keys() - set(added))
            raise Blip3oError(f"ComfyUI cannot change {lost} of the language model. Update ComfyUI.")
        changed._changes, changed._changes_uuid = (*self._patches, name), changed.patcher.patches_uuid
        return changed

    def shown_by(self, model, vae) -> "Language":
        """The same, which shows rough renders of the tokens so far while it writes."""
        other = copy(self)
        other._shown_by = (model, vae)
        return other

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
        """Write one image per prompt, with the host's progress bar and interrupt on every token."""
        total = self.network.num_tokens
        features, seeds = self.reference_mode.features, row_seeds(seed, len(prompts))
        request = Request(prompts, seeds, negative_prompt, reference, features, parse_special)
        rows, longest = request.fed(self.encoder, sampling)
        warnings = notes.of_prompts(prompts, self.encoder) if self.is_bundled else []
        needed = self.decode_bytes(rows, longest + total, not sampling.image_tokens_only)
        with self.loaded(needed) as device:
            rough = RoughRenders(self, self._shown_by, request) if self._shown_by else None
            if rough is not None:
                rough.load(needed)
            tokens = generate_tokens(
                self.network,
                self.encoder,
                request,
                sampling,
                callback=self.progress(device, len(prompts), total, rough),
                source=self.identity,
                compute=Compute(device, self.dtype, graphs_allowed()),
            )
        notes.tell(warnings)
        return tokens

    def progress(self, device, rows: int, total: int, rough: RoughRenders | None = None):
        """A callback for each of `total` tokens; once per grid width it shows the codes so far, a colour each.

        `rough`: its renders take their place as soon as there are any.
        """
        grid, bar = self.network.grid, comfy.utils.ProgressBar(total)
        shows = args.preview_method != LatentPreviewMethod.NoPreviews  # the server's, or the prompt's own
        shown = self.mosaic_colours() if shows else ()
        speed = notes.Speed(total, rows)

        def step(done, total, codes):
            mm.throw_exception_if_processing_interrupted()
            if done == 1:  # only after a step is it known where the host's dynamic VRAM keeps the weights
                self._warn_if_streamed(device, total)
            image = rough(done, codes) if shows and rough is not None else None
            due = done % grid[1] == 0 or done == total
            if image is None and shows and due and not (rough and rough.shown):
                image = _preview(codes(), grid, *shown)
            speed.step(done)
            bar.update_absolute(done, total, image and ("JPEG", image, MAX_PREVIEW_RESOLUTION))

        return step

    def mosaic_colours(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the mosaic shows, see `mosaic`: (K, 3) colours, and which of them are known."""
        if self.is_bundled:
            return bundled_colours(), None
        learned = colours.learned(self._checkpoint, self.network.vocabulary.num_codes)
        if learned.known.any():
            return learned.colours, learned.known
        if self._arbitrary is None:
            with self.loaded(0) as device:
                like = torch.empty(0, device=device, dtype=self.dtype)
                self._arbitrary = code_colours(self.network.code_embedding(like))
        return self._arbitrary, None

    def _warn_if_streamed(self, device, total: int) -> None:
        away = streamed(self.patcher)
        if away:
            logging.getLogger(__name__).warning(
                "BLIP3o: the language model does not fit on %s. %.2f of its %.2f GB stay in main memory and are copied "
                "for each of %d tokens, which is slow. To speed this up: set lm_weights to int8 or fp8 in BLIP3o "
                "Loader, lower batch_size, close other GPU programs, lower --reserve-vram, or remove --novram.",
                device,
                away / 1e9,
                self.patcher.model_size() / 1e9,
                total,
            )

    def conditionings(self, tokens, reference=None, strengths=Strengths(), reference_mode="auto") -> tuple[list, list]:
        """Positive and null condition as the host's CONDITIONING, with a mask only where a row ended early.

        Both carry how strongly references count in `reference_mode` (see `REFERENCE_MODES`), and the latents of the
        one that is given; ReferenceLatent may add others.
        """
        _, asked = self.reference_mode.select(reference_mode, strengths, "this checkpoint")
        if tokens.prompt_ids is None:
            tokens = replace(tokens, prompt_ids=[self.encoder.encode(prompt) for prompt in tokens.prompts])
            reads = reference is not None
        else:
            reads = self.reads_reference(tokens)
        if asked.cross or asked.noise:
            notes.tell(notes.of_reference(reads, reference is not None))
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
        positive, negative = both.positive.to(rest), both.negative.to(rest)
        null = {**extra, "reference_null": True}
        if strengths.text == 1 and not self.is_bundled:  # another strength renders an image with other colours
            extra = extra | colours.origin(tokens, positive, self._checkpoint, self.network.vocabulary.num_codes)
        return [[positive, extra]], [[negative, null]]

    def reads_reference(self, tokens: ImageTokens) -> bool:
        """Whether the prompt of the tokens holds a reference, as features or as image tokens."""
        first, count = self.network.vocabulary.image_start, self.network.vocabulary.num_codes
        ids = tokens.prompt_ids[0] if tokens.prompt_ids else []
        return tokens.features is not None or any(first <= one < first + count for one in ids)


def _preview(codes: torch.Tensor, grid: tuple[int, int], table: torch.Tensor, known=None) -> Image.Image:
    image = Image.fromarray(mosaic(codes, table, grid, known).numpy())
    return image.resize((image.width * PREVIEW_PIXELS, image.height * PREVIEW_PIXELS), Image.NEAREST)


def graphs_allowed() -> bool:
    """Whether ComfyUI may record CUDA graphs. It has the flag since 0.33."""
    return not getattr(args, "disable_cuda_graphs", False)


def load_language(folder, diffusion, choice, lm_weights=PLAIN, checkpoint=None) -> Language:
    """`choice`: the loader's dtype widget. `lm_weights`: how matrices are stored, see `quantised`."""
    check(lm_weights)
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    device = mm.get_torch_device()
    weights, compute = dtypes(choice, checkpoint.parts[LANGUAGE], device)
    network = checkpoint.load_language(weights if lm_weights == PLAIN else None)
    if network.reference_connector is not None:
        del network.model.und_image_vae_connector  # MODEL has it
    if lm_weights != PLAIN:
        quantise(network, lm_weights, weights)
    swap_leaves(network, cast=compute != weights)
    recipe = (load_language_patcher, (folder, diffusion, choice, lm_weights))
    # A CUDA graph reads weights at the addresses of its capture, so they must not be paged in by parts. The host does
    # the same with text encoders that write tokens.
    patcher = manage(network, device, mm.unet_offload_device(), recipe, disable_dynamic=True)
    stored = f"{weights}" if lm_weights == PLAIN else f"{weights}:{lm_weights}"
    return Language(patcher, compute, checkpoint, stored)


def load_language_patcher(*arguments, disable_dynamic=True):
    return load_language(*arguments).patcher
