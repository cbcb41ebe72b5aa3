"""ComfyUI's own undo in its page: the keys, and what it would take for a change of the user's."""

from tools.comfyui.frontend import TWO_FRAMES

TRACKER = "window.app.extensionManager.workflow.activeWorkflow.changeTracker"
LOADED = f"() => !{TRACKER}._restoringState && !{TRACKER}.constructor.isLoadingGraph"
CAPTURE = f"() => {TRACKER}.captureCanvasState()"
CHANGED = f"""() => {{
    const tracker = {TRACKER}, now = JSON.parse(JSON.stringify(window.app.rootGraph.serialize())).nodes;
    const same = (one, other) => tracker.constructor.graphEqual({{nodes: [one]}}, {{nodes: [other]}});
    return tracker.activeState.nodes.filter(node => node.type.startsWith("BLIP3o")).flatMap(node => {{
        const other = now.find(each => each.id === node.id);
        if (same(node, other)) return [];
        const named = [...new Set([...Object.keys(node), ...Object.keys(other)])];
        const changed = named.filter(name => !same({{[name]: node[name]}}, {{[name]: other[name]}}));
        return changed.map(name => [node.type, name, node[name] ?? null, other[name]]);
    }});
}}"""


def hold(page, *keys: str) -> None:
    """Press `keys` together for as long as a hand does, and wait until the graph that they asked for is loaded.

    ComfyUI acts on a key in the next frame. When the key is up by then, it first looks whether the graph has changed,
    and a change ends redo.
    """
    for key in keys:
        page.keyboard.down(key)
        page.evaluate(TWO_FRAMES)
    page.wait_for_function(LOADED)
    page.evaluate(TWO_FRAMES)
    for key in reversed(keys):
        page.keyboard.up(key)


def changed_nodes(page) -> list[list]:
    """[type, field, before, now] of our nodes in the open graph that ComfyUI would take for changed by the user."""
    return page.evaluate(CHANGED)
