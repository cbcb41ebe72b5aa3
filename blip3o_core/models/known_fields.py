"""The fields of a config file that a library's class takes."""

import inspect
from typing import Any


def known_fields(config: dict, network: type) -> dict[str, Any]:
    """Without the rest: a library takes some other fields for arguments of its own, and warns about the others."""
    return {name: config[name] for name in inspect.signature(network).parameters if name in config}
