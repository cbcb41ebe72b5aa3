"""What the benchmark of RL on the diffusion measures."""

import torch

from benchmarks.diffusion_rl import Colours, colour_error
from blip3o_core.tiny import rasterize
from blip3o_core.tiny.scenes.spec import Expected, Spec, spec_of
from blip3o_core.tiny.scenes.world import make_scene
from blip3o_core.tiny.tasks import WORLD


def test_the_colour_error_is_about_the_colours_that_the_prompt_names():
    """Catches channels in another order or range, and an error of images whose prompt names no colour."""
    scenes = [make_scene(0, "train", index, WORLD, "colors") for index in range(4)]
    images = [torch.from_numpy(rasterize(scene, 64)).float() / 255 for scene in scenes]
    meta = [{"spec": spec_of(scene)} for scene in scenes]
    assert all(error < 2 for error in map(colour_error, images, (one["spec"] for one in meta)))
    rewards = Colours()(images, [], [], [], meta)
    assert all(reward > 0.9 for reward in rewards)
    assert all(
        low < high for low, high in zip(Colours()([1 - i for i in images], [], [], [], meta), rewards, strict=True)
    )
    assert colour_error(images[0], Spec((Expected("circle"),))) is None
