"""Shared parts of the benchmarks: sides that run in turn, ratios with their spread, goals, and the results' files."""

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import psutil
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from kit.config import TrainConfig
from kit.core.files import write_json, write_text
from kit.core.paths import cache_folder
from kit.data.sampler import make_loader
from kit.models.layers import BiLSTM
from kit.training.checkpoint import Progress
from kit.training.fold_trainer import FoldTrainer
from kit.training.interrupt import Watch
from kit.training.predict import predict
from kit.training.run_trainer import make_accelerator, prepare
from kit.training.session import Session
from kit.training.start import fit_start

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
UNSEEN = "clipart"  # the catalogue of data/build_clipart.py, on which nothing was chosen
DEMO = {"recipe": "demo", "text": "e5_small", "image": "efficientnet_lite0"}  # the demo's first pair of backbones


def machine() -> dict:
    """Return a description of the machine and the versions that a number was measured on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def publish(name: str, text: str) -> None:
    """Print a result with the machine on which it was measured, and write it to results/<name>.txt."""
    text = f"{text}{machine_line()}\n"
    print(text)
    write_text(RESULTS / f"{name}.txt", text)


def machine_line() -> str:
    """Return the machine in a line, for a table whose numbers do not depend on its speed."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def in_turn(rounds: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """Return each side's result of each round. The order alternates (A B, B A, …), so that drift affects both alike."""
    found = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(sides[name]())
    return found


class Workbench:
    """The first fold's model and batches of a run, as kit.train makes them, to be timed piece by piece.

    `items`: use only that many of the training and of the test items, the first ones; None: all.
    """

    def __init__(self, config: TrainConfig, items: int | None = None):
        self.config = config
        self.accelerator = make_accelerator(config)
        _, frames, products, build = prepare(config, self.accelerator)
        folds = frames["train"]["fold"].to_numpy()
        self.parts = {"train": products["train"].part(np.flatnonzero(folds != 0)[:items])}
        self.parts["test"] = products["test"].part(np.arange(len(products["test"]))[:items])
        torch.manual_seed(config.seed)
        model = build().to(self.accelerator.device)
        if config.linear_start:
            rows = np.arange(len(self.parts["train"]))
            fit_start(config, model, self.parts["train"], rows, self.accelerator.device)
        quiet = dataclasses.replace(config, save_steps=0)
        self.session = Session(None, quiet, self.accelerator, Watch(), None, Progress(torch.empty(0)), 0)
        self.trainer = FoldTrainer(self.session, model, self.parts, config.epochs)
        self.model = self.trainer.model

    def loader(self, part: str = "train", times: int = 1):
        """Return batches of `part`, `times` the size of the configuration's, shuffled if `part` is train."""
        size = times * self.config.micro_batch
        batches = make_loader(self.parts[part], size, part == "train", workers=self.config.workers)
        return self.accelerator.prepare(batches)

    def train(self, batches) -> float:
        """Seconds of one epoch over `batches`."""
        self.wait()
        clock = time.perf_counter()
        self.session.progress = Progress(torch.empty(0), history=[{}])  # a history: no line about the pace
        self.trainer.train_epoch(batches)
        self.wait()
        return time.perf_counter() - clock

    def predict(self, batches, part: str = "test") -> float:
        """Seconds of predicting `part`."""
        clock = time.perf_counter()
        predict(self.model, batches, len(self.parts[part]), self.accelerator)
        return time.perf_counter() - clock

    @torch.inference_mode()
    def forward(self, batches) -> float:
        """Seconds of nothing but the model on `batches`."""
        self.model.eval()
        self.wait()
        clock = time.perf_counter()
        for batch in batches:
            self.model(batch)
        self.wait()
        return time.perf_counter() - clock

    def loop_and_memory(self, rounds: int) -> tuple[dict[str, list[float]], list]:
        """Seconds of epochs over training's own loader, `loop`, and over a list of its batches, `memory`, in turn; and
        that list."""
        batches = self.loader()
        memory = list(batches)
        self.train(memory)  # kernels chosen, graphs compiled

        def loop() -> float:
            batches.set_epoch(0)  # the very batches of the list: others are padded to other lengths
            return self.train(batches)

        return in_turn(rounds, loop=loop, memory=lambda: self.train(memory)), memory

    def operations(self, batches: list) -> float:
        """Floating-point operations of forward and backward over `batches`."""
        model, total = self.accelerator.unwrap_model(self.model), 0.0
        for batch in batches:
            with FlopCounterMode(display=False) as counter:
                cross_entropy(model(batch), batch["label"]).backward()
            model.zero_grad()
            total += counter.get_total_flops()
            if isinstance(lstm := getattr(model.head, "text", None), BiLSTM):  # the counter knows none
                hidden, inputs = lstm.ahead.hidden_size, lstm.ahead.input_size
                once = 2 * 2 * 4 * hidden * (inputs + hidden)  # two directions, two operations a weight
                total += 3 * once * batch["mask"].numel()  # the gradient takes twice as many
        return total

    def wait(self) -> None:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()


def peak(size: int, device: torch.device, kind: torch.dtype) -> float:
    """Floating-point operations per second of a square matrix product, the best of ten."""
    a, best = torch.randn(size, size, device=device, dtype=kind), float("inf")
    for _ in range(10):
        clock = time.perf_counter()
        for _ in range(10):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - clock)
    return 20 * size**3 / best


@contextmanager
def cold():
    """Inside, the cache is empty; what it gets is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="cold-") as folder, mock.patch.dict(os.environ, KIT_ROOT=folder):
        yield


def synthetic(rows: int, test_rows: int) -> Path:
    """Return a synthetic challenge folder of that size under cache/, made on first use."""
    folder = cache_folder() / f"synthetic-{rows}-{test_rows}"
    if not folder.is_dir():
        print(f"making {folder.name} …", flush=True)
        sizes = ["--rows", str(rows), "--test-rows", str(test_rows), "--workers", str(os.cpu_count())]
        subprocess.run([sys.executable, HERE / "synthetic.py", folder, *sizes], check=True)
    return folder


def ratio_row(case: str, above: list[float], below: list[float], goal: str = "", detail: str = "") -> dict:
    """Return a row of the table: the median of the rounds' ratios above ÷ below, and the smallest and largest of them.

    `goal`: such as ">= 0.95" or "<= 0.1"; "" if there is none.
    """
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return row(case, statistics.median(ratios), goal, detail, min(ratios), max(ratios))


def row(case: str, value: float, goal: str = "", detail: str = "", low: float | None = None, high=None) -> dict:
    """Return a row of the table; `low` and `high`: the spread of `value` over the rounds."""
    sign, _, bound = goal.partition(" ")
    met = None if not goal else value >= float(bound) if sign == ">=" else value <= float(bound)
    spread = {} if low is None else {"low": round(low, 4), "high": round(high, 4)}
    return {"case": case, "value": round(value, 4), **spread, "goal": goal, "met": met, "detail": detail}


def report(name: str, question: str, rows: list[dict]) -> None:
    """Print the rows and write them to results/<name>.json with the machine's description."""
    write_json(RESULTS / f"{name}.json", {"name": name, "question": question, "machine": machine(), "rows": rows})
    print(table([name]), flush=True)


def table(names: list[str]) -> str:
    """Return the results of these benchmarks as one table with goals and verdicts."""
    lines = []
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            lines.append({"benchmark": name, "case": "not measured"})
            continue
        for found in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            spread = f" [{found['low']:.3g}, {found['high']:.3g}]" if "low" in found else ""
            verdict = {True: "met", False: "NOT MET", None: ""}[found["met"]]
            lines.append(
                {
                    "benchmark": name,
                    "case": found["case"],
                    "value": f"{found['value']:.3g}{spread}",
                    "goal": found["goal"],
                    "verdict": verdict,
                    "detail": found["detail"],
                }
            )
    return pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)
