"""The one exception for mistakes a user can make and mend."""


class Blip3oError(ValueError):
    """Bad input: the message names the value, the reason and the next step. Nothing was changed when it is raised."""
