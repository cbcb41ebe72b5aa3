"""`blip3o evaluate`: the images of a benchmark, made, scored and summed up in one folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import bullet_list
from ..evaluation.tasks.find import TASKS, known
from . import evaluate_compare
from .arguments import (
    FITS,
    MACHINE,
    REFERENCE_MODES,
    REFERENCES,
    add_interval_option,
    add_lora_option,
    add_model_options,
    add_rendering_options,
    add_sampling_options,
    add_token_guidance_options,
    positive,
    processes,
    setting,
    whole,
)
from .common import (
    Bar,
    generation_settings,
    load_pipeline,
    needs_extra,
    open_checkpoint,
    option_words,
    read_loras,
    report,
    sampling_of,
    say,
    stored_settings,
)
from .device import device_of
from .output import FOLDER
from .parser import UsageError
from .summary import Summary

if TYPE_CHECKING:
    from ..evaluation.interface import Scorer, Task
    from ..evaluation.making import Sampler, SettingsOf
    from ..evaluation.plan import Row
    from ..evaluation.run_folder import RunFolder

CANCELLED = "Cancelled. What was made and scored is kept. Run the same command again to continue."


def add_command(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="make the images of a benchmark and score them",
        description="Make the images of a benchmark in its own layout, score them, and write a table with 95 % "
        "intervals. The same command resumes an interrupted run. docs/evaluation.md says more. `evaluate compare RUN "
        "RUN` compares finished runs.",
        needs=f"evaluate needs the name of a task. {known()}",
        example="blip3o evaluate tiny --out output/tiny",
    )
    evaluate_compare.add_inner(parser)
    parser.add_argument("task", metavar="TASK", help="; ".join(f"{name}: {says}" for name, (_, says) in TASKS.items()))
    group = parser.group("Task")
    group.add_argument("--data", type=Path, metavar="PATH", help="the benchmark's files, for tasks that have some")
    group.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of this evaluation: images, scores, results (default: {FOLDER.as_posix()}/evaluate/TASK)",
    )
    group.add_argument(
        "--samples",
        type=whole(1, 1000),
        metavar="N",
        help="images for each item (default: what the benchmark asks for)",
    )
    part = group.add_mutually_exclusive_group()
    part.add_argument("--limit", type=positive, metavar="N", help="only the first N items")
    part.add_argument("--only", metavar="CATEGORY", help="only the items of a category")
    group.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="NAME_OR_FILE.yaml",
        help="also score by a built-in reward, such as text, or by those in a YAML file; give it again for each",
    )
    group.add_argument(
        "--judge",
        type=Path,
        metavar="FILE.yaml",
        help="let the benchmark's judge, a model behind an address, score the images; see docs/evaluation_judges.md",
    )
    group.add_argument(
        "--option",
        type=setting,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task, such as count=1000 of tiny; give it again for each",
    )
    references = parser.group(REFERENCES)
    references.add_argument(
        "--fit", choices=FITS, default="stretch", help="how references are made square for the image tokens "
        "(default: %(default)s)",
    )  # fmt: skip
    references.add_argument(
        "--reference-mode",
        choices=REFERENCE_MODES,
        default="auto",
        help="how the diffusion model sees references; auto: all that the checkpoint supports (default: %(default)s)",
    )
    add_sampling_options(parser)
    add_token_guidance_options(parser)
    add_rendering_options(parser, "the model's, for an edit its first reference's shape")
    add_interval_option(parser)
    add_model_options(parser)
    add_lora_option(parser)
    machine = parser.group(MACHINE)
    machine.add_argument(
        "--batch", type=positive, default=8, metavar="N",
        help="prompts that are processed together; edits are made one at a time (default: %(default)s)",
    )  # fmt: skip
    machine.add_argument(
        "--num-processes",
        type=processes,
        default=1,
        metavar="N",
        help="share the images among N processes on this machine (default: %(default)s). torchrun does it on several "
        "machines: then run the command once more without it, to score",
    )
    parser.set_defaults(run=run, parser=parser, cancelled=CANCELLED, enlarge=1)


def run(arguments: argparse.Namespace) -> int:
    """Status 1: something could not be made or judged; all the rest is there, and the results say what."""
    from ..evaluation.plan import batches, chosen_items, rows_of
    from ..evaluation.run_folder import RunFolder
    from ..evaluation.tasks.find import open_task
    from .processes import is_mine, launch, own_device, rank_and_count

    options, checkpoint = _options(arguments.option), open_checkpoint(arguments)
    with needs_extra("train"):
        task = open_task(arguments.task, arguments.data, options, checkpoint)
    items = chosen_items(task, arguments.limit, arguments.only)
    scorers = _scorers(task, arguments.judge, arguments.reward)
    samples = arguments.samples or task.samples
    if hasattr(task, "check"):
        task.check(samples, arguments.size)
    rows = rows_of(task, items, samples)
    device = own_device(device_of(arguments.device))
    read_loras(arguments, checkpoint)
    sampler = _sampler(arguments, checkpoint, device, rows)
    facts = _facts(arguments, task, checkpoint, device, samples)
    folder = RunFolder(arguments.out or FOLDER / "evaluate" / arguments.task)
    folder.begin(facts, items)
    count = rank_and_count()[1]
    if count == 1 and arguments.num_processes > 1:
        if status := launch(arguments.num_processes, arguments.words):
            return status
    else:
        settings_of = _settings_of(arguments, task, checkpoint, device)
        plan = [
            batch
            for batch in batches(rows, arguments.batch, lambda item: _is_readable(checkpoint, item.prompt))
            if is_mine(f"{batch[0].item.id} {batch[0].sample}")
        ]
        _make(arguments, folder, plan, settings_of, (checkpoint, device, sampler, facts))
    if count > 1:
        return 0
    return _finish(folder, task, rows, scorers)


def _options(words: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in given:
            raise UsageError(f"--option {name} is given twice. Give it once.")
        given[name] = value
    return given


def _scorers(task: "Task", judge: Path | None, words: list[str]) -> list["Scorer"]:
    """Those of the task, its judge, and the rewards that --reward names."""
    scorers = list(task.scorers())
    if judge is not None:
        from ..evaluation.judges.find import open_judge

        scorers.append(open_judge(task.name, judge))
    if words:
        from ..evaluation.reward_scorer import RewardScorer
        from ..rewards.best_of import read_rewards

        scorers += [RewardScorer(part) for part in read_rewards(words, own_code=True).parts]
    names = [scorer.name for scorer in scorers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"{task.name} has a scorer of its own with the name {twice[0]!r}. Give the reward another name in a YAML "
            "file: {name: other, use: " + twice[0] + "}."
        )
    return scorers


def _sampler(arguments: argparse.Namespace, checkpoint, device, rows: list["Row"]) -> "Sampler":
    """How images are made, checked before any weight is loaded."""
    from ..decoding.interface import Compute
    from ..diffusion.reference_mode import Strengths
    from ..diffusion.sampler import GuidanceSchedule
    from ..editing.jobs import require_image_tokenizer
    from ..evaluation.making import Sampler
    from ..pipeline import check_rendering

    guidance = GuidanceSchedule(arguments.guidance, arguments.guidance_interval)
    plain = sum(not row.item.references for row in rows)
    mode = None
    if plain < len(rows):
        require_image_tokenizer(checkpoint)
        arguments.reference_mode, mode = checkpoint.reference_mode.select(
            arguments.reference_mode, Strengths(), str(checkpoint.folder)
        )
    together = max(1, min(arguments.batch, plain))
    check_rendering(checkpoint, arguments.size, arguments.steps, guidance, together, Compute(device))
    sampling = sampling_of(arguments, arguments.token_guidance)
    negative = (arguments.negative_prompt or "") if sampling.guidance > 1 else None
    return Sampler(sampling, negative, arguments.size, arguments.steps, guidance, arguments.fit, mode=mode)


def _facts(arguments: argparse.Namespace, task: "Task", checkpoint, device, samples: int) -> dict[str, Any]:
    """What decides the images of a run, for run.json."""
    from ..checkpoint.bundled import display_name
    from .common import IMAGE_VERSION
    from .versions import version_numbers

    size = {"size": "x".join(map(str, arguments.size))} if arguments.size else {}
    return {
        "task": {"name": task.name, "version": task.version},
        "checkpoint": {
            "name": display_name(checkpoint.folder),
            "identity": checkpoint.identity,
            "loras": [lora.identity(strength) for lora, strength in arguments.loras],
        },
        "settings": {
            "samples": samples,
            "batch": arguments.batch,
            **size,
            **_edit_settings(arguments),
            **generation_settings(arguments, device),
        },
        "versions": {"images": IMAGE_VERSION, **version_numbers()},
    }


def _edit_settings(arguments: argparse.Namespace) -> dict[str, str]:
    return {"fit": arguments.fit, "reference_mode": arguments.reference_mode}


def _settings_of(arguments: argparse.Namespace, task: "Task", checkpoint, device) -> "SettingsOf":
    """What is stored with an image: all that decides it, and for an image from text the command that makes it again."""

    def settings(row: "Row", together: int) -> dict:
        item = row.item
        about = {"task": task.name, "task_version": task.version, "item": item.id, "sample": row.sample}
        own: dict[str, Any] = {"seed": row.seed, "noise_seed": row.seed, **generation_settings(arguments, device)}
        size = arguments.size or item.size
        own |= {"size": "x".join(map(str, size))} if size else {}
        if item.references:
            own = {"instruction": item.prompt, **own, **_edit_settings(arguments)}
            words = ["edit", *(f"--image=IMAGE{k}" for k in range(1, len(item.references) + 1)), *option_words(own)]
        else:
            own = {"prompt": item.prompt, **own}
            words = ["generate", *option_words(own)]
        batch = {"batch": together} if together > 1 else {}
        return stored_settings(arguments, checkpoint, own, {"evaluation": about, **batch}, words)

    return settings


def _is_readable(checkpoint, prompt: str) -> bool:
    from ..errors import Blip3oError

    try:
        checkpoint.prompt_encoder.encode(prompt)
    except Blip3oError:
        return False
    return bool(prompt.strip())


def _make(arguments, folder: "RunFolder", plan: list[list["Row"]], settings_of: "SettingsOf", made_with: tuple) -> None:
    """The images of a plan that are not there yet."""
    from ..evaluation import making

    checkpoint, device, sampler, facts = made_with
    todo = [batch for batch in plan if not making.is_done(folder, batch, settings_of)]
    if not todo:
        return
    folder.require_versions(facts)
    summary = Summary()
    # As for one image: a small model on one thread, so that machines with more cores make the same files.
    pipeline = load_pipeline(arguments, checkpoint, device)
    summary.loaded()
    done, total = 0, sum(map(len, todo))
    with summary.part("making"), Bar("images") as bar:
        for batch in todo:
            made = making.make(pipeline, sampler, batch)
            making.save(folder, batch, made, settings_of)
            done += len(batch)
            summary.images += sum(not isinstance(one, Exception) for one in made)
            bar(done, total, None)
    say(str(summary))


def _finish(folder: "RunFolder", task: "Task", rows: list["Row"], scorers: list["Scorer"]) -> int:
    """Score what was made, write the results, and say what is missing."""
    from ..evaluation import layout, results, scoring
    from ..evaluation.card import card

    with folder.held():
        folder.tidy()
        complete = layout.write(folder, task, rows)
        scored = []
        for scorer in scorers:
            with Bar(scorer.name) as bar:
                scored.append(results.Scored(scorer, scoring.score(folder, scorer, rows, bar)))
        found = results.summarise(task, folder, rows, scored)
        results.write_text(folder.card, card(task, found, scorers))
        results.write(folder, found)
    print(results.markdown(found), end="", flush=True)
    report(folder.results)
    if official := task.official(folder.images):
        say(f"The benchmark's own scorer{'' if complete else ', for when every image is there'}:\n{official}")
    failed = [f"{one['item']}, sample {one['sample']}: {one['reason']}" for one in found["images"]["failed"]]
    if failed:
        say(f"{len(failed)} of {len(rows)} images could not be made:\n{bullet_list(failed, 5)}")
    unscored = sum(one["failures"] for one in found["scorers"])
    if unscored:
        say(f"{unscored} scores are missing, because a scorer failed; scores/ says why.")
    if failed or unscored:
        say("Run the same command again to try these once more.")
    return int(bool(failed or unscored or not complete))
