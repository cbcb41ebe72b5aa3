"""Scenes in words: a plain grammar, and other phrasings of the same.

The first form in every list belongs to the plain grammar. `plain` captions use nothing else, so that scores compare.
"""

from .world import DEFAULT_BACKGROUND, TEXT, KeyedRandom, Scene, SceneObject

OPENINGS = ("", "a picture of ", "an image of ")  # of the plain grammar
MORE_OPENINGS = ("a drawing of ", "draw ", "show ", "there {is} ")
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
    opening = rng.choice(OPENINGS if plain else OPENINGS + MORE_OPENINGS)
    template = BACKGROUND_TEMPLATES[0] if plain else rng.choice(BACKGROUND_TEMPLATES)
    return _compose(scene, body, opening, template)


def phrasings(scene: Scene) -> dict[str, None]:
    """Every caption of the scene, once each, in a fixed order. A dict, because a set has no order."""
    return {
        _compose(scene, body, opening, template): None
        for template in (BACKGROUND_TEMPLATES if scene.background != DEFAULT_BACKGROUND else BACKGROUND_TEMPLATES[:1])
        for body in _bodies(scene)
        for opening in OPENINGS + MORE_OPENINGS
    }


def _compose(scene: Scene, body: str, opening: str, template: str) -> str:
    if body.startswith("="):  # a whole sentence: no opening, and no background in front
        body, opening, template = body[1:], "", BACKGROUND_TEMPLATES[0]
    if scene.background == DEFAULT_BACKGROUND:
        template = "{opening}{body}"
    if template[0] != "{":
        opening = ""
    text = template.replace("a {colour}", with_article(scene.background)).replace("{colour}", scene.background)
    text = text.replace("{opening}", opening).replace("{body}", body)
    return text.replace("{is}", "are" if scene.category == "counting" else "is")


def noun(obj: SceneObject, coloured: bool) -> str:
    return f"{obj.colour} {obj.shape}" if coloured else obj.shape


def _bodies(scene: Scene) -> list[str]:
    if scene.category == TEXT:
        return _word_bodies(scene)
    if scene.category == "counting":
        return _counting_bodies(scene)
    objects = scene.objects
    named = [with_article(noun(obj, scene.colours_named)) for obj in objects]
    if scene.size:
        return _size_bodies(objects[0], scene.size)
    if scene.relation:
        return _position_bodies(named, scene.relation)
    if len(objects) == 1:
        return [named[0], *(_with_colour(objects[0]) if scene.colours_named else [f"one {objects[0].shape}"])]
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
            bodies += [f"{one} and {two}" for one, two in zip(*map(_with_colour, objects), strict=True)]
        return bodies
    listed = f"{', '.join(named[:-1])} and {named[-1]}"
    return [listed, f"{', '.join(reversed(named[1:]))} and {named[0]}", listed.replace(", ", " and ")]


def _with_colour(obj: SceneObject) -> list[str]:
    return [f"a {obj.shape} in {obj.colour}", f"a {obj.shape} that is {obj.colour}"]


def _size_bodies(obj: SceneObject, size: str) -> list[str]:
    bodies = [with_article(f"{word} {obj.colour} {obj.shape}") for word in SIZES[size]]
    return bodies + [f"{with_article(noun(obj, True))} that is {size}", f"a {size} {obj.shape} in {obj.colour}"]


def _position_bodies(named: list[str], relation: str) -> list[str]:
    first, second = named
    bodies = [f"{first} {word} {second}" for word in RELATION_WORDS[relation]]
    bodies += [f"{second} {word} {first}" for word in RELATION_WORDS[OPPOSITES[relation]]]
    bodies.append(f"={RELATION_WORDS[relation][1]} {second} there is {first}")
    return bodies


def _counting_bodies(scene: Scene) -> list[str]:
    obj, count = scene.objects[0], len(scene.objects)
    many = plural(obj.shape)
    coloured = f"{obj.colour} {many}" if scene.colours_named else many
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
    return bodies
