"""Commands of the Makefile, and a ComfyUI to try the pack in."""
