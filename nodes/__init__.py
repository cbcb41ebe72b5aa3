"""What a creator wires: one schema and a short `execute` per node."""
