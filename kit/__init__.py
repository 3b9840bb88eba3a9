"""Reusable parts of the notebook kit for the SIGIR eCom Rakuten challenge.

Floors, lowest first (a module imports only from lower ones; a test holds this):
0 config, metrics, layers, plots, words, outputs
1 challenge, folds, backbones, runs
2 twins, models, submission, launch, stacking, errors, study
3 items, tables
4 datasets, report
5 features, story
6 linear
7 train
"""
