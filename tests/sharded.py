"""Two processes, each with half of every weight (FSDP2, gloo): `sharded.py CONFIG`. Saves, goes on, and compares."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard

from kit.resume import Progress, States
from kit.runs import Run
from kit.train import load, parameter_groups, prepare, save_weights

run = Run(Path(sys.argv[1]).parent)
accelerator = Accelerator(cpu=True)


def trainer():
    torch.manual_seed(0)
    model = build().to(memory_format=torch.contiguous_format)
    fully_shard(model)
    optimizer = accelerator.prepare(torch.optim.AdamW(parameter_groups(model, run.config)))
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer.optimizer, 0.9)


def step(model, optimizer) -> float:
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


_, _, products, build = prepare(run.config, accelerator)
batch = products["train"].__getitems__([0, 1, 2, 3])
model, optimizer, schedule = trainer()
model.eval()
states = States(run, accelerator, {})
step(model, optimizer)
states.write(Progress(torch.zeros(0)), model, optimizer, schedule)
save_weights(model, run.folder / "weights.safetensors", accelerator)
accelerator.wait_for_everyone()
expected = step(model, optimizer), step(model, optimizer)

again = trainer()
again[0].eval()
assert states.read(Progress(torch.zeros(0))).step == 0 and states.training
states.restore(*again)
found = step(*again[:2]), step(*again[:2])
assert found == expected, (found, expected)

third, _, _ = trainer()
third.eval()
load(third, run.folder / "weights.safetensors", third.frozen_prefixes)
assert third(batch).square().mean().item() == expected[0]
print("as it should be")
