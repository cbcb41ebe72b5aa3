"""Benchmarks: images for every item of a task, written as its official scorer reads them, scored and summed up."""
