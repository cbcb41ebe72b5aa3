"""ImgEdit and GEdit-Bench: items from files of their published forms, and the layouts that their scorers read."""

import json
from pathlib import PurePosixPath

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.evaluation.plan import digest_of
from blip3o_core.evaluation.tasks.find import open_task
from tests.support.edit_benchmarks import EDITS, imgedit, write
from tests.support.judges import encoded


def test_imgedit(tmp_path):
    """Catches another layout than basic_bench.py reads, and an overall number that counts kinds by their size."""
    data = imgedit(tmp_path)
    task = open_task("imgedit", data)
    assert [(item.id, item.category, item.prompt) for item in task.items][0] == (
        "1082",
        "adjust",
        "Make the shell smooth.",
    )
    assert [task.file(item, 0) for item in task.items] == [PurePosixPath(f"{key}.png") for key in EDITS]
    assert task.file(task.items[0], 2) == PurePosixPath("1082-2.png") and task.samples == 1
    assert task.items[1].references[0].read() == encoded(40, "JPEG")
    assert task.weights == {"adjust": 1, "replace": 1} and not task.others(task.items[0]) and not task.scorers()
    words = task.official(tmp_path / "my images")
    assert "has 3 prompts; PKU-YuanGroup/ImgEdit at 547185d has 737" in words
    assert f"--result_img_folder '{tmp_path}/my images'\n" in words and str(data) not in words


def test_imgedit_of_the_archive_and_of_the_repository(tmp_path):
    """Catches a file that lies elsewhere than its images."""
    data = imgedit(tmp_path, name="singleturn.json")
    assert len(open_task("imgedit", data).items) == 3
    (tmp_path / "basic_edit.json").write_text(json.dumps(EDITS))
    task = open_task("imgedit", tmp_path / "basic_edit.json", {"images": str(data)})
    assert task.items[0].references[0].read() == encoded(40, "JPEG")


WRONG = {
    "missing image": ({"id": "animal/1.jpg"}, "line 1: .*animal/1.jpg does not exist. Check --option images"),
    "outside": ({"id": "../000.jpg"}, "must be the name of a file below"),
    "absolute": ({"id": "/etc/000"}, "must be the name of a file below"),
    "no prompt": ({"prompt": ""}, "prompt is ''. It must be text"),
    "no kind": ({"edit_type": None}, "edit_type is None. It must be text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_edits_are_named(name, tmp_path):
    """Catches a run that ends at its last item, and a file from another place that is read."""
    changes, words = WRONG[name]
    data = imgedit(tmp_path, {**EDITS, "1082": EDITS["1082"] | changes})
    with pytest.raises(Blip3oError, match=words):
        open_task("imgedit", data)
    with pytest.raises(Blip3oError, match="Give --data Benchmark/Basic/basic_edit.json"):
        open_task("imgedit")


@pytest.mark.parametrize("kind", ["parquet", "stream", "file", "list"])
def test_gedit(tmp_path, kind):
    """Catches another layout than test_gedit_score.py reads, and the two images of a row that change places."""
    task = open_task("gedit", write(tmp_path, kind))
    assert [(item.id, item.category, item.prompt) for item in task.items] == [
        ("ab12", "color_alter", "Make it red"),
        ("ef56", "text_change", "Write 'A'"),
    ]
    item = task.items[1]
    assert task.file(item, 0) == PurePosixPath("blip3o/fullset/text_change/en/ef56.png")
    assert task.file(item, 1) == PurePosixPath("blip3o/fullset/text_change/en/ef56-1.png")
    ((place, png),) = task.others(item).items()
    assert place == PurePosixPath("blip3o/fullset/text_change/en/ef56_SRCIMG.png")
    assert shade(png) == ("PNG", (64, 48), 10) and shade(item.references[0].read()) == ("JPEG", (64, 48), 20)
    assert item.facts["Intersection_exist"] is True and len(task.weights) == 11
    assert "--model_name blip3o --save_path out --backbone gpt4o --language en" in task.official(PurePosixPath("out"))
    (chinese,) = open_task("gedit", tmp_path, {"language": "cn"}).items
    assert chinese.prompt == "加一只猫"


def shade(data: bytes):
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(data))
    return image.format, image.size, image.convert("L").getpixel((5, 5))


def test_a_source_that_is_a_png_stays_as_it_is(tmp_path):
    """Catches pixels that are packed anew for nothing."""
    task = open_task("gedit", write(tmp_path, "list", "PNG"))
    ((_, png),) = task.others(task.items[0]).items()
    assert png == encoded(10, "PNG", (64, 48))


def test_the_image_that_the_scorer_compares_with_belongs_to_the_item(tmp_path):
    """Catches a judge's score that is kept when its source is replaced, and a source whose lack shows after all images
    are made."""
    write(tmp_path, "list")
    before = digest_of(open_task("gedit", tmp_path).items[0])
    assert digest_of(open_task("gedit", tmp_path).items[0]) == before
    (tmp_path / "ab12 input_image.jpg").write_bytes(encoded(99, "JPEG", (64, 48)))
    assert digest_of(open_task("gedit", tmp_path).items[0]) != before
    (tmp_path / "ab12 input_image.jpg").unlink()
    with pytest.raises(Blip3oError, match="line 1: .*ab12 input_image.jpg does not exist"):
        open_task("gedit", tmp_path)


def test_wrong_sets_are_named(tmp_path):
    """Catches a folder without the set, and rows that its scorer does not know."""
    for given, words in (
        (None, "not part of this project"),
        (tmp_path / "no", "is missing"),
        (tmp_path, "contains no edits"),
    ):
        with pytest.raises(Blip3oError, match=f"{words}.*Download stepfun-ai/GEdit-Bench"):
            open_task("gedit", given)
    write(tmp_path, "list")
    lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
    for old, new, words in (
        ("color_alter", "colour", "line 1: task_type is 'colour'. It must be one of background_change"),
        ("true", '"True"', "Intersection_exist is 'True'. It must be true or false"),
        ('"instruction": "Make', '"instructions": "Make', "line 1: the field 'instruction' is missing"),
        ('"key": "ef56"', '"key": "AB12"', "line 3: the id 'AB12' is that of metadata.jsonl, line 1, too"),
        ('"en"', '"de"', "None of the 3 rows has the instruction_language 'en'"),
    ):
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines).replace(old, new))
        with pytest.raises(Blip3oError, match=words):
            open_task("gedit", tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines).replace("ab12 input_image_raw", "../x"))
    with pytest.raises(Blip3oError, match="must be the name of a file in the folder of the list"):
        open_task("gedit", tmp_path).items[0].references[0].read()
    with pytest.raises(Blip3oError, match="gedit: the option language is 'zh'. Give one of en, cn"):
        open_task("gedit", tmp_path, {"language": "zh"})


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_damaged_tables_are_named(tmp_path, kind):
    """Catches half a download that ends in words of a library."""
    (path,) = [file for file in write(tmp_path, kind).rglob("*-00000-of*") if file.is_file()]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Blip3oError, match=f"{path.name} cannot be read.*Download stepfun-ai/GEdit-Bench"):
        [item.references[0].read() for item in open_task("gedit", tmp_path).items]
