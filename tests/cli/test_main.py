"""The door of all commands: help, exit statuses, what is imported, and that its words agree with the library."""

import argparse
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import tomllib

from benchmarks import parts
from blip3o_core.cli import arguments as words
from blip3o_core.cli import bench, main, recipe, recipe_parts, train, versions
from blip3o_core.decoding.sampling import MAX_GUIDANCE, Sampling
from blip3o_core.diffusion.reference_mode import REFERENCE_MODES
from blip3o_core.editing.masks import MAX_FEATHER
from blip3o_core.images.preprocess import FITS
from blip3o_core.tiny import CATEGORIES, SPLITS, evaluation
from blip3o_core.tiny.recipe.stages import STAGES
from tests.support.paths import TOP

HEAVY = ("torch", "transformers", "diffusers", "numpy", "PIL", "yaml")


def commands(parser: argparse.ArgumentParser, before: tuple[str, ...] = ()) -> dict:
    """Words -> parser, of every command and subcommand."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found |= {(*before, name): command} | commands(command, (*before, name))
    return found


COMMANDS = commands(main.build_parser())


def default(command: str, option: str):
    return COMMANDS[tuple(command.split())].get_default(option)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_mentions_every_option(command, capsys):
    """Catches an option that a newcomer cannot find out about."""
    assert main.main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    for action in COMMANDS[command]._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert all(name in text for name in action.choices)
            continue
        assert action.help and action.help != argparse.SUPPRESS, action.dest
        for name in action.option_strings or [action.metavar or action.dest]:
            assert name in text


def test_a_usage_error_imports_nothing_heavy():
    """Catches an import at the top of a command's module, which makes everybody wait seconds for a spelling mistake."""
    mistakes = [
        ["generate"],
        ["generate", "--prompt=a", "--out=a.jpg"],
        ["--no-such-option"],
        ["paint"],
        ["edit", "--out=a.png"],
        ["edit", "--list=a", "--mask=b", "--out=c"],
        ["reconstruct", "--image=a", "--out=a.png", "--from=autoencoder", "--size=64x64"],
        *([*command, "--no-such-option"] for command in COMMANDS),
        *([*command, "--help"] for command in COMMANDS),
    ]
    code = (
        "import sys; from blip3o_core.cli.main import main; "
        f"print([main(words) for words in {mistakes}], sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    statuses = [0 if words[-1] == "--help" else 2 for words in mistakes]
    assert done.stderr.splitlines()[-1] == f"{statuses} []"


@pytest.mark.slow
def test_the_module_runs_as_a_program(tmp_path):
    """Catches an entry point that only works from inside the tests, and a status that does not reach the shell."""
    for arguments, status in ((["--checkpoint", str(tmp_path / "absent")], 1), (["--checkpiont=x"], 2)):
        command = [sys.executable, "-m", "blip3o_core", "inspect", *arguments]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert done.stdout == "" and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert done.stderr == "error: unknown option --checkpiont. Did you mean --checkpoint?\n"


@pytest.mark.slow
@pytest.mark.long
def test_the_folder_runs_as_a_program_from_anywhere(tmp_path):
    """Catches a copy in custom_nodes whose command line works in its own folder only, and modules of ours that hide
    others of the same name."""
    command = [sys.executable, str(TOP / "blip3o_core")]
    words = ["generate", "--prompts=p.txt", "--out=made", "--steps=1", "--num-processes=2"]
    (tmp_path / "p.txt").write_text("a red circle\na blue star\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "made").glob("*.png"))) == 2


SENTENCES = {
    "": 'The command is missing: say what to do. Example: blip3o generate --prompt "a red circle above a blue star"',
    "genrate": "unknown command 'genrate'. Did you mean generate?",
    "paint": "unknown command 'paint'. Write one of generate, edit,",
    "evaluate": "evaluate needs the name of a task. Tasks are ",
    "evaluate tny": "There is no task 'tny'. Did you mean tiny?",
    "evaluate tiny --only sise --out x": "tiny has no category 'sise'. Did you mean size?",
    "evaluate tiny --option count=7": "tiny: the option count is '7'. Give a whole number from 8 to 1,048,576.",
    "evaluate tiny --option cuont=80": "tiny has no option 'cuont'. Did you mean count?",
    "train": "train needs a YAML file with the settings of the run. Example: blip3o train recipe.yaml",
    "diffusion-rl": "diffusion-rl needs a YAML file with the settings of the run. Example: blip3o",
    "grpo": "grpo needs a YAML file with the settings of the run. Example: blip3o grpo grpo.yaml",
    "train absent.yaml": "absent.yaml does not exist. Choose a YAML file.",
    "generate": "generate needs the text of an image: --prompt TEXT, or --prompts FILE for many. Example: blip3o",
    "generate --promt x": "unknown option --promt. Did you mean --prompt?",
    "generate --prompt a red circle": "unexpected 'red circle'; write a text of several words in quotes.",
    "generate --prompts p.txt": "--prompts needs --out DIR, the folder for the images.",
    "edit": "edit needs an image: --image FILE, once for each, or --list FILE. Example: blip3o edit",
    "edit --list a.jsonl": "--list needs --out DIR, the folder for the images.",
    "reconstruct": "reconstruct needs an image and a name for the result: --image FILE --out FILE.png. Example: blip3o",
}


@pytest.mark.parametrize("words", SENTENCES)
def test_a_mistake_is_one_line_that_knows_the_next_word(words, capsys):
    """Catches a wall of usage, and an answer that a newcomer has to look up."""
    assert main.main(words.split()) in (1, 2)
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: " + SENTENCES[words]) and said.err.count("\n") == 1


def test_the_version_is_the_projects(capsys):
    """Catches a version that is written down twice and differs, and a report without the versions of the libraries."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert versions.PACKAGE == project["name"] and main.main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"blip3o {project['version']} (Python ") and all(
        f"{name} " in said for name in ("torch", "transformers", "diffusers")
    )


def test_options_stand_in_groups():
    """Catches twenty options in one list, where nobody finds the seed between the threads and the number format."""
    for command in ("generate", "edit"):
        groups = {group.title: len(group._group_actions) for group in COMMANDS[command,]._action_groups}
        assert {"Image", "Tokens", "Diffusion", "Model", "Machine"} <= set(groups)
        assert groups["options"] == 1 and max(groups.values()) < 11


def test_the_installed_script_is_the_same_door():
    """Catches a command `blip3o` that names a function which has moved."""
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    [(name, value)] = scripts.items()
    assert name == "blip3o" and EntryPoint(name, value, "console_scripts").load() is main.main


def test_choices_and_defaults_are_the_librarys():
    """Catches a command line that offers what the library lacks, hides what it has, or has other defaults."""
    assert words.FITS == FITS and words.REFERENCE_MODES == tuple(REFERENCE_MODES)
    sampling = Sampling()
    for command in ("generate", "edit", "evaluate", "recipe parts"):
        for name in ("top_k", "top_p", "temperature"):
            assert default(command, name) == getattr(sampling, name)
    for command in ("generate", "edit"):
        assert default(command, "token_guidance") == sampling.guidance
    for option, most in (("--token-guidance", MAX_GUIDANCE), ("--feather", MAX_FEATHER)):
        edit = COMMANDS["edit",]
        value = edit._option_string_actions[option].type
        assert value(f"{most:g}") == most
        with pytest.raises(argparse.ArgumentTypeError):
            value(f"{most + 1:g}")
    assert recipe_parts.SPLITS == SPLITS and recipe_parts.SOURCES == evaluation.SOURCES
    for name in ("count", "seeds", "steps", "guidance", "batch"):
        assert default("recipe parts", name) == getattr(evaluation.Settings(), name)
    value = COMMANDS["recipe", "parts"]._option_string_actions["--count"].type
    assert value(str(len(CATEGORIES))) == len(CATEGORIES)
    with pytest.raises(argparse.ArgumentTypeError):
        value(str(len(CATEGORIES) - 1))
    assert set(recipe.STAGES) == set(STAGES) and recipe.SIDE == evaluation.SIDES[2]
    assert set(bench.PARTS) == set(parts._work(1.0))


@pytest.mark.parametrize("order", [["--resume", "a=1", "b=2"], ["a=1", "--resume", "b=2"], ["a=1", "b=2", "--resume"]])
def test_settings_may_stand_before_and_after_resume(order, monkeypatch):
    """Catches a resumed run whose settings are refused, or dropped, because of the order of the words."""
    seen = []
    monkeypatch.setattr(train, "run_train", lambda arguments: seen.append((arguments.resume, arguments.overrides)))
    assert main.main(["train", "c.yaml", *order]) == 0 and seen == [(True, ["a=1", "b=2"])]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_what_cancelling_means(command):
    """Catches a command whose Ctrl-C ends with a traceback, or with the promise of another command."""
    parser = COMMANDS[command]
    if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        assert parser.get_default("cancelled").format(out="folder").startswith("Cancelled.")


def test_the_benchmarks_outside_a_checkout(monkeypatch, tmp_path, capsys):
    """Catches a traceback where the installed package has no benchmarks, and a hint that leads nowhere."""
    monkeypatch.setattr(bench, "TOP", tmp_path)
    assert main.main(["bench", "memory"]) == 1
    assert "python -m blip3o_core bench" in capsys.readouterr().err
