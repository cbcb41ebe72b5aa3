"""Worlds with fewer shapes and colours than the whole one, for short runs: there is less to learn."""

from dataclasses import dataclass
from itertools import count

from ..scenes import world as whole_world
from ..scenes.world import SQUARE, Scene, World


@dataclass(frozen=True)
class QuickWorld(World):
    """The scenes of the whole world whose objects have these shapes and colours, all with one radius."""

    shapes: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    radius: float = 28

    def radii(self, kind: int | str, canvas: tuple[int, int] = SQUARE) -> tuple[float, ...]:
        return (self.radius,)

    def contains(self, scene: Scene) -> bool:
        return all(obj.shape in self.shapes and obj.colour in self.colours for obj in scene.objects)


def make_scene(seed: int, split: str, index: int, world: World, category: str | None = None) -> Scene:
    """The whole world's `make_scene`. For a quick world it is repeated until that world contains the scene."""
    if not isinstance(world, QuickWorld):
        return whole_world.make_scene(seed, split, index, world, category)
    tries = (whole_world.make_scene(f"{seed}+{again}", split, index, world, category) for again in count())
    return next(scene for scene in tries if world.contains(scene))
