"""From the names of rewards to rewards. A reward's module is imported when it is asked for, and not before."""

import contextlib
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, did_you_mean, first_line, shown
from .interface import Reward
from .mix import Part, RewardMix
from .settings import RewardList, RewardSettings

# Name -> the module, seen from here, and the class in it.
BUILT_IN: dict[str, str] = {
    "clip": ".clip:ClipReward",
    "consistency": ".consistency:ConsistencyReward",
    "http": ".remote:HttpReward",
    "text": ".text:TextReward",
    "tiny": "..tiny.judge.reward:TinyReward",
    "vlm": ".vlm:VlmReward",
}
_ELSEWHERE = ("http", "vlm")  # they send images, and a key, to an address
_HERE = tuple(name for name in BUILT_IN if name not in _ELSEWHERE)
_GUIDE = "docs/rewards.md"
_ARGUMENTS = ("images", "prompts", "references", "masks", "meta")


def load_rewards(entries: Sequence[RewardSettings | str | Mapping[str, Any]], own_code: bool = False) -> RewardMix:
    """The rewards of a list, ready to judge. Raises Blip3oError for one that cannot be made.

    `own_code` allows `use: module:name`, which runs code of the user, and rewards that send images elsewhere: for a
    settings file of theirs, and never for what came with a workflow.
    """
    rewards: Any = [one.model_dump() if isinstance(one, RewardSettings) else one for one in entries]
    return RewardMix([_load(one, own_code) for one in RewardList(rewards=rewards).rewards])


def _load(settings: RewardSettings, own_code: bool) -> Part:
    use = settings.use or settings.name
    reward = _own(settings, own_code) if ":" in use else _built_in(use, settings, own_code)
    return Part(reward, settings.weight, settings.timeout, settings.on_error, settings.name, use in _ELSEWHERE)


def _built_in(name: str, settings: RewardSettings, own_code: bool) -> Reward:
    if name not in BUILT_IN:
        hint = did_you_mean(name, list(BUILT_IN)) or f"Built-in rewards are {', '.join(BUILT_IN)}."
        raise Blip3oError(f"{shown(name)!r} is not a built-in reward. {hint} {_GUIDE} shows how to use your own.")
    if name in _ELSEWHERE and not own_code:
        raise Blip3oError(
            f"Reward {settings.name!r} is a {name!r} reward, which sends images to another program. Only a settings "
            "file of the command line may use it: a workflow could come from anybody. Use one of "
            f"{', '.join(_HERE)} here."
        )
    module, _, kind = BUILT_IN[name].partition(":")
    return _make(getattr(import_module(module, __package__), kind), settings)


def _make(kind: type, settings: RewardSettings) -> Any:
    """An object of a reward's class. The class checks the values of its options itself."""
    known = {name: one for name, one in inspect.signature(kind).parameters.items() if one.kind is not one.VAR_KEYWORD}
    anything = len(known) < len(inspect.signature(kind).parameters)
    about = f"Reward {settings.name!r}"
    for name in settings.options:
        if name not in known and not anything:
            listed = f"Its options are {', '.join(known)}." if known else "It takes none."
            raise Blip3oError(f"{about} has no option {shown(name)!r}. {did_you_mean(name, list(known)) or listed}")
    for name, one in known.items():
        if one.default is one.empty and one.kind is not one.VAR_POSITIONAL and name not in settings.options:
            raise Blip3oError(f"{about} needs the option {name!r}. Write `options: {{{name}: ...}}`; see {_GUIDE}.")
    try:
        return kind(**settings.options)
    except Blip3oError as error:
        raise Blip3oError(f"{about}: {error}") from error


# --- own code ----------------------------------------------------------------------------------------------


@dataclass
class OwnReward:
    """A function or an object of the user, with a name, a version and a range whether it has them or not."""

    name: str
    version: str
    range: tuple[float, float]
    judge: Callable

    def __call__(self, images, prompts, references, masks, meta) -> Sequence[float | None | Exception]:
        return self.judge(images, prompts, references, masks, meta)


def _own(settings: RewardSettings, own_code: bool) -> OwnReward:
    place = str(settings.use)
    if not own_code:
        raise Blip3oError(
            f"Reward {settings.name!r} uses own code, {shown(place)!r}. Only a settings file of the command line may: "
            f"a workflow could come from anybody. Use a built-in reward here: {', '.join(_HERE)}."
        )
    module, _, name = place.rpartition(":")
    about = f"Reward {settings.name!r} uses {shown(place)}"
    code = own_module(module, about)
    found = _attribute(code, name, settings)
    if inspect.isclass(found):
        try:
            found = _make(found, settings)
        except Blip3oError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {shown(first_line(error))}"
            raise Blip3oError(f"Reward {settings.name!r} could not be made: {reason}. Correct {place}.") from error
    elif settings.options:
        raise Blip3oError(
            f"Reward {settings.name!r} has options, but {place} is a function, which takes none. Write a class whose "
            f"__init__ takes them; {_GUIDE} has an example."
        )
    _check_call(found, settings)
    version = getattr(found, "version", None)
    said = f"{version_of(code)}, {_part_of(name, settings.options)}" if version is None else str(version)
    return OwnReward(settings.name, said, _range_of(found, settings), found)


def _part_of(name: str, options: Mapping[str, Any]) -> str:
    """Which reward of a file this is: a file may have several, and a class gives another one for other options."""
    if not options:
        return name
    return f"{name} {hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:12]}"


def own_module(module: str, about: str) -> Any:
    """A module by its name, or by its file where it ends in .py. The current folder is not searched for a name.

    This runs the user's code. `about`: the beginning of what an error says.
    """
    if module.endswith(".py") and not Path(module).is_file():
        raise Blip3oError(f"{about}, but there is no such file. Give its path, seen from {Path.cwd()}.")
    try:
        return _import_file(Path(module)) if module.endswith(".py") else import_module(module)
    except ModuleNotFoundError as error:
        if module.endswith(".py") or error.name not in (module, module.partition(".")[0]):
            advice = f"Install {error.name}."
        else:
            advice = "Install that module, or name its file, like folder/module.py:name."
        raise Blip3oError(f"{about}, but the module {shown(str(error.name))!r} is not installed. {advice}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {shown(first_line(error))}"
        raise Blip3oError(f"{about}, which cannot be imported: {reason}. Correct that module.") from error


def version_of(code: Any) -> str:
    """What tells a module from its later state: the version of its package, and a digest of its own file."""
    package = sys.modules.get(code.__name__.partition(".")[0], code)
    said = getattr(code, "__version__", getattr(package, "__version__", None))
    found = [] if said is None else [str(said)]
    with contextlib.suppress(OSError, TypeError):  # a module need not have a file
        found.append(f"source {hashlib.sha256(Path(getattr(code, '__file__', None)).read_bytes()).hexdigest()[:12]}")
    return ", ".join(found) or "own"


def _import_file(path: Path) -> Any:
    name = f"own_code_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for their module here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(module: Any, name: str, settings: RewardSettings) -> Any:
    if not hasattr(module, name):
        names = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        hint = did_you_mean(name, names) or "Write the name of a function or a class after the colon."
        raise Blip3oError(f"Reward {settings.name!r} uses {settings.use}, but that module has no {name!r}. {hint}")
    return getattr(module, name)


def _check_call(judge: Any, settings: RewardSettings) -> None:
    try:
        fits = inspect.signature(judge).bind(*_ARGUMENTS) is not None
    except (TypeError, ValueError):
        fits = callable(judge) and not inspect.isfunction(judge)  # built-in functions show no signature
    if not fits:
        raise Blip3oError(
            f"Reward {settings.name!r} uses {settings.use}, which cannot be called with the five arguments "
            f"({', '.join(_ARGUMENTS)}). Give it these; {_GUIDE} has an example."
        )


def _range_of(judge: Any, settings: RewardSettings) -> tuple[float, float]:
    given = getattr(judge, "range", (-math.inf, math.inf))
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not low < high:
        raise Blip3oError(
            f"Reward {settings.name!r} has the range {shown(repr(given))}. It must be two numbers, the smaller first. "
            f"Correct {settings.use}."
        )
    return low, high
