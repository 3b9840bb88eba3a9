"""The linear model on words that every other model is held against."""

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC


def word_model() -> Pipeline:
    """Texts `[N]` → codes `[N]`: TF-IDF of character n-grams within words, then a linear SVM (scikit-learn)."""
    return make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True), LinearSVC(random_state=0)
    )
