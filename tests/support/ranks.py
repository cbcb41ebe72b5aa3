"""Processes of one command that start at once, because what they import was imported before: see `multiprocessing`."""

import contextlib
import multiprocessing
import os
import sys
import threading

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "blip3o_core.pipeline",
        "diffusers.models.autoencoders.autoencoder_dc",
        "diffusers.models.transformers.sana_transformer",
        "transformers.models.qwen3.modeling_qwen3",
    ]
)


def start(words: list[str], count: int) -> list:
    """`count` running processes of the command `words`, told apart as a launcher does."""
    processes = [context.Process(target=_run, args=(words, rank, count)) for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def _run(words: list[str], rank: int, count: int) -> None:
    import torch
    from tqdm import tqdm

    from blip3o_core.cli.main import main

    tqdm.set_lock(threading.RLock())  # its own holds a semaphore, which a killed process leaves behind
    # One thread, as in tests: how a sum is split among threads may change its last bit.
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        sys.exit(main(words))
