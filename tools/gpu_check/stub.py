"""Stands in for a package that a check does not use (PyAV, kornia: 42 MB): every name can be imported, none works.

A copy of this file is the whole package.
"""

import importlib.abc
import importlib.machinery
import sys
import types


class _Anything(type):
    def __getattr__(cls, name):
        return _made(name)

    def __or__(cls, other):
        return cls

    __ror__ = __or__


def _made(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (), {"__init__": lambda self, *args, **options: None})


class _Module(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name):
        return _made(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith(f"{__name__}.") else None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def __getattr__(name):
    return sys.modules.get(f"{__name__}.{name}") or _made(name)


__version__ = "0+stub"
sys.meta_path.append(_Finder())
