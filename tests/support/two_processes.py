"""Several `train` runs in the processes that torchrun starts, each run divided by DDP or by FSDP 2.

Run by torchrun: python -m torch.distributed.run --nproc-per-node=2 tests/support/two_processes.py JOBS.json, a list of
{"words": words of the command, "fsdp": true or false}. Starting processes takes longer than a run of the tiny model.
accelerate offers FSDP to accelerators only; here it runs on the CPU, for machines without several GPUs.
"""

import json
import sys
from pathlib import Path

import accelerate.accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from blip3o_core.cli.main import main
from blip3o_core.training import trainer

LAYERS = ["Qwen3DecoderLayer", "SanaTransformerBlock"]


class FsdpOnCpu(AcceleratorState):
    """What accelerate's own state looks like after `accelerate launch --use_fsdp --fsdp_version 2` on two GPUs."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=LAYERS
        )


class Watched(trainer.Trainer):
    """Prints how many parameters are divided."""

    def run(self, report=None):
        parameters = self.state.parameters.values()
        divided = [parameter for parameter in parameters if hasattr(parameter, "full_tensor")]
        print(f"divided: {len(divided)} of {len(parameters)}", flush=True)
        return super().run(report)


def run(job: dict) -> int:
    AcceleratorState._reset_state()
    accelerate.accelerator.AcceleratorState = FsdpOnCpu if job["fsdp"] else AcceleratorState
    return main(job["words"])


if __name__ == "__main__":
    trainer.Trainer = Watched
    sys.exit(max(map(run, json.loads(Path(sys.argv[1]).read_text()))))
