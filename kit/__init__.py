"""Reusable parts of the notebook kit for the SIGIR eCom Rakuten challenge.

Floors, lowest first: a module imports only from lower floors, and within a folder in no circle (a test holds this).

core                paths, whole files and locks, the cache, the console: plumbing
config              what a run is: TrainConfig, EnsembleConfig, the recipes
notebook_parameters what a notebook's parameters cell says
metrics             macro-F1 and its uncertainty, calibration
predictions         files of probabilities
runs                run folders, the contract between all steps
data                items, before any model: challenges, own catalogues, texts, images, duplicates, folds, batches
submission          the files that the two boards take, and their check
models              equations, heads, backbones
training            how a run is made
train               the command that trains: accelerate launch -m kit.train
stacking            ensembles of finished runs
export              what a finished run needs to predict, in one folder
predict             finished runs on new items
analysis            what a finished run says
studies             the reproduction: which runs answer the paper, its numbers, tables, report, pipeline; best; distil
kaggle              the folder to upload to Kaggle
working_copies      copies of the notebooks to work in, and Jupyter on them
cli                 the command kit
__main__            the same as python -m kit
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # imported when asked for: it needs torch
        from kit.predict import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
