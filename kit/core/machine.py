"""What this machine offers: threads and GPUs."""

import os


def available_threads() -> int:
    """That this machine has for computing, or that its user allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(allowed) if allowed.isdecimal() else cores


def available_gpus() -> int:
    import torch

    return torch.cuda.device_count()
