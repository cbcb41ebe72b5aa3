"""Lets torchvision built for CUDA be imported beside the CPU build of torch.

`tools/environment.py` copies this file into the development environment's site-packages, where a `.pth` line runs it.
torchvision's Python side decorates two operators that only its compiled library declares, and that library does not
load without CUDA. Declaring them at the first import of torchvision is enough for ComfyUI, transformers and diffusers;
nobody here calls them. It costs nothing to processes that never import torchvision.
"""

import importlib.abc
import sys

_declared = []  # torch drops the declarations when the Library object dies


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
        return None  # the ordinary finders do the import


sys.meta_path.insert(0, _BeforeTorchvision())
