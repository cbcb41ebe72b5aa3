"""Rewards as a user writes them, for test_load.py."""


def brightness(images, prompts, references, masks, meta):
    return [float(image.mean()) for image in images]


class Scaled:
    version = "2"

    def __init__(self, factor, offset=0.0):
        if factor == 0:
            raise ZeroDivisionError("factor 0")
        self.factor, self.offset = factor, offset
        self.range = (offset, offset + factor)

    def __call__(self, images, prompts, references, masks, meta):
        return [self.offset + self.factor * float(image.mean()) for image in images]


class Backwards:
    range = (1, 0)

    def __call__(self, images, prompts, references, masks, meta):
        return [0.5 for _ in images]


def two(images, prompts):
    return [0.0 for _ in images]


NOTHING = 3
