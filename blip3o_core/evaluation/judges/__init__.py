"""Judges of benchmarks: models that see images, behind an OpenAI-compatible address, asked as the benchmark asks."""
