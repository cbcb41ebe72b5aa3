"""Where nodes and groups of a graph lie, and what lies on something else."""

from itertools import combinations

BOXES = """() => {
    const named = item => [item.title, [...item.boundingRect]];
    return [window.app.graph._nodes.map(named), window.app.graph._groups.map(named)];
}"""
SHOWN = """() => window.app.graph._nodes.filter(node => node.type === "BLIP3oTokenGenerator").every(
    node => node.widgets.some(widget => widget.name === "$$node-text-preview"))"""
STILL = """async () => {
    const heights = () => JSON.stringify(window.app.graph._nodes.map(node => [...node.size]));
    let before, frames = 0;
    while (frames < 20) {
        await new Promise(requestAnimationFrame);
        frames = before === (before = heights()) ? frames + 1 : 0;
    }
}"""
LINES = """() => [...document.querySelectorAll("textarea")].map(
    box => [box.value, box.clientHeight / (1.25 * parseFloat(getComputedStyle(box).fontSize))])"""
PROMPT_LINES = 5
TITLE = 30  # canvas units above a node's place

Box = tuple[float, float, float, float]  # left, top, width, height


def saved_boxes(workflow: dict, room: dict[str, int]) -> tuple[list[tuple[str, Box]], list[tuple[str, Box]]]:
    """Of nodes and groups in a saved file; `room`: the height of a node by its type, where it takes more than saved."""
    nodes = []
    for node in workflow["nodes"]:
        (left, top), (width, height) = node["pos"], node["size"]
        height = max(height, room.get(node["type"], 0)) + TITLE
        nodes.append((node.get("title") or node["type"], (left, top - TITLE, width, height)))
    return nodes, [(group["title"], tuple(group["bounding"])) for group in workflow["groups"]]


def crowded(nodes: list[tuple[str, Box]], groups: list[tuple[str, Box]]) -> list[str]:
    """Nodes that overlap, and nodes that begin in a group and end outside of it."""
    found = [f"{one} lies on {two}" for (one, a), (two, b) in combinations(nodes, 2) if _overlap(a, b)]
    for title, group in groups:
        inside = [(name, box) for name, box in nodes if _overlap((box[0], box[1], 1, 1), group)]
        found += [f"{name} leaves the group {title!r}" for name, box in inside if not _contains(group, box)]
    return found


def assert_readable(frontend) -> None:
    """After a run of a sample: nothing lies on something else, and the last prompt still shows its lines."""
    frontend.page.wait_for_function(SHOWN)
    frontend.page.evaluate(STILL)
    assert crowded(*frontend.page.evaluate(BOXES)) == []
    given = [node["inputs"]["prompt"] for node in frontend.save()[1].values() if "prompt" in node["inputs"]]
    written = [prompt for prompt in given if isinstance(prompt, str)]  # others come over a wire, and show no text
    for prompt in written[-1:]:
        assert max(lines for text, lines in frontend.page.evaluate(LINES) if text == prompt) >= PROMPT_LINES


def _overlap(a: Box, b: Box) -> bool:
    return all(a[k] < b[k] + b[k + 2] and b[k] < a[k] + a[k + 2] for k in (0, 1))


def _contains(outer: Box, inner: Box) -> bool:
    return all(outer[k] <= inner[k] and inner[k] + inner[k + 2] <= outer[k] + outer[k + 2] for k in (0, 1))
