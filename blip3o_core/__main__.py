"""`python -m blip3o_core`: the same as the command `blip3o`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
