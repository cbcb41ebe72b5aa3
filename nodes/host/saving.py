"""New files in ComfyUI's output folder, with the prompt and the workflow that made them."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...blip3o_core.errors import Blip3oError, shown
from ...blip3o_core.files import NameTaken, naming_failures
from . import notes


def save(prefix: str, end: str, write: Callable[[Path, dict[str, str]], None], hidden) -> dict:
    """Write the next free `<prefix>_00001_<end>` in the output folder, and say where -> how ComfyUI names it.

    `write(path, metadata)` raises NameTaken where the file exists. `hidden`: ComfyUI's own inputs of the node, with the
    prompt and the workflow.
    """
    output = folder_paths.get_output_directory()
    inside = "\0" not in prefix and folder_paths.is_within_directory(output, os.path.join(output, prefix))
    if not prefix.strip() or not inside:
        raise Blip3oError(
            f"filename_prefix is {shown(repr(prefix))}. It must name a file in the output folder, such as "
            "'saved/BLIP3o'."
        )
    with naming_failures(Path(output, prefix)):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
        while True:
            file = f"{name}_{counter:05}_{end}"
            try:
                write(Path(folder, file), _metadata(hidden))
                break
            except NameTaken:  # by another run, since ComfyUI looked
                counter += 1
    notes.tell([f"Saved as {Path('output', subfolder, file).as_posix()}."], logging.INFO)
    return {"filename": file, "subfolder": subfolder, "type": "output"}


def _metadata(hidden) -> dict[str, str]:
    """The prompt and the workflow as ComfyUI's own savers store them, unless the server was told not to."""
    if args.disable_metadata:
        return {}
    more = {} if hidden is None else {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {str(name): json.dumps(value) for name, value in more.items()}
