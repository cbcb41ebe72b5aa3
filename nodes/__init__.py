"""What a creator wires: one schema and a short `run` per node."""
