"""Who runs the passes over pieces: processes of this machine, or a cluster. Each gives the same files."""
