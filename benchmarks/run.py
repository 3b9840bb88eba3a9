"""All benchmarks in turn, and their table with goals and verdicts: `python benchmarks/run.py [--full] [NAME …]`.

Each writes results/<name>.json; the table of all that has been measured goes to results/TABLE.md.
"""

import argparse
import json
import subprocess
import sys
import time

from measure import HERE, RESULTS, table

from kit.core.files import write_text

NAMES = ("end_to_end", "predict", "warm", "paper_pipeline", "hf_trainer", "autogluon", "scale")
FULL = {"autogluon_full": ["autogluon", "--full"], "accuracy": ["accuracy"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*NAMES, 'gpu'))}")
    parser.add_argument("--full", action="store_true", help="the long ones alone: AutoGluon on all items, accuracy")
    options = parser.parse_args()
    failed = []
    for name in options.names or (FULL if options.full else NAMES):
        script, *arguments = FULL.get(name, [name])
        print(f"── {name}", flush=True)
        clock = time.perf_counter()
        if subprocess.run([sys.executable, HERE / f"{script}.py", *arguments], check=False).returncode:
            failed.append(name)
        print(f"   {(time.perf_counter() - clock) / 60:.1f} min", flush=True)
    text = whole_table()
    write_text(RESULTS / "TABLE.md", text)
    print(f"\n{text}")
    for name in failed:
        print(f"FAILED {name}", file=sys.stderr)
    return int(bool(failed))


def whole_table() -> str:
    """Return the table of all that has been measured, with the machines."""
    names = [name for name in (*NAMES, "autogluon_full", "gpu") if (RESULTS / f"{name}.json").is_file()]
    hosts = {}
    for name in names:
        host = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["machine"]
        hosts.setdefault(", ".join(f"{key} {value}" for key, value in host.items()), []).append(name)
    where = "\n".join(f"- {', '.join(found)}: {host}" for host, found in hosts.items())
    values = "Values: median [smallest, largest] of the rounds; items/s and seconds: of each side's best round."
    return f"{table(names)}\n\n{values}\n\n{where}\n"


if __name__ == "__main__":
    sys.exit(main())
