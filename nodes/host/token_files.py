"""Image tokens saved into ComfyUI's output folder, and loaded."""

import json
import logging
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.files import NameTaken, naming_failures
from ...blip3o_core.tokens.file import load_tokens, save_tokens
from ...blip3o_core.tokens.image_tokens import ImageTokens
from . import notes
from .token_folder import SAVED, SUFFIX, resolve


def save(tokens: ImageTokens, prefix: str, hidden) -> dict:
    """Write a new file into the output folder, and say where; gives what a client of ComfyUI is told of it.

    `hidden`: ComfyUI's own inputs of the node, with the prompt and the workflow.
    """
    output = folder_paths.get_output_directory()
    if (
        not prefix.strip()
        or "\0" in prefix
        or not folder_paths.is_within_directory(output, os.path.join(output, prefix))
    ):
        raise Blip3oError(
            f"filename_prefix is {shown(repr(prefix))}. It must name a file in the output folder, such as "
            f"'{SAVED}/BLIP3o'."
        )
    with naming_failures(Path(output, prefix)):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
        while True:
            file = f"{name}_{counter:05}_{SUFFIX}"
            try:
                save_tokens(Path(folder, file), tokens, _metadata(hidden), replace=False)
                break
            except NameTaken:  # by another run, since ComfyUI looked
                counter += 1
    notes.tell([f"Saved as {Path('output', subfolder, file).as_posix()}."], logging.INFO)
    return {"tokens": [{"filename": file, "subfolder": subfolder, "type": "output"}]}


def _metadata(hidden) -> dict[str, str]:
    """Prompt and workflow as ComfyUI keeps them in its latents and images."""
    if args.disable_metadata:
        return {}
    more = {} if hidden is None else {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {str(name): json.dumps(value) for name, value in more.items()}


def load(name: str) -> ImageTokens:
    return load_tokens(resolve(name))


def describe(tokens: ImageTokens) -> str:
    """How many images, then seed and prompt of each."""
    height, width = tokens.grid
    lines = [f"{len(tokens)} x {height}x{width} image tokens"]
    lines += [f"seed {seed}: {prompt}" for seed, prompt in zip(tokens.seeds, tokens.prompts, strict=True)]
    if tokens.hidden is None:
        lines.append("without hidden states: BLIP3o Hidden-State Conditioner reads the tokens once more")
    return "\n".join(lines)
