"""Reusable parts of the notebook kit for the SIGIR eCom Rakuten challenge.

Floors, lowest first (a module imports only from lower ones; a test holds this):
0 config, metrics, layers, words, console
1 challenge, folds, runs
2 cache, resume, launch, stacking, study, notebooks, tokenise
3 backbones, pictures, submission, choice
4 models, twins, plots, errors
5 items, tables
6 datasets, report
7 features, story
8 linear
9 train
"""
