"""`interrupted.py`, where each process has a part of every weight: Accelerate offers its FSDP2 for GPUs only."""

from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from interrupted import main
from torch.distributed.fsdp import FSDPModule

import kit.train
import kit.training.fold_trainer
import kit.training.run_trainer

make_accelerator, save_weights = kit.training.run_trainer.make_accelerator, kit.training.fold_trainer.save_weights


def sharding(config):
    accelerator = make_accelerator(config)
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    return accelerator


def checking(model, *arguments):
    assert isinstance(model, FSDPModule)
    save_weights(model, *arguments)


kit.training.run_trainer.make_accelerator, kit.training.fold_trainer.save_weights = sharding, checking

if __name__ == "__main__":
    main()
