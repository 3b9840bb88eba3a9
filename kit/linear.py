"""Two linear references to hold a run against: on words alone, and on what its frozen backbones give.

N items · d width
"""

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from tqdm.auto import tqdm

from kit.backbones import load_image, load_text
from kit.config import TrainConfig
from kit.datasets import loader, make_products, product_texts, read_items

C = 10.0  # inverse regularisation of the logistic regression; on the sample's validation splits 100 does about as well


def references(config: TrainConfig) -> dict[str, dict[str, np.ndarray]]:
    """By reference, the predicted codes `[N]` of `oof` and `test`; both learn from the run's training items."""
    codes, frames = read_items(config)
    labels = frames["train"]["label"].to_numpy()
    texts = {name: product_texts(frame) for name, frame in frames.items() if len(frame)}
    words = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True), LinearSVC())
    predictions = {"TF-IDF + LinearSVC": _fit_predict(words, texts, labels)}

    features = pooled_features(config, codes, {name: frames[name] for name in texts})
    scaled = {name: [] for name in features}
    for side in range(2):
        scaler = make_pipeline(StandardScaler(), Normalizer()).fit(features["train"][side])
        for name in features:
            scaled[name].append(scaler.transform(features[name][side]))
    joint = {name: np.hstack(sides) for name, sides in scaled.items()}
    regression = LogisticRegression(C=C, max_iter=2000)
    return predictions | {"frozen features + logistic regression": _fit_predict(regression, joint, labels)}


def _fit_predict(model, inputs: dict, labels: np.ndarray) -> dict[str, np.ndarray]:
    model.fit(inputs["train"], labels)
    return {name: model.predict(values) for name, values in inputs.items() if name != "train"}


@torch.inference_mode()
def pooled_features(
    config: TrainConfig, codes: list[int], frames: dict[str, pd.DataFrame]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each frame, text `[N, d]` (top layer, mean over tokens) and image `[N, d]` (mean over regions) features."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = load_text(config.text, config.pretrained).eval().to(device)
    image = load_image(config.image, config.pretrained).eval().to(device)
    found = {}
    for name, products in make_products(config, codes, frames, text, image).items():
        pooled = np.empty((len(products), text.width), np.float32), np.empty((len(products), image.width), np.float32)
        for batch in tqdm(loader(products, 32, workers=config.workers), desc=f"{name} features", leave=False):
            batch = {key: value.to(device) for key, value in batch.items()}
            rows, mask = batch["row"].cpu().numpy(), batch["mask"].unsqueeze(2)
            top = text(batch["ids"], batch["mask"])[-1]  # [B, T, d]
            pooled[0][rows] = ((top * mask).sum(1) / mask.sum(1)).cpu().numpy()
            pooled[1][rows] = image(batch["pixels"]).mean(1).cpu().numpy()
        found[name] = pooled
    return found
