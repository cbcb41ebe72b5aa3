"""The layouts of published sets, as the code that reads them shows them."""

import json

import pytest

from blip3o_core.curation.readers.find import find_pieces, read
from blip3o_core.curation.sample import Sample

PERSON, OUTPUT = "Nano-150k/Image/orignal/people/1.jpg", "Nano-150k/Image/output/action/Pocket/1.jpg"
LAYOUTS = {
    "nano_banana/Nano-150k/json/action_cleaned.jsonl": (
        {
            **{"task_type": "ic", "instruction": "Put one hand in a pocket.", "input_images": [PERSON]},
            **{"output_image": OUTPUT, "general_prompt": "The actions after being edited are: One Hand in Pocket"},
        },
        "edit",
        ["nano_banana/" + OUTPUT, "nano_banana/" + PERSON],
    ),
    "nano_banana/Nano-150k/json/reconstruct/action_cleaned_reconstruct_v2.jsonl": (
        {"instruction": "Keep the image unchanged.", "input_images": [PERSON], "output_image": PERSON},
        "edit",
        ["nano_banana/" + PERSON, "nano_banana/" + PERSON],
    ),
    "X2I2/jsons/video_icgen/video_icgen.jsonl": (
        {"task_type": "ic", "instruction": "Both.", "input_images": ["a/1.jpg", "a/2.jpg"], "output_image": "a/3.jpg"},
        "composition",
        ["X2I2/images/video_icgen/a/3.jpg", "X2I2/images/video_icgen/a/1.jpg", "X2I2/images/video_icgen/a/2.jpg"],
    ),
    "X2I2/jsons/reflect/reflect.jsonl": (
        {
            **{"image": "b.png", "input_images": ["a.png"], "instruction": "first", "reflection": "Make it red."},
            "used_instruction": "reflection",
        },
        "edit",
        ["X2I2/images/reflect/b.png", "X2I2/images/reflect/a.png"],
    ),
    "sharegpt4o/text_and_image_to_image.json": (
        {"input_prompt": "Make it night.", "input_image": ["image/v2v_1.png"], "output_image": "image/v2v_2.png"},
        "edit",
        ["sharegpt4o/image/v2v_2.png", "sharegpt4o/image/v2v_1.png"],
    ),
    "sharegpt4o/text_to_image.json": (
        {"input_prompt": "A bird.", "output_image": "image/1.png"},
        "image",
        ["sharegpt4o/image/1.png"],
    ),
    "mico/BLIP3o-MICo.json": (
        {"input_images": ["1.png", "2.png"], "output_image": "3.png", "instruction": "Both."},
        "composition",
        ["mico/3.png", "mico/1.png", "mico/2.png"],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_list_of_the_edit_ensemble_is_read_as_published(tmp_path, name):
    """Catches a key of a published set that is not known, or an image that is not found from the list's place."""
    entry, kind, images = LAYOUTS[name]
    for file in {name, *images}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    (tmp_path / name).write_text(json.dumps([entry, entry]) if name.endswith(".json") else f"{json.dumps(entry)}\n" * 2)
    options = {"images": str(tmp_path / "X2I2" / "images" / name.split("/")[2])} if "X2I2" in name else {}
    found = [one for piece in find_pieces(str(tmp_path / name), options) for one in read(piece)]
    assert len(found) == 2 and all(isinstance(one, Sample) for one in found), found
    assert found[0].kind == kind and [found[0].image, *found[0].references] == [one.encode() for one in images]
    wanted = entry[entry.get("used_instruction", "instruction" if "instruction" in entry else "input_prompt")]
    assert found[0].texts == (wanted,)
