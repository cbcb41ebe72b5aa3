"""The recorded runs of the authors' code against this project."""
