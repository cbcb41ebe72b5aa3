"""Edits: a scene, an instruction, the exact scene it should become, and the pixels that may change.

No picture of a split's edits, before or after, is in the other split.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from .captions import a, name
from .demand import Demand, Wanted, centre
from .drawing import DEFAULT_SIDE, draw, footprint
from .shapes import SHAPES
from .world import (
    BACKGROUNDS, EDIT, RELATIONS, Dice, Scene, Thing, World, apart, check_choice, clearly, colours_on, is_inside,
    make_scene, place, shows, split_of,
)  # fmt: skip

KINDS = ("recolour", "remove", "replace", "background", "add", "keep")
PLAIN_SHARE = 0.4  # of instructions in A.10's own words, when others may be

# A.10's own wordings first; {it} is a definite noun, {new} an indefinite one
_TEMPLATES = {
    "recolour": (
        2, ("change the {it} to {colour}", "make the {it} {colour}"),
        ("turn the {it} {colour}", "paint the {it} {colour}", "recolour the {it} to {colour}",
         "change the colour of the {it} to {colour}", "the {it} should be {colour}"),
    ),
    "remove": (
        1, ("remove the {it}",),
        ("delete the {it}", "take away the {it}", "erase the {it}", "take the {it} out", "get rid of the {it}"),
    ),
    "replace": (
        1, ("replace the {it} with {new}",),
        ("turn the {it} into {new}", "change the {it} into {new}", "swap the {it} for {new}", "make the {it} {new}",
         "put {new} in place of the {it}"),
    ),
    "background": (
        2, ("make the background {colour}", "change the background to {colour}"),
        ("set the background to {colour}", "turn the background {colour}", "paint the background {colour}",
         "put it on a {colour} background", "use a {colour} background"),
    ),
    "add": (
        1, ("add {new}{where}",),
        ("draw {new}{where}", "put {new}{where}", "also draw {new}{where}", "insert {new}{where}",
         "add another object: {new}{where}"),
    ),
    "keep": (
        1, ("Keep the image unchanged.",),
        ("keep the image unchanged", "keep the picture as it is", "do not change anything", "leave everything as it is",
         "change nothing"),
    ),
}  # fmt: skip
