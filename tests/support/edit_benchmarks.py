"""Files of edit benchmarks in their published forms, with a few edits of ours."""

import json

import pytest

from tests.support.judges import encoded

# The form of basic_edit.json, from its readme; the instructions are ours.
EDITS = {
    "1082": {"id": "animal/000342021.jpg", "prompt": "Make the shell smooth.", "edit_type": "adjust"},
    "628": {"id": "daily object/000276684.jpg", "prompt": "Replace the boot with a mug.", "edit_type": "replace"},
    "673": {"id": "animal/000342021.jpg", "prompt": "As a woodcut.", "edit_type": "adjust"},
}


def imgedit(tmp_path, edits=EDITS, name="basic_edit.json"):
    originals = tmp_path / "singleturn"
    for edit in edits.values():
        path = originals / str(edit.get("id"))
        if "000" in path.name:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(40, "JPEG"))
    (originals / name).write_text(json.dumps(edits))
    return originals


def rows(**changes) -> list[dict]:
    """The columns of GEdit-Bench, from generate_image_example.py; the instructions are ours."""
    same = {"Intersection_exist": True, "input_image": 10, "input_image_raw": 20} | changes
    return [
        {"task_type": "color_alter", "key": "ab12", "instruction": "Make it red", "instruction_language": "en", **same},
        {"task_type": "subject-add", "key": "cd34", "instruction": "加一只猫", "instruction_language": "cn", **same},
        {"task_type": "text_change", "key": "ef56", "instruction": "Write 'A'", "instruction_language": "en", **same},
    ]


def stored(content, form):
    """Images as the hub's tables have them."""
    for row in content:
        for column in ("input_image", "input_image_raw"):
            row[column] = {"bytes": encoded(row[column], form, (64, 48)), "path": None}
    return content


def write(folder, kind, form="JPEG", **changes):
    """The set in one of its forms."""
    content = rows(**changes)
    if kind == "list":
        for row in content:
            for column in ("input_image", "input_image_raw"):
                name = f"{row['key']} {column}.jpg"
                (folder / name).write_bytes(encoded(row[column], form, (64, 48)))
                row[column] = name
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        return folder
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(stored(content, form))
    if kind == "parquet":
        import pyarrow.parquet

        (folder / "data").mkdir()
        pyarrow.parquet.write_table(
            table.slice(0, 2), folder / "data" / "train-00000-of-00002.parquet", row_group_size=1
        )
        pyarrow.parquet.write_table(table.slice(2), folder / "data" / "train-00001-of-00002.parquet")
        return folder
    (folder / "train").mkdir()
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with new(str(folder / "train" / "data-00000-of-00001.arrow"), table.schema) as file:
        file.write_table(table)
    return folder
