"""Reusable parts of the notebook kit for the SIGIR eCom Rakuten challenge.

Floors, lowest first (a module imports only from lower ones; a test holds this):
0 config, metrics, layers, plots, outputs
1 challenge, folds, backbones, runs
2 datasets, models, submission, launch
3 features, linear
4 train, story
"""
