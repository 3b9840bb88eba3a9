"""What this machine offers: threads and GPUs."""

import os

import joblib


def available_threads() -> int:
    """That this machine or container has for computing, or that its user allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdecimal() else joblib.cpu_count()


def available_gpus() -> int:
    import torch

    return torch.cuda.device_count()
