"""Every file in workflows/ is what the generator writes, comes out of the real frontend as it went in, and draws."""

import pytest
from PIL import Image, ImageChops

from tests.support.layout import assert_readable
from tools.comfyui.frontend import TWO_FRAMES
from tools.comfyui.server import PACK_FOLDER
from tools.comfyui.workflow import WORKFLOWS, load_api, load_workflow, to_prompt
from tools.samples import SAMPLES
from tools.screenshots import run_in_page
from tools.workflows import flat, made

NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
TINY = [sample.name for sample in SAMPLES]
FIRST = 4  # of SAMPLES: every run of the tests opens and draws them in the page, `make test-long` all
READABLE = 0.6  # zoom
NOTES = {"MarkdownNote"}  # the frontend's own, unknown to the server


def folded(workflow: dict) -> list[dict]:
    """Its subgraphs."""
    return workflow.get("definitions", {}).get("subgraphs", [])


def without_places(workflow: dict) -> dict:
    """Where things lie depends on the fonts of the machine that wrote them."""

    def without(part):
        if isinstance(part, dict):
            return {key: without(each) for key, each in part.items() if key not in ("pos", "size", "bounding")}
        return [without(each) for each in part] if isinstance(part, list) else part

    return without(workflow)


def long_after(samples: list, first: int) -> list:
    return [pytest.param(one, marks=[pytest.mark.long] if k >= first else []) for k, one in enumerate(samples)]


@pytest.mark.parametrize("sample", long_after(SAMPLES, FIRST), ids=lambda sample: sample.name)
def test_the_workflow_is_what_the_generator_writes(frontend, sample):
    """A sample edited by hand, or left behind when a node got another socket or widget."""
    again, exported = made(frontend, sample)
    assert without_places(again) == without_places(load_workflow(sample.name)), "run `make workflows`"
    assert exported == load_api(sample.name), "run `make workflows`"
    frontend.load_prompt(exported)
    back = frontend.save()[1]
    assert {id: part["inputs"] for id, part in flat(back).items()} == {
        id: part["inputs"] for id, part in flat(exported).items()
    }, "a way to the API format and back loses something"


def test_every_workflow_has_a_generator():
    """A file that `make workflows` does not write is never brought up to date."""
    assert NAMES == sorted(sample.name for sample in SAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_opens_unchanged(frontend, client, name):
    """A sample with a node that nobody has, or one that the frontend changes or another tool reads differently."""
    workflow = load_workflow(name)
    frontend.load(workflow)
    saved, prompt = frontend.save()
    assert frontend.toasts() == []
    known = client.object_info()
    parts = {part["id"]: part["nodes"] for part in folded(workflow)}
    everywhere = [*workflow["nodes"], *(node for nodes in parts.values() for node in nodes)]
    assert {node["type"] for node in everywhere} - NOTES - parts.keys() <= known.keys()
    widgets = {node["id"]: (node["type"], node.get("widgets_values") or []) for node in workflow["nodes"]}
    assert {node["id"]: (node["type"], node.get("widgets_values") or []) for node in saved["nodes"]} == widgets
    offline = to_prompt(workflow, known)
    assert {id: node["inputs"] for id, node in prompt.items()} == {id: node["inputs"] for id, node in offline.items()}


@pytest.mark.parametrize("name, connected", [("BLIP3o-3-Image-Edit", 1), ("BLIP3o-5-Two-References", 2)])
def test_a_free_socket_waits_behind_the_pictures(frontend, name, connected):
    """An encoder that opens without room for another picture, or that forgets its links when it grows."""
    frontend.load(load_workflow(name))
    [encoder] = [node for node in frontend.save()[0]["nodes"] if node["type"] == "BLIP3oEditReferenceEncoder"]
    sockets = [(one["name"], one["link"] is not None) for one in encoder["inputs"] if one["type"] == "IMAGE"]
    assert sockets == [(f"images.image_{k}", k <= connected) for k in range(1, connected + 2)]


def test_bypassing_masked_edit_passes_the_edit_on(frontend):
    """The frontend passes the first input of the type on: the original would look like an edit that failed."""
    frontend.load(load_workflow("BLIP3o-4-Masked-Edit"))
    _, prompt = frontend.save()
    [(id, masked)] = [(id, node) for id, node in prompt.items() if node["class_type"] == "BLIP3oMaskedEdit"]
    frontend.page.evaluate("() => { app.graph._nodes.find(node => node.type === 'BLIP3oMaskedEdit').mode = 4 }")
    _, bypassed = frontend.save()
    follows = [(owner, name) for owner, node in prompt.items() for name, value in node["inputs"].items()
               if value == [id, 0]]  # fmt: skip
    assert id not in bypassed and follows
    for owner, name in follows:
        assert bypassed[owner]["inputs"][name] == masked["inputs"]["edited"]


@pytest.mark.parametrize("name", NAMES)
def test_its_text_shows_on_opening(frontend, name):
    """Catches a sample so large that the canvas, which hides text below 60 % zoom, opens as grey boxes."""
    workflow = load_workflow(name)
    frontend.load(workflow, template=True)
    assert frontend.page.evaluate("() => window.app.canvas.ds.scale") >= READABLE
    for id, widget in workflow["extra"]["linearData"]["inputs"]:
        found = "([id, name]) => window.app.graph.getNodeById(id).widgets.some(widget => widget.name === name)"
        assert frontend.page.evaluate(found, [id, widget]), f"App mode shows {widget}, which is not there"
    # A wire that runs behind many columns cannot be followed.
    columns = sorted({round(node["pos"][0]) for node in workflow["nodes"]})
    place = {node["id"]: columns.index(round(node["pos"][0])) for node in workflow["nodes"]}
    assert all(abs(place[one] - place[two]) <= 3 for _, one, _, two, *_ in workflow["links"])
    assert all(place[one] <= place[two] for _, one, _, two, *_ in workflow["links"]), "a wire that runs backwards"


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_opens_five_lines_high(frontend, name):
    """Catches a node that opens smaller than it was saved: the page shrinks those whose combo has inputs of its own."""
    frontend.load(load_workflow(name), template=True)
    frontend.page.evaluate(TWO_FRAMES)
    lines = frontend.page.evaluate("""() => {
        const writes = ["BLIP3oTokenGenerator", "BLIP3oTextToImage"];
        const generator = window.app.graph._nodes.find(node => writes.includes(node.type));
        const box = generator.widgets.find(widget => widget.name === "prompt").element;
        if (generator.inputs.find(input => input.name === "prompt")?.link != null) return null;  // it has no box
        return box.clientHeight / (1.25 * parseFloat(getComputedStyle(box).fontSize));
    }""")
    assert lines is None or 5 <= lines < 9


@pytest.mark.parametrize("name", NAMES)
def test_it_has_one_note_with_links_and_a_page_of_app_mode(name):
    """Catches notes in code spans, which cannot be read in Nodes 2.0, and App mode with widgets that are not there."""
    workflow = load_workflow(name)
    [note] = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    assert "`" not in note and "](https://huggingface.co/BLIP3o/" in note and "- blip3o" in note
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    shown = workflow["extra"]["linearData"]
    assert [nodes[id]["type"] for id in shown["outputs"]] == ["SaveImage"] and len(shown["inputs"]) >= 2
    ours = [node for node in nodes.values() if node["type"].startswith("BLIP3o")]
    assert all(node["properties"]["cnr_id"] == PACK_FOLDER for node in ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", long_after(TINY, 3))
def test_the_workflow_draws_in_the_page(frontend, client, name, tmp_path):
    """A sample that fails in the page, shows nothing while it works, or ends without its image on the canvas; nodes
    that grow over their neighbours or out of their group, and a prompt that shrinks to two lines."""
    client.free()  # samples draw the same first picture: what is cached shows nothing while it works
    workflow = load_workflow(name)
    [sample] = [one for one in SAMPLES if one.name == name]
    for node in workflow["nodes"]:
        if str(node["id"]) in sample.answers:  # its widgets stand first among the node's values, in order
            node["widgets_values"][: len(sample.answers[str(node["id"])])] = sample.answers[str(node["id"])].values()
    events = run_in_page(frontend, workflow)
    assert_readable(frontend)
    assert frontend.shown_images()
    kinds = {str(node["id"]): node["type"] for node in workflow["nodes"]}
    # A node that becomes a graph shows previews of nodes with ids like "1.0.0.2".
    watched = {kinds.get(data["node"].split(".")[0]) for kind, data in events if kind == "b_preview_with_metadata"}
    assert watched & {"BLIP3oTokenGenerator", "BLIP3oTextToImage"}
    assert watched & {"BLIP3oDiffusionSampler", "BLIP3oImageEdit"} or "Compare" in name  # there in a subgraph
    shown = Image.open(frontend.screenshot(tmp_path / "shown.png")).convert("RGB")
    frontend.page.evaluate("() => { for (const node of window.app.graph._nodes) node.imgs = null }")
    without = Image.open(frontend.screenshot(tmp_path / "without.png")).convert("RGB")
    assert ImageChops.difference(shown, without).getbbox(), "the image is not on the canvas"
