"""What saved workflows rely on: node ids, inputs in order, types, values, defaults and outputs, pinned for good."""

import difflib
import json

from tools import translations
from tools.comfyui.workflow import WORKFLOWS, load_workflow
from tools.schemas import CONTRACT, LOCALES, contract, inputs_of, locales, own

HOW_TO_CHANGE = """The nodes no longer match tests/host/node_contract.json.

Workflows that people have saved name these node ids, inputs and values, and store widgets in this order. Undo the
change if it was not meant. New nodes, new inputs at the end and new option values are safe: record them with
`make node-contract` (python -m tools.schemas contract) and commit the file. Anything else breaks saved workflows.

"""


def test_the_contract_holds(client):
    """Catches an id, input, order, type, value or default that changes under workflows people have saved."""
    recorded, found = CONTRACT.read_text(encoding="utf-8"), contract(client.object_info())
    changes = difflib.unified_diff(recorded.splitlines(), found.splitlines(), "recorded", "found", lineterm="", n=1)
    assert found == recorded, HOW_TO_CHANGE + "\n".join(changes)


def test_the_record_has_a_line_for_each_input():
    """Catches a record that is valid JSON and says nothing: an empty one would match a server without the pack."""
    nodes = json.loads(CONTRACT.read_text(encoding="utf-8"))
    assert len(nodes) >= 8
    for id, node in nodes.items():
        assert all({"name", "type", "optional"} <= entry.keys() for entry in node["inputs"]), id
        assert all({"name", "type"} == entry.keys() for entry in node["outputs"]) and node["outputs"], id


def test_the_samples_name_recorded_nodes_only():
    """Catches a sample workflow with a node of ours that is not pinned."""
    nodes = json.loads(CONTRACT.read_text(encoding="utf-8"))
    for file in WORKFLOWS.glob("*.json"):
        ours = {node["type"] for node in load_workflow(file.stem)["nodes"] if node["type"].startswith("BLIP3o")}
        assert ours and ours <= nodes.keys(), file.name


def test_every_node_explains_itself(client):
    """Catches a schema that fails, which hides the whole pack, and a widget that nobody explains."""
    info = client.object_info()
    assert locales(info) == json.loads(LOCALES.read_text(encoding="utf-8")), "run `make locales`"
    for id, entry in own(info).items():
        assert entry["description"] and entry["category"] == "BLIP3o-NEXT" and entry["search_aliases"], id
        assert all(options.get("tooltip") for _, options in inputs_of(entry).values()), id
        page = client.get(f"/extensions/comfyui-blip3o-next/docs/{id}.md").text
        assert page.startswith("# " + entry["display_name"])
        assert all(f"`{name}`" in page for name in [*inputs_of(entry), *entry["output_name"]]), id


def test_a_tooltip_has_two_sentences_at_most(client):
    """Catches a tooltip that hides the canvas."""
    for id, words in locales(client.object_info()).items():
        parts = {**words["inputs"], **{f"output {k}": part for k, part in words["outputs"].items()}}
        for name, part in parts.items():
            assert len(part["tooltip"].split(". ")) <= 2 and len(part["tooltip"]) <= 170, (id, name)


# What people type into the node search -> the node that does it.
SEARCHES = {
    "text to image": "BLIP3oTokenGenerator",
    "one click": "BLIP3oTextToImage",
    "edit image": "BLIP3oImageEdit",
    "save conditioning": "BLIP3oSaveConditioning",
    "load conditioning": "BLIP3oLoadConditioning",
    "txt2img": "BLIP3oTokenGenerator",
    "generate image": "BLIP3oTokenGenerator",
    "text encode": "BLIP3oHiddenStateConditioner",
    "load checkpoint": "BLIP3oLoader",
    "unified": "BLIP3oLoader",
    "blip3o next": "BLIP3oLoader",
    "image edit": "BLIP3oEditReferenceEncoder",
    "img2img": "BLIP3oEditReferenceEncoder",
    "inpaint": "BLIP3oMaskedEdit",
    "ksampler": "BLIP3oDiffusionSampler",
    "image chooser": "BLIP3oChooseDraft",
    "save tokens": "BLIP3oSaveTokens",
    "load tokens": "BLIP3oLoadTokens",
    "lora": "BLIP3oLoraLoader",
    "train lora": "BLIP3oTrainLoRA",
    "training data": "BLIP3oCurateImages",
}


def test_the_words_people_type_find_the_node(client):
    """Catches a node that is found by its own name only, which nobody knows before."""
    nodes = own(client.object_info())
    missing = [(words, id) for words, id in SEARCHES.items() if words not in nodes[id]["search_aliases"]]
    assert not missing


def test_a_new_token_seed_stays(client):
    """Catches fresh nodes that write all tokens again at each Run: the token cache would never be used."""
    nodes = own(client.object_info())
    seed = inputs_of(nodes["BLIP3oTokenGenerator"])["seed"][1]
    noise_seed = inputs_of(nodes["BLIP3oDiffusionSampler"])["noise_seed"][1]
    assert (seed["control_after_generate"], noise_seed["control_after_generate"]) == ("fixed", "randomize")


def test_every_language_is_served(client):
    """Catches a language in a folder that ComfyUI does not read, or a file that it cannot parse and leaves out."""
    served = client.get("/i18n").json()
    for language in [translations.ENGLISH, *translations.languages()]:
        file = translations.LOCALES / language / "nodeDefs.json"
        assert served[language]["nodeDefs"] == json.loads(file.read_text(encoding="utf-8")), language


def test_the_chinese_help_is_served(client):
    """Catches pages in a folder where ComfyUI's page does not ask for them: it would show the English ones."""
    titles = translations.texts("zh")
    for id in own(client.object_info()):
        page = client.get(f"/extensions/comfyui-blip3o-next/docs/{id}/zh.md").text
        assert page.startswith("# " + titles[f"{id}.display_name"]), id
