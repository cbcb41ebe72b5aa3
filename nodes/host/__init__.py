"""Adapters between blip3o_core and ComfyUI. Imported inside `execute`, never when the pack is."""
