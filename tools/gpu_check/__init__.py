"""Checks the project on a machine with a CUDA card and no network: right numbers, speed, memory, a real ComfyUI.

`prepare` fills `.gpu/` in the checkout with what such a machine lacks. `run` does the rest there; docs/gpu.md.

| file | is |
|---|---|
| `prepare`, `kernels` | run beforehand, with network: packages, ComfyUI, compiled kernels |
| `unpack` | makes a virtual environment of what `prepare` carried |
| `watcher`, `worker`, `report` | two processes, and what they write |
| `bench` | device, clocks, models, sizes: what stages share |
| `stages` | what is checked, a file each |
"""
