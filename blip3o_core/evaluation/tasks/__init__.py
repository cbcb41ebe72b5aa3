"""The benchmarks that `blip3o evaluate` knows, a module each."""
