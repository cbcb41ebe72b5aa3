"""Speed and memory against the authors' way, in one process: `python -m benchmarks`."""
