"""Messages: whatever a file or a request is called, a terminal, a log and a browser can show them."""

import pickle

import pytest

from blip3o_core.errors import MESSAGE_LIMIT, Blip3oError
from blip3o_core.settings import SettingsError

SPELT_OUT = {
    "\x1b[2J\x1b]0;title\x07": "\\x1b[2J\\x1b]0;title\\x07",  # clears a terminal and names its window
    "a\rb\tc\x00": "a\\rb\\tc\\x00",
    "invoice\u202egnp.exe": "invoice\\u202egnp.exe",  # shown as exe.png
    "half \ud83d": "half \\ud83d",
    "bytes \udcff": "bytes \\udcff",
    "\x9b31m\u2028\ufeff\u200b": "\\x9b31m\\u2028\\ufeff\\u200b",
}


@pytest.mark.parametrize("text", SPELT_OUT)
def test_what_cannot_be_shown_is_spelt_out(text):
    """Catches names of files and tensors that move the cursor, turn the text round or cannot be encoded."""
    assert str(Blip3oError(f"{text} is bad.\nDelete it.")) == f"{SPELT_OUT[text]} is bad.\nDelete it."


@pytest.mark.parametrize("text", ["plain", "naïve 日本\u3000城 🦊", "two\nlines", "no-break\xa0space", "C:\\new\\x1b"])
def test_what_can_be_shown_stays(text):
    """Catches messages in which a user does not find the own words."""
    assert str(Blip3oError(text)) == text


def test_a_message_ends():
    """Catches a megabyte of a file printed to a terminal."""
    message = str(Blip3oError("x" * 10**6))
    assert len(message) < MESSAGE_LIMIT + 50 and message.endswith("... (992,000 characters more)")


def test_an_error_reaches_another_process():
    """Catches an error of a worker that cannot be sent, so that "cannot pickle" is shown in its place."""
    again = pickle.loads(pickle.dumps(Blip3oError("steps 0 is too small")))
    assert type(again) is Blip3oError and str(again) == "steps 0 is too small"
    again = pickle.loads(pickle.dumps(SettingsError(["steps 0 is too small"])))
    assert type(again) is SettingsError and str(again) == again.faults[0] == "steps 0 is too small"
