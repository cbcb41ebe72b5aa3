"""Judges as a user writes them, for test_judges.py. They note what they were asked."""

import time

ASKED: list = []
VERSION = ["1"]
STEADY: list = []  # the prompts that `steady` was asked about
REPAIRED: list = []  # anything in it: nothing breaks Bright any more


class Bright:
    """The mean of an image. It breaks on a prompt with "broken", and has nothing to say about "silent"."""

    range = (0, 1)

    def __init__(self, scale=1.0):
        self.scale = scale

    @property
    def version(self):
        return VERSION[0]

    def __call__(self, images, prompts, references, masks, meta):
        ASKED.append((list(prompts), [len(some) for some in references], list(meta)))
        if not REPAIRED and any("broken" in prompt for prompt in prompts):
            raise ValueError("this one breaks it")
        return [
            None if "silent" in prompt else self.scale * float(image.mean())
            for image, prompt in zip(images, prompts, strict=True)
        ]


def never(images, prompts, references, masks, meta):
    time.sleep(0.5)
    return [0.0 for _ in images]


def steady(images, prompts, references, masks, meta):
    STEADY.extend(prompts)
    return [0.5 for _ in images]
