"""Two usual steps that the kit leaves out, measured: training without suspect labels, and a bias per class.

`python benchmarks/left_out.py` takes some minutes and writes benchmarks/results/left_out.txt.

Suspect labels: in each fold, items that confident learning suspects (`kit.analysis.label_noise`, on probabilities of an
inner cross-validation of the same model) are left out of training: all, or the surer half. The labels of the catalogues
are clean; a share of the training labels is also replaced by random ones, while the true labels are scored.

Bias: added to the log-probabilities of a stack of the light members, fitted to its macro-F1 on four fifths of the items
and scored on the fifth. `prior`: one number times the log-share of each class. `classes`: one number per class.

N items · K classes
"""

import numpy as np
import pandas as pd
import torch
from accuracy import CATALOGUES, DEMO, NO_SEED, runs_of
from measure import publish
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from kit.analysis.estimates import READING, macro_f1_of
from kit.analysis.label_noise import suspect_labels
from kit.config import train_config
from kit.data.items import read_items
from kit.metrics import macro_f1
from kit.models.backbones import find_backbones
from kit.stacking.ensemble import ensemble_config, stack
from kit.training.launch import launch
from kit.training.light import new_model, read_inputs

PLANTED, SEEDS, INNER = (0.0, 0.1, 0.2), (0, 1), 4
STEPS = (-0.6, -0.3, 0.0, 0.3, 0.6)  # of one class's bias, tried twice around
POWERS = np.linspace(-0.6, 0.6, 13)


def without_suspects(catalogue: str, system: str) -> list[dict]:
    """Rows about training without suspect labels."""
    config = train_config(**DEMO | {"system": system, "data": f"data/{catalogue}"})
    codes, frames = read_items(config)
    backbones, device, train = find_backbones(config), torch.device("cpu"), frames["train"]
    inputs = read_inputs(config, codes, frames, backbones, device)["train"]
    true, folds = pd.Index(codes).get_indexer(train["label"]), train["fold"].to_numpy()
    groups, rows = train["group"].to_numpy(), []

    def predict(learn: np.ndarray, asked: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Probabilities `[n, K]` of the items `asked` from a model of the items `learn`."""
        model, known = new_model(config, backbones, device), np.unique(labels[learn])
        model.fit(inputs[learn], labels[learn], groups[learn])
        found = np.zeros((len(asked), len(codes)))
        found[:, known] = model.predict_proba(inputs[asked])
        return found

    for share in PLANTED:
        predicted = {"all": [], "no suspects": [], "no surer half": []}
        dropped, planted = [], []
        for seed in SEEDS if share else SEEDS[:1]:
            random, labels = np.random.default_rng(seed), true.copy()
            wrong = random.random(len(true)) < share
            labels[wrong] = random.integers(0, len(codes), wrong.sum())
            found = {name: np.zeros(len(true), int) for name in predicted}
            for fold in range(config.folds):
                learn, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
                inner = np.zeros((len(learn), len(codes)))
                parts = StratifiedGroupKFold(INNER, shuffle=True, random_state=0)
                for some, rest in parts.split(learn, labels[learn], groups[learn]):
                    inner[rest] = predict(learn[some], learn[rest], labels)
                suspect, own = suspect_labels(inner, labels[learn]) != labels[learn], np.arange(len(learn))
                surest = inner[own, labels[learn]] - inner.max(1)
                surer = suspect & (surest <= np.median(surest[suspect]))
                for name, leave in (("all", surer & False), ("no suspects", suspect), ("no surer half", surer)):
                    found[name][asked] = predict(learn[~leave], asked, labels).argmax(1)
                dropped.append(suspect.mean())
                planted.append(wrong[learn][suspect].mean())
            for name, values in found.items():
                predicted[name].append(values)
        row = {"catalogue": catalogue, "system": system, "planted": f"{share:.0%}"}
        row |= {"all": f"{macro_f1_of(true, np.stack(predicted['all'])).value:.1f}"}
        for name in ("no suspects", "no surer half"):
            row[name] = macro_f1_of(true, np.stack(predicted[name]), np.stack(predicted["all"]), groups)
        rows.append(row | {"suspects": f"{np.mean(dropped):.0%}", "of them planted": f"{np.mean(planted):.0%}"})
    return rows


def fit_classes(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the bias per class `[K]` of best macro-F1, one class after the other, the smaller of equally good ones."""
    bias = np.zeros(values.shape[1])
    for _ in range(2):
        for k in range(len(bias)):
            tried = [bias + step * (np.arange(len(bias)) == k) for step in sorted(STEPS, key=abs)]
            bias = max(tried, key=lambda one: macro_f1(labels, (values + one).argmax(1)))
    return bias


def with_bias(catalogue: str) -> dict:
    """Row about biases added to a stack."""
    members = [runs_of(catalogue, system)[0] for system in NO_SEED]
    launch(members)
    frame, codes, values = stack(ensemble_config([run.name for run in members], catalogue, method="blend")).predictions(
        "oof"
    )
    labels, values = pd.Index(codes).get_indexer(frame["label"]), np.log(values.clip(1e-9))
    prior, found = np.log(np.bincount(labels) / len(labels)), {"prior": labels * 0, "classes": labels * 0}
    for learn, asked in StratifiedKFold(5, shuffle=True, random_state=0).split(values, labels):
        power = max(
            POWERS, key=lambda one: (macro_f1(labels[learn], (values[learn] + one * prior).argmax(1)), -abs(one))
        )
        found["prior"][asked] = (values[asked] + power * prior).argmax(1)
        found["classes"][asked] = (values[asked] + fit_classes(values[learn], labels[learn])).argmax(1)
    plain = values.argmax(1)
    row = {"catalogue": catalogue, "stack": f"{macro_f1_of(labels, plain).value:.1f}"}
    return row | {name: macro_f1_of(labels, one, plain) for name, one in found.items()}


def main() -> None:
    suspects = [
        row for name in CATALOGUES for system in ("tfidf", "logistic_text") for row in without_suspects(name, system)
    ]
    biased = [with_bias(name) for name in CATALOGUES]
    text = f"{READING}\nMacro-F1 out of fold, gains on training with all labels and on the stack as it is.\n\n"
    text += f"Training without suspect labels, means of {len(SEEDS)} seeds of planted ones\n\n"
    text += f"{pd.DataFrame(suspects).to_string(index=False)}\n\nA bias on the stack of light members by blend\n\n"
    text += f"{pd.DataFrame(biased).to_string(index=False)}\n\n"
    publish("left_out", text)


if __name__ == "__main__":
    main()
