"""`make images`: the nine images of README and the gallery, made and judged by the bundled model on this machine."""
