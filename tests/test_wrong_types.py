"""What the library is given by a script: values of a wrong type are one sentence, raised where they enter."""

from dataclasses import replace

import pytest
import torch

from blip3o_core.diffusion.sampler import Conditioning
from blip3o_core.errors import Blip3oError
from blip3o_core.prompts.vocabulary import CodesId
from blip3o_core.tokens.generate import Request
from blip3o_core.tokens.image_tokens import ImageTokens

TOKENS = ImageTokens(torch.zeros(1, 4, dtype=torch.int64), (2, 2), ["a"], [[1]], [0], [4], CodesId())
STATES = torch.zeros(1, 2, 3)


@pytest.mark.parametrize("wrong", ["a red circle", None, 3, [None], [["a"]], {"a": 1}])
def test_prompts_are_a_list_of_texts(wrong):
    """Catches one prompt given as a text, which would be read as an image for each letter."""
    with pytest.raises(Blip3oError, match=r"^prompts is .* It must be a list of texts, one for each image\.$"):
        Request(wrong, [0])


@pytest.mark.parametrize("wrong", [7, None, ["7"], [0.5], torch.zeros(1)])
def test_seeds_are_a_list_of_integers(wrong):
    """Catches a seed that is cut to an integer, and Python's own error for a number in place of a list."""
    with pytest.raises(Blip3oError, match=r"^seeds is .* It must be a list of integers, one for each image\.$"):
        Request(["a"], wrong)


@pytest.mark.parametrize("name", ["prompts", "seeds", "lengths"])
@pytest.mark.parametrize("wrong", [None, 3, "a"])
def test_rows_of_tokens_have_lists(name, wrong):
    """Catches tokens that fail far from where they were made."""
    with pytest.raises(Blip3oError, match=rf"^{name} is .* It must be a list with an entry for each row\.$"):
        replace(TOKENS, **{name: wrong})


@pytest.mark.parametrize("wrong", [None, 3, [[1.0]], torch.zeros(2, 3), torch.zeros(1, 2, 3, dtype=torch.int64)])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_conditioning_is_tensors_of_numbers(name, wrong):
    """Catches integers and shapes that only the first matrix product of the network would refuse."""
    with pytest.raises(Blip3oError, match=f"^The {name} conditioning is .* It must be a tensor"):
        Conditioning(**{"positive": STATES, "negative": STATES, name: wrong})
