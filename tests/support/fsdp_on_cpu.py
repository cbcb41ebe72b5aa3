"""`train` under FSDP 2 on the CPU, for machines without several GPUs: accelerate offers FSDP to accelerators only.

Run by torchrun: python -m torch.distributed.run --nproc-per-node=2 tests/support/fsdp_on_cpu.py train CONFIG.yaml
"""

import sys

import accelerate.state
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from blip3o_core.__main__ import main
from blip3o_core.training.trainer import Trainer

LAYERS = ["Qwen3DecoderLayer", "SanaTransformerBlock"]


class OnCpu(accelerate.state.AcceleratorState):
    """What accelerate's own state looks like after `accelerate launch --use_fsdp --fsdp_version 2` on two GPUs."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=LAYERS
        )


class Watched(Trainer):
    def run(self, report=None):
        parameters = self.state.parameters.values()
        divided = [parameter for parameter in parameters if hasattr(parameter, "full_tensor")]
        print(f"divided: {len(divided)} of {len(parameters)}")
        return super().run(report)


if __name__ == "__main__":
    import accelerate.accelerator

    from blip3o_core.training import trainer as loop

    accelerate.accelerator.AcceleratorState = OnCpu
    loop.Trainer = Watched
    sys.exit(main(sys.argv[1:]))
