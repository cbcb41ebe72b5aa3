"""Scenes in words: a plain grammar, and other phrasings of the same. What is not square or textured may be said, too.

The first form in every list belongs to the plain grammar. `plain` captions use nothing else, so that scores compare.
"""

from .keyed_random import KeyedRandom
from .textures import ADJECTIVES, SOLID, Texture
from .world import CANVASES, DEFAULT_BACKGROUND, SQUARE, TEXT, Scene, SceneObject

OPENINGS = ("", "a picture of ", "an image of ")  # of the plain grammar
MORE_OPENINGS = ("a drawing of ", "draw ", "show ", "there {is} ")
OBLONG_OPENINGS = ("a {shape} image of ", "a {shape} picture of ")  # of the plain grammar
MORE_OBLONG_OPENINGS = ("a {shape} drawing of ", "draw a {shape} image of ", "show a {shape} image of ")
SHAPE_WORDS = {canvas: word for word, canvas in CANVASES.items()}
BACKGROUND_TEMPLATES = (
    "{opening}{body} on a {colour} background",
    "{opening}{body} against a {colour} background",
    "{opening}{body} on {colour}",
    "on a {colour} background there {is} {body}",
    "on a {colour} background, {body}",
    "a {colour} background with {body}",
)
NUMBERS = ("no", "one", "two", "three", "four")
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLAIN_SHARE = 0.4  # of captions that use the plain grammar, when any phrasing is allowed


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def caption(scene: Scene, seed: int | None = None, plain: bool = False) -> str:
    """A caption of the scene: the shortest without a seed, else a random one, with `plain` of the plain grammar."""
    if seed is None:
        return next(iter(phrasings(scene)))
    rng = KeyedRandom("caption", seed)
    plain = plain or rng.chance(PLAIN_SHARE)
    bodies = _bodies(scene)
    body = bodies[0] if plain else rng.choice(bodies)
    opening = rng.choice(_openings(scene, plain))
    templates = _templates(scene)
    template = templates[0] if plain else rng.choice(templates)
    return _compose(scene, body, opening, template)


def phrasings(scene: Scene) -> dict[str, None]:
    """Every caption of the scene, once each, in a fixed order. A dict, because a set has no order."""
    return {
        _compose(scene, body, opening, template): None
        for template in (_templates(scene) if _names_background(scene) else BACKGROUND_TEMPLATES[:1])
        for body in _bodies(scene)
        for opening in _openings(scene, plain=False)
    }


def _openings(scene: Scene, plain: bool) -> tuple[str, ...]:
    if scene.canvas == SQUARE:
        return OPENINGS if plain else OPENINGS + MORE_OPENINGS
    openings = OBLONG_OPENINGS if plain else OBLONG_OPENINGS + MORE_OBLONG_OPENINGS
    return tuple(opening.replace("{shape}", SHAPE_WORDS[scene.canvas]) for opening in openings)


def _templates(scene: Scene) -> tuple[str, ...]:
    """Of an image that is not square only those with an opening, which says so."""
    if scene.canvas == SQUARE:
        return BACKGROUND_TEMPLATES
    return tuple(template for template in BACKGROUND_TEMPLATES if "{opening}" in template)


def _names_background(scene: Scene) -> bool:
    return scene.background != DEFAULT_BACKGROUND or scene.textures_named and scene.texture != SOLID


def _compose(scene: Scene, body: str, opening: str, template: str) -> str:
    if body.startswith("="):  # a whole sentence: no opening, and no background in front
        body, opening, template = body[1:], "", BACKGROUND_TEMPLATES[0]
    if not _names_background(scene):
        template = "{opening}{body}"
    if template[0] != "{":
        opening = ""
    ground = f"{adjective(scene.texture, scene.textures_named)}{scene.background}"
    text = template.replace("a {colour}", with_article(ground)).replace("{colour}", ground)
    text = text.replace("{opening}", opening).replace("{body}", body)
    return text.replace("{is}", "are" if scene.category == "counting" else "is")


def adjective(texture: Texture, named: bool) -> str:
    """The texture's word and a space, or nothing."""
    return f"{ADJECTIVES[texture.kind]} " if named and texture != SOLID else ""


def noun(obj: SceneObject, coloured: bool, textured: bool = False) -> str:
    return adjective(obj.texture, textured) + (f"{obj.colour} {obj.shape}" if coloured else obj.shape)


def _bodies(scene: Scene) -> list[str]:
    bodies = _all_bodies(scene)
    return bodies if scene.canvas == SQUARE else [body for body in bodies if body[0] != "="]


def _all_bodies(scene: Scene) -> list[str]:
    if scene.category == TEXT:
        return _word_bodies(scene)
    if scene.category == "counting":
        return _counting_bodies(scene)
    objects, textured = scene.objects, scene.textures_named
    named = [with_article(noun(obj, scene.colours_named, textured)) for obj in objects]
    if scene.size:
        return _size_bodies(objects[0], scene.size, textured)
    if scene.relation:
        return _position_bodies(named, scene.relation)
    if len(objects) == 1:
        return [
            named[0],
            *(
                _with_colour(objects[0], textured)
                if scene.colours_named
                else [f"one {noun(objects[0], False, textured)}"]
            ),
        ]
    if len(objects) == 2:
        first, second = named
        bodies = [
            f"{first} and {second}",
            f"{second} and {first}",
            f"{first} with {second}",
            f"{first} together with {second}",
            f"both {first} and {second}",
            f"{second} next to {first}",
        ]
        if scene.colours_named:
            pairs = zip(*(_with_colour(obj, textured) for obj in objects), strict=True)
            bodies += [f"{one} and {two}" for one, two in pairs]
        return bodies
    listed = f"{', '.join(named[:-1])} and {named[-1]}"
    return [listed, f"{', '.join(reversed(named[1:]))} and {named[0]}", listed.replace(", ", " and ")]


def _with_colour(obj: SceneObject, textured: bool) -> list[str]:
    one = f"a {noun(obj, False, textured)}"
    return [f"{one} in {obj.colour}", f"{one} that is {obj.colour}"]


def _size_bodies(obj: SceneObject, size: str, textured: bool) -> list[str]:
    bodies = [with_article(f"{word} {noun(obj, True, textured)}") for word in SIZES[size]]
    return bodies + [
        f"{with_article(noun(obj, True, textured))} that is {size}",
        f"a {size} {noun(obj, False, textured)} in {obj.colour}",
    ]


def _position_bodies(named: list[str], relation: str) -> list[str]:
    first, second = named
    bodies = [f"{first} {word} {second}" for word in RELATION_WORDS[relation]]
    bodies += [f"{second} {word} {first}" for word in RELATION_WORDS[OPPOSITES[relation]]]
    bodies.append(f"={RELATION_WORDS[relation][1]} {second} there is {first}")
    return bodies


def _counting_bodies(scene: Scene) -> list[str]:
    obj, count = scene.objects[0], len(scene.objects)
    textured = scene.textures_named and all(each.texture == obj.texture for each in scene.objects)
    many = plural(noun(obj, False, textured))
    coloured = plural(noun(obj, scene.colours_named, textured))
    bodies = [f"{NUMBERS[count]} {coloured}", f"{count} {coloured}", f"exactly {NUMBERS[count]} {coloured}"]
    bodies.append(f"a pair of {coloured}" if count == 2 else f"a group of {NUMBERS[count]} {coloured}")
    if scene.colours_named:
        bodies += [f"{NUMBERS[count]} {many} in {obj.colour}", f"{NUMBERS[count]} {many} that are {obj.colour}"]
    return bodies


def _word_bodies(scene: Scene) -> list[str]:
    text, colour = f'"{scene.word.text}"', scene.word.colour
    bodies = [
        f"the word {text} in {colour}",
        f"the text {text} in {colour}",
        f"{text} in {colour}",
        f"{text} written in {colour}",
        f"the {colour} word {text}",
        f"{text} in {colour} letters",
    ]
    if len(scene.word.text) == 1:
        kind = "number" if scene.word.text.isdigit() else "letter"
        bodies += [f"the {kind} {text} in {colour}", f"{with_article(colour)} {text}"]
    elif scene.word.text.isdigit():
        bodies.append(f"the number {text} in {colour}")
    if scene.objects:
        beside = with_article(noun(scene.objects[0], True, scene.textures_named))
        bodies = [f"{body} {joined} {beside}" for body in bodies for joined in ("and", "with")]
        bodies += [f"{beside} and the word {text} in {colour}", f"{beside} with {text} in {colour}"]
    return bodies
