"""The linear model on words that every other model is held against."""

import unicodedata

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC


def word_model() -> Pipeline:
    """Texts `[N]` → codes `[N]`: TF-IDF of character n-grams within words, then a linear SVM (scikit-learn)."""
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True, preprocessor=_fold)
    return make_pipeline(grams, LinearSVC(random_state=0))


def _fold(text: str) -> str:
    """Return the text in lower case, each accent composed with its letter."""
    return unicodedata.normalize("NFC", text).lower()
