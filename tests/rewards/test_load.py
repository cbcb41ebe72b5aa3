"""From settings to rewards: names, options, and code of the user."""

import math
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import BUILT_IN, load_rewards, version_of
from blip3o_core.rewards.settings import RewardList, RewardSettings
from blip3o_core.settings import load_settings
from tests.support.paths import TOP

OWN = str(Path(__file__).with_name("own_rewards.py"))
IMAGES = Candidates([torch.zeros(8, 8, 3), torch.ones(8, 8, 3)], ["a", "b"])


def own(name, **more):
    return load_rewards([{"name": "mine", "use": f"{OWN}:{name}", **more}], own_code=True)


def test_own_code_is_used():
    """Catches a function or class of the user that is called wrongly, or loses its version or its range."""
    mix = own("brightness", weight=2, timeout="1e1", on_error="skip")
    (part,) = mix.parts
    assert (part.name, part.weight, part.timeout, part.on_error) == ("mine", 2, 10, "skip")
    assert part.reward.range == (-math.inf, math.inf)
    assert mix.score(IMAGES).parts == {"mine": [0, 1]}
    scaled = own("Scaled", options={"factor": 2})
    assert scaled.score(IMAGES).parts == {"mine": [0, 2]}
    assert scaled.parts[0].reward.range == (0, 2) and scaled.versions == {"mine": "2"}


def test_two_rewards_of_a_file_have_two_versions(tmp_path):
    """Catches scores that are kept for another function of the same file, or for other options of the same class."""
    file = tmp_path / "own.py"
    file.write_text(
        "def one(images, *_):\n    return [0.0] * len(images)\n\n\n"
        "def two(images, *_):\n    return [1.0] * len(images)\n\n\n"
        "class Scaled:\n    def __init__(self, factor=1):\n        self.factor = factor\n\n"
        "    def __call__(self, images, *_):\n        return [self.factor] * len(images)\n"
    )

    def version(name, **options):
        entry = {"name": "mine", "use": f"{file}:{name}", "options": options}
        return load_rewards([entry], own_code=True).versions["mine"]

    found = [
        version("one"),
        version("two"),
        version("Scaled"),
        version("Scaled", factor=2),
        version("Scaled", factor=3),
    ]
    assert len(set(found)) == 5 and version("Scaled", factor=2) == found[3]


def test_own_code_that_changed_has_another_version(tmp_path):
    """Catches a resumed run that learns from other numbers than before, and a version that was given and is lost."""
    file = tmp_path / "mine.py"

    def version(code):
        file.write_text(f"def judge(images, prompts, references, masks, meta):\n    return [{code}] * len(images)\n")
        (found,) = load_rewards([{"name": "mine", "use": f"{file}:judge"}], own_code=True).versions.values()
        return found

    assert version(0.5) == version(0.5) != version(0.25)
    assert version(0.5).startswith("source ") and own("Scaled", options={"factor": 2}).versions == {"mine": "2"}
    assert version_of(pytest).startswith(f"{pytest.__version__}, source ")
    assert version_of(sys) == "own"  # it has no file


def test_a_module_is_found_by_its_name():
    """Catches a module that is taken for a file, or that is found and called with what it does not take."""
    entry = {"name": "mine", "use": "statistics:fmean"}
    with pytest.raises(Blip3oError, match="cannot be called with the five arguments"):
        load_rewards([entry], own_code=True)


def test_the_current_folder_is_not_searched(tmp_path, monkeypatch):
    """Catches a module of the folder that happens to be the current one, taken for an installed package."""
    (tmp_path / "my_reward_module.py").write_text("def one(*judged_by): return [1.0]")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", [one for one in before if one not in ("", str(tmp_path))])
    with pytest.raises(Blip3oError, match="'my_reward_module' is not installed.*name its file"):
        load_rewards([{"name": "mine", "use": "my_reward_module:one"}], own_code=True)
    load_rewards([{"name": "mine", "use": "my_reward_module.py:one"}], own_code=True)
    assert str(tmp_path) not in sys.path


def test_a_workflow_cannot_run_code():
    """Catches code that runs because an image with a workflow in it was dropped on the page."""
    for use in (f"{OWN}:brightness", "os:system", ":", "a:b:c"):
        with pytest.raises(Blip3oError, match="a workflow could come from anybody"):
            load_rewards([{"name": "mine", "use": use}])


WRONG = {
    "brightnes": "no 'brightnes'. Did you mean brightness?",
    "NOTHING": "cannot be called with the five arguments",
    "two": "cannot be called with the five arguments (images, prompts, references, masks, meta)",
    "Backwards": "range (1, 0)",
    "Scaled": "needs the option 'factor'",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_own_code_is_named(name):
    """Catches a run that ends after its first images because the reward could never have worked."""
    with pytest.raises(Blip3oError) as error:
        own(name)
    assert WRONG[name] in str(error.value) and "'mine'" in str(error.value)


def test_wrong_options_are_named():
    """Catches an option that is silently ignored."""
    with pytest.raises(Blip3oError, match="'mine' has no option 'facto'. Did you mean factor?"):
        own("Scaled", options={"facto": 1})
    with pytest.raises(Blip3oError, match="could not be made: ZeroDivisionError: factor 0"):
        own("Scaled", options={"factor": 0})
    with pytest.raises(Blip3oError, match="is a function, which takes none"):
        own("brightness", options={"factor": 1})


def test_a_module_that_fails_is_named(tmp_path):
    """Catches a traceback where a sentence is needed."""
    for content, words in (
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def x(:", "SyntaxError"),
        ("import not_there_at_all", "'not_there_at_all' is not installed. Install not_there_at_all"),
    ):
        file = tmp_path / "broken.py"
        file.write_text(content)
        with pytest.raises(Blip3oError, match=words):
            load_rewards([{"name": "mine", "use": f"{file}:x"}], own_code=True)
    with pytest.raises(Blip3oError, match="there is no such file"):
        load_rewards([{"name": "mine", "use": f"{tmp_path}/missing.py:x"}], own_code=True)
    assert not [one for name, one in sys.modules.items() if name.startswith("own_code_") and one.__file__ == str(file)]


def test_unknown_names_are_answered():
    """Catches a typing mistake without the name that was meant."""
    with pytest.raises(Blip3oError, match="'nothing_like_it' is not a built-in reward"):
        load_rewards(["nothing_like_it"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "a/b"}, "name is 'a/b'; it must be 1 to 64 letters"),
        ({"name": ""}, "letters"),
        ({"nam": "text"}, "Did you mean name?"),
        ({"name": "text", "weight": math.nan}, "weight is nan; it must be a finite number"),
        ({"name": "text", "timeout": 0}, "timeout is 0; it must be above 0"),
        ({"name": "text", "on_error": "ignore"}, "on_error is 'ignore'; it must be 'stop' or 'skip'"),
        ({"name": "text", "options": [1]}, "options is [1]; it must be a mapping"),
        (3, "must be a mapping"),
    ],
)
def test_wrong_settings_are_named(entry, words):
    """Catches pydantic's own words, and a wrong value that is found after hours."""
    with pytest.raises(Blip3oError) as error:
        load_rewards([entry])
    assert words in str(error.value) and "rewards[0]" in str(error.value)


def test_a_list_is_read_from_a_file(tmp_path):
    """Catches a short form that YAML reads as something else."""
    file = tmp_path / "rewards.yaml"
    file.write_text(
        "rewards:\n  - text\n  - name: pick\n    use: clip\n    weight: 0.5\n    options: {model: folder}\n"
    )
    first, second = load_settings(RewardList, file).rewards
    assert first == RewardSettings(name="text") and second.use == "clip" and second.options == {"model": "folder"}
    file.write_text("rewards: text\n")
    assert load_settings(RewardList, file).rewards == (first,)
    file.write_text("rewards: []\n")
    with pytest.raises(Blip3oError, match="rewards is .*must not be empty"):
        load_settings(RewardList, file)


def test_the_examples_of_the_page_run(tmp_path):
    """Catches an example that was right when it was written."""
    page = (TOP / "docs" / "rewards.md").read_text(encoding="utf-8")
    function, kind = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "(self" in block or "def b" in block
    )
    (tmp_path / "my_rewards.py").write_text(f"{function}\n{kind}")
    entries = [
        {"name": "bright", "use": f"{tmp_path}/my_rewards.py:brightness"},
        {"name": "share", "use": f"{tmp_path}/my_rewards.py:Share", "options": {"limit": 0.1}},
    ]
    assert load_rewards(entries, own_code=True).score(IMAGES).parts == {"bright": [0, 1], "share": [0, 1]}
    (tmp_path / "rewards.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    assert [one.name for one in load_settings(RewardList, tmp_path / "rewards.yaml").rewards] == [
        "text",
        "consistency",
        "pickscore",
    ]


def test_built_in_rewards_exist():
    """Catches a table that names a class which was moved."""
    for place in BUILT_IN.values():
        module, _, kind = place.partition(":")
        assert hasattr(import_module(module, "blip3o_core.rewards"), kind), place
