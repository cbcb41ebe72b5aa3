"""`python -m blip3o_core`, and `python .../blip3o_core` from any folder: the same as the command `blip3o`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # run as a folder: Python then looks for modules inside it in place of beside it
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from blip3o_core.cli.main import main

    sys.exit(main())
