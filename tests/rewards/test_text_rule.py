"""Which text a prompt asks for, and what a reading of it is worth."""

import itertools
import random

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.text_rule import edit_distance, plain, quoted_spans, score_as_authors, score_text

PROMPTS = [
    ('a sign that says "Open"', ["Open"]),
    ('a sign "Open 24 h" above a sign "Closed"', ["Open 24 h", "Closed"]),
    ("a sign “Open” and „Zu“ and «Fermé»", ["Open", "Zu", "Fermé"]),
    ("写着「你好」和『世界』的牌子", ["你好", "世界"]),
    ('写着"你好"的牌子', ["你好"]),
    ("a sign that says 'Open'", ["Open"]),
    ("a sign that says ‘It’s open’", ["It’s open"]),
    ("a sign that says 'It's open', and a dog's bowl", ["It's open"]),
    ("the dogs' bowl and the cats' toy", []),
    ("a rock 'n' roll band of the '80s and '90s", []),
    ("a child's 'room' with a dog's \"bed\"", ["bed"]),  # single marks are apostrophes here
    ('a 12" x 14" frame with the word "Art"', ["Art"]),
    ('a sign "Open', []),
    ('a sign "" and " "', []),
    ('a sign " Open "', ["Open"]),
    ('the numbers "7" and "8"', ["7", "8"]),
    ('two lines: "One\nTwo"', ["One\nTwo"]),
    ("a red fox", []),
    ("", []),
]


@pytest.mark.parametrize(("prompt", "spans"), PROMPTS)
def test_spans(prompt, spans):
    """Catches quotes that are missed, apostrophes and inches that are taken for quotes."""
    assert quoted_spans(prompt) == spans


READINGS = [  # what is asked, what was read, the value
    (["Open"], ["Open"], 1),
    (["Open"], ["open"], 1),
    (["Open 24 h"], ["Open", "24h"], 1),
    (["It’s"], ["It's"], 1),
    (["Ｏｐｅｎ"], ["Open"], 1),
    (["Open"], [], 0),
    (["Open"], ["Opem"], 0.75),
    (["Open"], ["xyz!"], 0),
    (["Open", "Closed"], ["Open", "Closed"], 1),
    (["Open", "Closed"], ["OpenClosed"], 1),
    (["Open"], ["Open", "Café"], 0.5),  # all is there, and as much again
    (["Open"], ["Open", "!"], 0.5 + 0.5 * 0.75),
    (["Open"], ["Open", "the most beautiful shop"], 0.5),
    (["Open", "Shop"], ["Open", "my", "Shop"], 0.5 + 0.5 * 0.75),  # surplus between spans
    (["Open"], ["Ozzpen"], 0.5 * 0.75 + 0.5 * 0.5),  # inside of a span it is an error of the span
    (["One", "Two"], ["Two", "One"], 0.5 * 0.5),  # the order counts: one of them is found
]


@pytest.mark.parametrize(("asked", "read", "value"), READINGS)
def test_readings(asked, read, value):
    """Catches surplus text that is free, missing text that is, and spans that are found in any order."""
    assert score_text(asked, read) == pytest.approx(value)


def test_capital_letters_count_when_asked():
    """Catches an option without effect."""
    assert score_text(["Open"], ["open"], case=True) == pytest.approx(0.75)
    assert score_text(["Open"], ["Open"], case=True) == 1


AUTHORS = [
    ('a sign "Open"', ["Open"], 1),
    ('a sign "Open"', ["we are", " OPEN now"], 1),  # surplus text is free
    ('a sign "Open" and "Closed"', ["Open"], 1),  # only the first counts
    ('a sign "Open"', ["Opem"], 0.75),
    ('a sign "Open"', ["Opem", "the most beautiful shop"], 0),
    ('a sign "Open"', [], 0),
    ('a 12" frame of "Art"', ["frameof"], 1),  # the first mark is inches
    ('a sign "Open', ["open"], 1),  # the mark is not closed
    ('a sign ""', ["open"], None),
    ("a sign 'Open'", ["Open"], None),
]


@pytest.mark.parametrize(("prompt", "read", "value"), AUTHORS)
def test_the_authors_rule(prompt, read, value):
    """Catches a rule under the authors' name that gives other numbers than theirs."""
    assert score_as_authors(prompt, read) == value


def test_distances_are_the_shortest():
    """Catches a distance that is too long, next to one found by trying every way."""

    def slow(target, text, free=(), place=0):
        if not text:
            return len(target)
        ways = [slow(target, text[1:], free, place) + (place not in free)]
        if target:
            ways += [
                slow(target[1:], text, free, place + 1) + 1,
                slow(target[1:], text[1:], free, place + 1) + (target[0] != text[0]),
            ]
        return min(ways)

    rng = random.Random(3)
    for _ in range(150):
        target, text = ("".join(rng.choices("abc", k=rng.randrange(5))) for _ in range(2))
        free = {place for place in range(len(target) + 1) if rng.random() < 0.4}
        assert edit_distance(target, text, free) == slow(target, text, free), (target, text, free)
    for one, other in itertools.product(["", "kitten", "sitting"], repeat=2):
        assert edit_distance(one, other) == edit_distance(other, one)


def test_long_text_is_bounded():
    """Catches minutes for one image that is full of letters, and a prompt that asks for a novel."""
    assert 0.4 < score_text(["Open"], ["Open" + "x" * 10**6]) <= 0.5
    with pytest.raises(Blip3oError, match="asks for 5,000 characters of text"):
        score_text(["a" * 5000], ["a"])
    assert plain("Ａ b\tC\n") == "abc"
