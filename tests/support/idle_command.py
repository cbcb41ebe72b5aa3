"""A program that is `blip3o` but for its work: its command starts two workers, which write a file each and wait.

It imports nothing heavy, so that tests of signals and ends take no seconds.
"""

import os
import sys
import time
from pathlib import Path

from blip3o_core.cli import ending, inspect, processes
from blip3o_core.cli.main import main


def work(_) -> int | None:
    if not ending.is_worker():
        return processes.launch(2, [])
    Path(f"{os.getpid()}.worker").touch()
    time.sleep(600)
    return None


if __name__ == "__main__":
    processes.PROGRAM, inspect.run = ["-m", "tests.support.idle_command"], work
    sys.exit(main(["inspect"]))
