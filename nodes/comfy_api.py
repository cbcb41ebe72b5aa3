"""The one place that imports ComfyUI's node API: point it at another version here."""

from comfy_api.latest import ComfyExtension, io, ui

__all__ = ["ComfyExtension", "io", "ui"]
