"""What the benchmarks share: sides that run in turn, ratios with their spread, goals, and the results' files."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import psutil

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict:
    """What a number was measured on."""
    import torch

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


def in_turn(rounds: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """What each side gives in each round; A B, B A, A B …, so that a machine that drifts is fair to both."""
    found = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(sides[name]())
    return found


def ratio_row(case: str, above: list[float], below: list[float], goal: str = "", detail: str = "") -> dict:
    """A row of the table: the median of the rounds' ratios above ÷ below, and the smallest and largest of them.

    `goal`: such as ">= 0.95" or "<= 0.1"; "" where nothing is asked.
    """
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return row(case, statistics.median(ratios), goal, detail, min(ratios), max(ratios))


def row(case: str, value: float, goal: str = "", detail: str = "", low: float | None = None, high=None) -> dict:
    """A row of the table; `low` and `high`: the spread of `value` over the rounds."""
    sign, _, bound = goal.partition(" ")
    met = None if not goal else value >= float(bound) if sign == ">=" else value <= float(bound)
    spread = {} if low is None else {"low": round(low, 4), "high": round(high, 4)}
    return {"case": case, "value": round(value, 4), **spread, "goal": goal, "met": met, "detail": detail}


def report(name: str, question: str, rows: list[dict]) -> None:
    """Prints the rows, and writes them to results/<name>.json with the machine's description."""
    from kit.runs import write_json

    write_json(RESULTS / f"{name}.json", {"name": name, "question": question, "machine": machine(), "rows": rows})
    print(table([name]), flush=True)


def table(names: list[str]) -> str:
    """The results of these benchmarks as one table with goals and verdicts."""
    import pandas as pd

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
