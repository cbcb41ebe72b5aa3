"""How well a checkpoint edits, by kind of instruction: the gate behind the edit stage."""

import torch

from ... import autoencoder, diffusion
from ...checkpoint import Checkpoint
from ...connector import connect
from ...decoding import Sampling, decode
from ...references import beside, extended, reference_tokens
from ..edits import KINDS, Edit, instruction, make_edit
from ..judge import judge_edit
from ..world import World
from .data import Encoders

WORLD = World(low_contrast=False)
SEED = 71  # of the held-back edits; no other stage has it


class _Beside:
    """The transformer with clean reference latents to the right of whatever it is given."""

    def __init__(self, transformer, reference: torch.Tensor):
        self.transformer, self.reference = transformer, reference
        self.dtype, self.device = transformer.dtype, transformer.device

    def __call__(self, x: torch.Tensor, return_dict: bool, **inputs) -> tuple[torch.Tensor]:
        return (beside(self.transformer, x, [self.reference], **inputs),)


class Editor:
    """All parts of a checkpoint, and the ways references go."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint, self.encoders = checkpoint, Encoders(checkpoint)
        self.language = checkpoint.load_language(torch.float32)
        self.transformer = checkpoint.load_transformer(torch.float32)

    @torch.no_grad()
    def draw(self, edits: list[Edit], cross: bool, noise: bool, steps: int = 12) -> torch.Tensor:
        """One picture of each edit, (B, H, W, 3) in [0, 1], without guidance."""
        encoder, vae = self.checkpoint.prompt_encoder, self.encoders.vae
        codes, latents = self.encoders.encode([edit.source for edit in edits])
        asked = [instruction(edit, index) for index, edit in enumerate(edits)]
        prompts = [encoder.encode_edit(text, row[None].long()) for text, row in zip(asked, codes, strict=True)]
        seeds = list(range(len(edits)))
        drawn = decode(self.language, prompts, seeds, Sampling())
        positive, negative = connect(self.language.connector, drawn.hidden)
        if cross:
            tokens = reference_tokens(self.language.reference_connector, latents[:, None].float())
            positive, _ = extended(positive, tokens)
        transformer = _Beside(self.transformer, latents.float()) if noise else self.transformer
        x = diffusion.initial_noise(tuple(latents.shape[1:]), seeds)
        schedule = diffusion.sigmas(steps, self.checkpoint.shift)
        made = diffusion.sample(transformer, x, positive, negative, schedule, guidance=1.0)
        return autoencoder.decode(vae, made / vae.config.scaling_factor)


def gate(checkpoint: Checkpoint, count: int = 300, cross: bool | None = None, noise: bool | None = None) -> dict:
    """Share of held-back edits that are right, by kind; `outside`: mean error, of 255, where nothing may change.

    `cross`, `noise`: the ways references go besides as tokens; None: as the checkpoint says.
    """
    editor, paths, shares, outside = Editor(checkpoint), checkpoint.reference_paths, {}, []
    cross, noise = paths.cross if cross is None else cross, paths.noise if noise is None else noise
    for kind in KINDS:
        edits = [make_edit(SEED, "held_back", index, WORLD, kind) for index in range(count // len(KINDS))]
        pictures = editor.draw(edits, cross, noise).numpy()
        verdicts = [judge_edit(picture, edit) for picture, edit in zip(pictures, edits, strict=True)]
        shares[kind] = sum(verdict.strict for verdict in verdicts) / len(verdicts)
        outside += [verdict.outside for verdict in verdicts]
    return {**shares, "mean": sum(shares.values()) / len(KINDS), "outside": sum(outside) / len(outside)}
