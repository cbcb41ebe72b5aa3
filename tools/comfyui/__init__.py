"""A real ComfyUI with this pack: server, client, frontend, workflow files."""
