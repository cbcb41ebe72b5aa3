"""Checkpoints that were damaged, or made to do harm."""

import os
from pathlib import Path

from tests.support.attacks import Attack, attacks, check, copy_of_bundled, generate


def fine(place: Path) -> list[str]:
    return generate(copy_of_bundled(place))


def nested_config(place: Path) -> list[str]:
    folder = copy_of_bundled(place)
    (folder / "config.json").write_text("[" * 100_000)
    return generate(folder)


def pipe_as_config(place: Path) -> list[str]:
    folder = copy_of_bundled(place)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    return generate(folder)


@attacks(
    [
        Attack("a copy that is fine", fine, None),
        Attack("config nested 100,000 deep", nested_config, r"config\.json cannot be read as JSON: it is nested too"),
    ],
    slow=[Attack("a pipe as config.json", pipe_as_config, r"config\.json")],
)
def test_a_bad_checkpoint_is_refused_in_words(attack, tmp_path):
    """Catches tracebacks, hangs and dead processes for checkpoints from the internet."""
    check(attack, tmp_path)
