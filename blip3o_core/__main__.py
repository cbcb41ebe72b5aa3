"""`python -m blip3o_core`, and `python .../blip3o_core` from any folder: the same as the command `blip3o`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    if not __package__:  # run as a folder: Python then looks for modules inside it in place of beside it
        sys.path[0] = str(folder.parent)
    sys.exit(import_module(f"{__package__ or folder.name}.cli.main").main())
