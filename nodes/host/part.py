"""A network that the host loads, offloads, patches and frees."""

from contextlib import contextmanager

import comfy.model_management as mm
import torch


class Part:
    """A network with the patcher that manages it. `patcher` is where LoRA nodes add patches, on a `clone()`."""

    def __init__(self, patcher, dtype: torch.dtype):
        self.patcher, self.dtype = patcher, dtype

    def clone(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.patcher = self.patcher.clone()
        return other

    @property
    def network(self):
        return self.patcher.model

    @contextmanager
    def loaded(self, memory: int):
        """The network's weights within reach of the compute device, and `memory` bytes free there; gives the device."""
        mm.load_models_gpu([self.patcher], memory_required=memory)
        device = self.patcher.load_device
        with mm.cuda_device_context(device):
            yield device
