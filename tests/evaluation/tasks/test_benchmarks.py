"""Published benchmarks: items from files of their form, and images where their own scorers look for them.

The prompts here are ours; fields, names and folders are those of the benchmarks' repositories.
"""

import json
import shlex
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.tasks import dpg, geneval, text, wise
from blip3o_core.evaluation.tasks.find import open_task
from blip3o_core.evaluation.tasks.prompts import Published, digest_of_prompts

FOX = {"tag": "single_object", "include": [{"class": "fox", "count": 1}], "prompt": "a photo of a fox"}
CUPS = {"tag": "counting", "include": [{"class": "cup", "count": 2}], "exclude": [{"class": "cup", "count": 3}],
        "prompt": "a photo of two cups"}  # fmt: skip
LONG = {"category": "sign", "length": "short", "prompt": 'A door that says "COME IN, FRIENDS" and "Mind the Step".',
        "text": ["COME IN, FRIENDS", "Mind the Step"], "text_length": 6, "prompt_id": 7}  # fmt: skip
LONG_ZH = {**LONG, "prompt": "一扇门，上面写着“请进”。", "text": ["请进"], "prompt_id": 199}


def knowledge(id: int, category: str) -> dict:
    return {"Prompt": f"something {id}", "Explanation": "a thing", "Category": category, "Subcategory": "Kind",
            "prompt_id": id}  # fmt: skip


def lines(path: Path, *entries) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def listed(path: Path, *entries) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=2))
    return path


def test_geneval_has_a_folder_for_each_line_with_the_line_in_it(tmp_path):
    """Catches images that GenEval's scorer does not find, and a metadata.jsonl that its json.load cannot read."""
    lines(tmp_path / "prompts" / "evaluation_metadata.jsonl", FOX, CUPS)
    task = open_task("geneval", tmp_path)
    assert [(item.id, item.prompt, item.category) for item in task.items] == [
        ("00000", FOX["prompt"], "single_object"),
        ("00001", CUPS["prompt"], "counting"),
    ]
    assert task.samples == 4 and task.weights == {"single_object": 1, "counting": 1}
    assert task.file(task.items[1], 3) == PurePosixPath("00001/samples/0003.png")
    ((name, content),) = task.others(task.items[1]).items()
    assert name == PurePosixPath("00001/metadata.jsonl") and json.loads(content) == CUPS
    command = shlex.split(task.official(tmp_path / "my images"), comments=True)
    assert f"IMAGES={tmp_path / 'my images'}" in command and "evaluation/summary_scores.py" in command


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"prompt": "a", "include": []}, "the field 'tag' is missing"),
        ({"tag": "colors", "prompt": "a"}, "include is None"),
        ({"tag": "colors", "prompt": "a", "include": []}, r"include is \[\]"),
        ({**FOX, "include": [{"class": "fox"}]}, "include is"),
        ({**FOX, "include": [{"class": "fox", "count": "1"}]}, '"class" and "count"'),
        ({**CUPS, "exclude": {"class": "cup", "count": 3}}, "exclude is"),
    ],
)
def test_a_line_that_would_stop_genevals_scorer_is_refused(tmp_path, entry, says):
    """Catches a fault that shows after all images are made and half of them are judged."""
    with pytest.raises(Blip3oError, match=f"m.jsonl, line 2: .*{says}"):
        open_task("geneval", lines(tmp_path / "m.jsonl", FOX, entry))


def test_dpg_bench_has_a_prompt_for_each_text_file(tmp_path):
    """Catches grids with other names than the prompts' files, by which its scorer finds the questions."""
    folder = tmp_path / "dpg_bench" / "prompts"
    folder.mkdir(parents=True)
    for name, prompt in {"10.txt": "ten", "2.txt": "two\n", "COCOval2014000000010363.txt": "a room"}.items():
        (folder / name).write_text(prompt)
    (tmp_path / "prompts.txt").write_text("in the repository, and none of its prompts")
    for data in (tmp_path, folder):
        task = open_task("dpg", data)
        assert [(item.id, item.prompt) for item in task.items] == [
            ("2", "two"),
            ("10", "ten"),
            ("COCOval2014000000010363", "a room"),
        ]
    assert task.apart and task.samples == 4 and task.file(task.items[0], 3) == PurePosixPath("2/3.png")
    assert f"dist_eval.sh {tmp_path / 'images'} RESOLUTION" in task.official(tmp_path / "images")
    assert "where --samples was not 4, write PIC_NUM=SAMPLES" in task.official(
        tmp_path / "images"
    )  # else it judges black
    (folder / "a.b.txt").write_text("dots")
    with pytest.raises(Blip3oError, match=r"a\.b\.txt: the name 'a\.b' has a dot"):
        open_task("dpg", folder)


def test_dpg_benchs_table_gives_each_prompt_once(tmp_path):
    """Catches an image for each question of dpg_bench.csv, and a name that has two prompts."""
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    head += "question_natural_language"
    rows = [
        '0,"a fox, red",,1,0,entity,whole,entity - whole (fox),Is there a fox?',
        '0,"a fox, red",,2,1,a,c,t,Is it red?',
    ]
    path = tmp_path / "dpg_bench.csv"
    path.write_text("\n".join([head, *rows, "1,a cup,,1,0,e,w,t,q"]) + "\n")
    assert [(item.id, item.prompt) for item in open_task("dpg", path).items] == [("0", "a fox, red"), ("1", "a cup")]
    path.write_text("\n".join([head, *rows, "1,a", "1,a"]) + "\n")
    with pytest.raises(Blip3oError, match="(?s)line 4: it has 2 cells.*line 5: it has 2 cells"):
        open_task("dpg", path)
    path.write_text("\n".join([head, *rows, "0,a cup,,3,0,e,w,t,q"]) + "\n")
    with pytest.raises(Blip3oError, match="line 4: the id '0' is that of dpg_bench.csv, line 2"):
        open_task("dpg", path)


def grid_of(tmp_path, *images) -> tuple[dpg.DPGBench, Path]:
    (tmp_path / "p").mkdir(parents=True, exist_ok=True)
    (tmp_path / "p" / "a.txt").write_text("a fox")
    (tmp_path / "p" / "b.txt").write_text("not in this run")
    task = open_task("dpg", tmp_path / "p")
    samples = tmp_path / "samples" / "a"
    samples.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(samples / f"{number}.png")
    task.finish(tmp_path / "images")
    return task, tmp_path / "images" / "a.png"


def squares(count: int, side: int = 8) -> list[np.ndarray]:
    return list(np.random.default_rng(3).integers(0, 256, (count, side, side, 3), np.uint8))


def test_a_grid_has_its_images_where_the_scorer_cuts_them(tmp_path):
    """Catches images in columns in place of rows, changed pixels, and a grid for a prompt that is not in the run."""
    images = squares(4)
    _, path = grid_of(tmp_path, *images)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with Image.open(path) as grid:
        for place, image in enumerate(images):
            x, y = 8 * (place % 2), 8 * (place // 2)
            assert np.array_equal(np.asarray(grid.crop((x, y, x + 8, y + 8))), image)


def test_a_grid_is_written_again_when_an_image_has_changed(tmp_path):
    """Catches a grid of old images, and one that is written anew each time."""
    images = squares(4)
    task, path = grid_of(tmp_path, *images)
    before = path.stat().st_mtime_ns, path.read_bytes()
    task.finish(path.parent)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    _, path = grid_of(tmp_path, *images[:3], images[0])
    with Image.open(path) as grid:
        assert np.array_equal(np.asarray(grid)[8:, 8:], images[0])


def test_one_sample_is_no_grid_and_five_or_wide_ones_are_refused(tmp_path):
    """Catches a grid that is black but for a corner, and one that the scorer would cut in wrong places."""
    image = squares(1)
    _, path = grid_of(tmp_path / "one", *image)
    with Image.open(path) as grid:
        assert np.array_equal(np.asarray(grid), image[0])
    for name, images, says in (
        ("five", squares(5), "has 5 images.*Use --samples 4"),
        ("wide", [image[0][:, :4]] * 4, "images of 4x8. Use a square --size"),
        ("mixed", [*squares(3), *squares(1, 16)], "images of 16x16 and 8x8"),
    ):
        with pytest.raises(Blip3oError, match=says):
            grid_of(tmp_path / name, *images)
        assert not list((tmp_path / name / "images").iterdir())


VERIFIED = {1: "Cultural knowledge", 400: "Cultural knowledge", 401: "time", 520: "time", 521: "Space", 640: "Space",
            641: "Biology", 760: "Biology", 761: "Physical Knowledge", 880: "Physical Knowledge", 881: "Chemistry",
            1000: "Chemistry"}  # fmt: skip
ORIGINAL = {400: "Cultural knowledge", 401: "time", 567: "time", 568: "Space", 700: "Space", 701: "Biology",
            800: "Biology", 801: "Physical Knowledge", 900: "Physical Knowledge", 901: "Chemistry"}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "folder", "end", "ids"),
    [("wise", "data_verified", "_verified", VERIFIED), ("wise-original", "WISE_legacy/data", "", ORIGINAL)],
)
def test_wise_is_read_from_its_three_files(tmp_path, task, folder, end, ids):
    """Catches a category at the wrong ids, another weight, and images in the order of the files."""
    last = {"cultural_common_sense": 400, "spatio-temporal_reasoning": 640 if end else 700, "natural_science": 1000}
    first = 1
    for name, most in last.items():
        part = [knowledge(id, word) for id, word in reversed(ids.items()) if first <= id <= most]
        listed(tmp_path / folder / f"{name}{end}.json", *part)
        first = most + 1
    words = {"Cultural knowledge": "CULTURE", "Physical Knowledge": "PHYSICS"}
    for data in (tmp_path, tmp_path / folder):
        found = open_task(task, data)
        assert [(int(item.id), item.category) for item in found.items] == [
            (id, words.get(word, word.upper())) for id, word in sorted(ids.items())
        ]
    assert found.items[0].facts["Explanation"] == "a thing" and found.samples == 1
    assert found.file(found.items[0], 0) == PurePosixPath(f"{min(ids)}.png")
    assert sum(found.weights.values()) == pytest.approx(1) and found.weights["SPACE"] == (0.12 if end else 0.133)
    one = open_task(task, tmp_path / folder / f"natural_science{end}.json")
    assert [int(item.id) for item in one.items] == [id for id in sorted(ids) if id > last["spatio-temporal_reasoning"]]


def test_prompts_of_the_other_wise_are_refused(tmp_path):
    """Catches the old prompts judged by the new rule: its ids mean other categories."""
    path = listed(tmp_path / "a.json", knowledge(560, "time"), knowledge(0, "time"), {"prompt_id": "x"})
    with pytest.raises(Blip3oError) as error:
        open_task("wise", path)
    assert "prompt 560 of WISE_Verified is of SPACE. For the prompts of the original WISE use" in str(error.value)
    assert "line 9: prompt_id is 0" in str(error.value) and "line 16: prompt_id is 'x'" in str(error.value)
    assert open_task("wise-original", listed(tmp_path / "b.json", knowledge(560, "time"))).items


def test_longtext_bench_counts_its_samples_from_one(tmp_path):
    """Catches files that its scorer assigns to another prompt, and ids that are numbers of lines: it has gaps."""
    lines(tmp_path / "textbench" / "text_prompts.jsonl", {**LONG, "prompt_id": 0}, LONG)
    lines(tmp_path / "textbench" / "text_prompts_zh.jsonl", LONG_ZH)
    task, chinese = open_task("longtext", tmp_path, {"ocr": "no"}), open_task("longtext-zh", tmp_path, {"ocr": "no"})
    assert [task.file(task.items[1], sample).as_posix() for sample in range(task.samples)] == [
        "0007_1.png", "0007_2.png", "0007_3.png", "0007_4.png",
    ]  # fmt: skip
    assert chinese.name == "longtext-zh" and chinese.items[0].id == "0199" and chinese.items[0].category == "sign"
    assert "--mode en" in task.official(tmp_path) and "--mode zh" in chinese.official(tmp_path)
    assert not task.scorers()
    for name, file, says in (
        ("longtext", "text_prompts_zh.jsonl", "longtext-zh"),
        ("longtext-zh", "text_prompts.jsonl", "longtext."),
    ):
        with pytest.raises(Blip3oError, match=f"line 1: its text is .*for the task {says}"):
            open_task(name, tmp_path / "textbench" / file)


def test_flow_grpos_prompts_are_lines_with_quotes(tmp_path):
    """Catches a line without a text to render, which its scorer stops at."""
    path = tmp_path / "dataset" / "ocr" / "test.txt"
    path.parent.mkdir(parents=True)
    path.write_text('A shop with the sign "Open".\nA cup that says "Good Morning All"')
    task = open_task("flow-grpo-ocr", tmp_path, {"ocr": "no"})
    assert [(item.id, item.category) for item in task.items] == [("00000", "1 word"), ("00001", "3 words")]
    path.write_text('A shop "Open"\nA shop “Open”\nA 5" cup\nA cup " "\n')
    with pytest.raises(Blip3oError) as error:
        open_task("flow-grpo-ocr", tmp_path)
    assert [line.split(":")[0].split()[-1] for line in str(error.value).splitlines()[1:]] == ["2", "3", "4"]


@pytest.mark.parametrize(
    "name", ["geneval", "dpg", "wise", "wise-original", "text", "flow-grpo-ocr", "longtext", "longtext-zh"]
)
def test_what_a_task_lacks_or_does_not_know_is_named(name, tmp_path):
    """Catches a stack trace for a missing --data, an empty folder and a misspelt option."""
    if name == "text":
        with pytest.raises(Blip3oError, match="Leave --data out"):
            open_task(name, tmp_path)
    else:
        for data, says in (
            (None, "not part of this project"),
            (tmp_path, "contains no"),
            (tmp_path / "a", "does not exist"),
        ):
            with pytest.raises(Blip3oError, match=f"{says}.*--data"):
                open_task(name, data)
    with pytest.raises(Blip3oError, match="no option 'cuont'"):
        open_task(name, None, {"cuont": "1"})


def test_a_changed_prompt_file_is_noticed(tmp_path):
    """Catches a cut or edited file whose number is compared with published ones."""
    items = open_task("geneval", lines(tmp_path / "m.jsonl", FOX, CUPS)).items
    published = Published("a/b", "0123456789", 2, digest_of_prompts(items))
    assert "The 2 prompts in the file are those of a/b at 0123456." in published.note(items[::-1])
    assert "The file has 1 prompts; a/b at 0123456 has 2" in published.note(items[:1])
    changed = open_task("geneval", lines(tmp_path / "m.jsonl", FOX, {**CUPS, "prompt": "two cups"})).items
    assert "Some prompts in the file are not those" in published.note(changed)
    for known in (geneval.PUBLISHED, dpg.PUBLISHED, wise.VERIFIED.published, wise.ORIGINAL.published, text.FLOW_GRPO,
                  *text.LONG_TEXT.values()):  # fmt: skip
        assert len(known.digest) == 16 and len(known.commit) == 40
