"""How the bundled tiny model is made: one module a stage, each with a gate that the next stage waits for."""
