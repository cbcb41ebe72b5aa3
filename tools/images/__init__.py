"""`make images`: the hero of README and the gallery, made and judged by the bundled model on this machine."""
