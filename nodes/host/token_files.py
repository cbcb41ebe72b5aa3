"""Image tokens saved into ComfyUI's output folder, and what to say of those that are loaded."""

from pathlib import Path

from ...blip3o_core.tokens.file import save_tokens
from ...blip3o_core.tokens.image_tokens import ImageTokens
from . import saving


def save(tokens: ImageTokens, prefix: str, end: str, hidden) -> dict:
    """Write a new file into the output folder; gives what a client of ComfyUI is told of it. `hidden`: of the node."""

    def write(path: Path, metadata: dict[str, str]) -> None:
        save_tokens(path, tokens, metadata, replace=False)

    return {"tokens": [saving.save(prefix, end, write, hidden)]}


def describe(tokens: ImageTokens) -> str:
    """How many images, then seed and prompt of each."""
    height, width = tokens.grid
    lines = [f"{len(tokens)} x {height}x{width} image tokens"]
    lines += [f"seed {seed}: {prompt}" for seed, prompt in zip(tokens.seeds, tokens.prompts, strict=True)]
    if tokens.hidden is None:
        lines.append("without hidden states: BLIP3o Hidden-State Conditioner reads the tokens once more")
    return "\n".join(lines)
