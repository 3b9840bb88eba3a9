"""What this machine offers: threads and GPUs."""

import os

import joblib


def available_threads() -> int:
    """Return the number of threads that this machine or container has, or that OMP_NUM_THREADS allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdecimal() else joblib.cpu_count()


def available_gpus() -> int:
    """Return the number of GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()
