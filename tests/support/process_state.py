"""What belongs to the whole process: a library in somebody else's program leaves it alone."""


def snapshot() -> dict:
    """Everything of the process that other code would feel, as text. Its source is run in other processes, too."""
    import logging
    import os
    import random
    import signal
    import sys
    import tempfile
    import threading
    import warnings

    import numpy
    import PIL.Image
    import torch

    backends, mask = torch.backends, os.umask(0)
    os.umask(mask)
    others = {name: logger for name, logger in logging.root.manager.loggerDict.items() if "blip3o" not in name}
    state = {
        "environment": sorted(os.environ.items()),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "umask": mask,
        "temporary files": sorted(os.listdir(tempfile.gettempdir())),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "recursion": sys.getrecursionlimit(),
        "hooks": [sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook],
        "warnings": [str(one) for one in warnings.filters],
        "logging": [logging.root.level, logging.root.handlers, logging.root.filters],
        "loggers": sorted((name, one.level) for name, one in others.items() if getattr(one, "level", 0)),
        "signals": [(one, str(signal.getsignal(one))) for one in sorted(signal.valid_signals()) if one != 9],
        "random": [random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()],
        "torch": [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed()],
        "devices": [torch.get_default_device(), torch.is_autocast_enabled(), torch.is_inference_mode_enabled()],
        "exactness": [torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()],
        "tf32": [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark],
        "attention": [backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()],
        "pickles": [str(one) for one in torch.serialization.get_safe_globals()],
        "pixels": PIL.Image.MAX_IMAGE_PIXELS,
        "patches": [id(one) for one in (torch.load, torch.nn.Linear.forward, torch.nn.functional.linear, open, print)],
    }
    return {name: repr(value) for name, value in state.items()}


def changes(before: dict, after: dict) -> dict:
    """What differs, with both values."""
    return {name: (before[name][:300], after[name][:300]) for name in before if before[name] != after[name]}
