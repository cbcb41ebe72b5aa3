"""ComfyUI's door to the pack. Nothing heavy is imported here, and nothing at all where no ComfyUI runs."""

WEB_DIRECTORY = "./web"


def comfy_entrypoint():
    """Called once by ComfyUI; gives the extension with all nodes."""
    from .nodes.extension import Extension

    return Extension()
