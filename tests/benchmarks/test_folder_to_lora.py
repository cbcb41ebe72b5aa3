"""The benchmark of a LoRA from a folder of images measures what it says."""

import pytest

from benchmarks.folder_to_lora import measure


@pytest.mark.slow
def test_the_bundled_model_is_right_on_grey_and_never_on_black():
    """Catches prompts that name a background, and images that are judged for one that nobody asked for."""
    black, right = measure(None, count=7)
    assert black == 0 and right >= 70
