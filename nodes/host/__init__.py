"""Adapters between blip3o_core and ComfyUI. Imported inside `run`, never when the pack is."""
