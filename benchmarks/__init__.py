"""Speed and memory of this library and of the authors' code, measured in one process by `blip3o bench`."""
