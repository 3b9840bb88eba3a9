"""Reusable parts of the notebook kit for the SIGIR eCom Rakuten challenge.

Floors, lowest first (a module imports only from lower ones; a test holds this):
0 config, metrics, layers, plots, words, outputs
1 challenge, folds, runs
2 cache, submission, launch, stacking, errors, study
3 backbones, twins
4 models, items, tables
5 datasets, report
6 features, story
7 linear
8 train
"""
