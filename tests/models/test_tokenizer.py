"""A text backbone reads texts with its own tokenizer, in which text stays text; what can't be read is one sentence."""

import io
import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import sentencepiece
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from kit.core.exceptions import KitError
from kit.models.registry import TEXT
from kit.models.tokenizer import find_tokenizer, load_tokenizer, token_words

CORPUS = ["Été à Orléans", "Lampe de chevet ROUGE", "le chat d'Élodie", "livre ancien neuf", "PISCINE ronde <i>"] * 20
TEXTS = ["Été à Orléans", "cafe\u0301 ROUGE", "LAMPE ﬁne", "zzz 中 😀", "livre " * 30]
NAMES = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}


def train(model, trainer, pre_tokenizer, family: str, normalizer=None, **how) -> Tokenizer:
    tokenizer, special = Tokenizer(model), NAMES[family]
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(CORPUS, trainer(show_progress=False, special_tokens=special, vocab_size=400, **how))
    first, last = (2, 3) if family == "bert" else (0, 2)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[first]} $A {special[last]}",
        special_tokens=[(special[first], first), (special[last], last)],
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


def wordpiece(lowercase: bool = False) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    model, pieces = models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer()
    tokenizer = train(model, trainers.WordPieceTrainer, pieces, "bert", normalizer)
    if lowercase:  # what it learned from was not
        content = json.loads(tokenizer.to_str())
        content["model"]["vocab"] = {token: i for token, i in content["model"]["vocab"].items() if plain(token)}
        tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


def plain(token: str) -> bool:
    return token in NAMES["bert"] or (token == token.lower() and token.isascii())


def byte_bpe(normalizer=None) -> Tokenizer:
    alphabet, pieces = pre_tokenizers.ByteLevel.alphabet(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    return train(models.BPE(), trainers.BpeTrainer, pieces, "roberta", normalizer, initial_alphabet=alphabet)


def unigram(normalizer=None) -> Tokenizer:
    pieces = pre_tokenizers.Metaspace()
    return train(models.Unigram(), trainers.UnigramTrainer, pieces, "roberta", normalizer, unk_token="<unk>")


def words(family: str = "roberta") -> Tokenizer:
    unknown = "[UNK]" if family == "bert" else "<unk>"
    model = models.WordLevel(unk_token=unknown)
    return train(model, trainers.WordLevelTrainer, pre_tokenizers.WhitespaceSplit(), family)


def vocabulary(tokenizer: Tokenizer) -> str:
    return "\n".join(sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)) + "\n"


def directory(folder: Path, model_type: str, files: dict[str, str | bytes | dict], **config) -> str:
    for name, content in {"config.json": {"model_type": model_type, **config}, **files}.items():
        content = json.dumps(content) if isinstance(content, dict) else content
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    find_tokenizer.cache_clear()
    return str(folder)


def sentencepiece_model() -> bytes:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=content, vocab_size=80, hard_vocab_limit=False, minloglevel=2
    )
    return content.getvalue()


# ---------------------------------------------------------------- whose tokenizer

OWN = {
    "cased WordPiece, nothing else": ("bert", wordpiece(), {}),
    "cased WordPiece of a class that lower-cases": ("bert", wordpiece(), {"tokenizer_class": "BertTokenizer"}),
    "cased WordPiece, said so": ("distilbert", wordpiece(), {"do_lower_case": False}),
    "uncased WordPiece": ("electra", wordpiece(lowercase=True), {"do_lower_case": True}),
    "WordPiece under a BPE class": ("roberta", wordpiece(), {"tokenizer_class": "RobertaTokenizerFast"}),
    "byte BPE with NFC": ("roberta", byte_bpe(normalizers.NFC()), {"tokenizer_class": "RobertaTokenizerFast"}),
    "byte BPE with NFKC": ("longformer", byte_bpe(normalizers.NFKC()), {}),
    "byte BPE with Lowercase": ("roberta", byte_bpe(normalizers.Lowercase()), {"tokenizer_class": "RobertaTokenizer"}),
    "byte BPE under a WordPiece class": ("bert", byte_bpe(), {"tokenizer_class": "BertTokenizerFast"}),
    "Unigram with NFKC and Lowercase": (
        "xlm-roberta",
        unigram(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
        {"do_lower_case": True},
    ),
    "Unigram that heeds no do_lower_case": ("xlm-roberta", unigram(), {"do_lower_case": True}),
    "Unigram under a Python class": ("flaubert", unigram(), {"tokenizer_class": "FlaubertTokenizer"}),
    "words": ("camembert", words(), {"tokenizer_class": "PreTrainedTokenizerFast"}),
}


@pytest.mark.parametrize("name", OWN)
def test_tokenizer_json_decides(name, tmp_path):
    kind, own, settings = OWN[name]
    encode = load_tokenizer(
        directory(tmp_path, kind, {"tokenizer.json": own.to_str(), "tokenizer_config.json": settings})
    )
    own.enable_truncation(20)
    assert encode(TEXTS, 20) == [encoding.ids for encoding in own.encode_batch(TEXTS)]


def test_padding_and_truncation_written_into_the_file_are_not_taken(tmp_path):
    own = wordpiece()
    wanted = own.encode("Lampe de chevet ROUGE").ids
    own.enable_padding(length=30)
    own.enable_truncation(4)
    assert load_tokenizer(directory(tmp_path, "bert", {"tokenizer.json": own.to_str()}))(
        ["Lampe de chevet ROUGE"], 20
    ) == [wanted]


def test_a_hub_repository_is_read_like_a_directory(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--me--cased" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--me--cased" / "refs").mkdir()
    (tmp_path / "models--me--cased" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    own = wordpiece()
    directory(snapshot, "bert", {"tokenizer.json": own.to_str()})
    assert load_tokenizer("me/cased")(TEXTS[:1], 20) == [own.encode(TEXTS[0]).ids]
    (snapshot / "tokenizer.json").unlink()
    directory(snapshot, "bert", {"vocab.txt": vocabulary(own)})
    with pytest.raises(KitError, match="do_lower_case"):
        load_tokenizer("me/cased")
    with pytest.raises(KitError, match="The tokenizer of 'me/other' could not be downloaded"):
        load_tokenizer("me/other")


@pytest.mark.parametrize(("kind", "first", "ends"), [("camembert", 4, (5, 6)), ("xlm-roberta", 1, (0, 2))])
def test_a_sentencepiece_model_alone_is_read(kind, first, ends, tmp_path):
    """Pieces are numbered as fairseq did, behind the special tokens."""
    content = sentencepiece_model()
    encode = load_tokenizer(directory(tmp_path, kind, {"sentencepiece.bpe.model": content}))
    inner = sentencepiece.SentencePieceProcessor(model_proto=content)
    for text in [*TEXTS, "<s>9 euros</s> lampe <mask>"]:
        ids = [inner.piece_to_id(piece) for piece in inner.encode(text, out_type=str)]
        assert encode([text], 200) == [[ends[0], *(i + first if i else 3 for i in ids), ends[1]]]


def test_a_tokenizer_in_python_is_read(tiny_texts, tmp_path):
    shutil.copytree(tiny_texts["flaubert"], tmp_path, dirs_exist_ok=True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    texts = ["un chat", "Grand chat bleu, livre! " * 4, "", "x"]
    wanted = theirs(texts, truncation=True, max_length=12)["input_ids"]
    assert load_tokenizer(str(tmp_path))(texts, 12) == wanted


@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {"do_lower_case": False, "strip_accents": False}])
def test_a_cased_vocabulary_alone_is_read_as_its_settings_say(settings, tmp_path):
    own = wordpiece()
    files = {"vocab.txt": vocabulary(own), "tokenizer_config.json": settings}
    assert load_tokenizer(directory(tmp_path, "bert", files))(TEXTS, 200) == [own.encode(text).ids for text in TEXTS]


UNCASED = wordpiece(lowercase=True).to_str()
DAMAGED = json.loads(wordpiece().to_str()) | {"normalizer": json.loads(UNCASED)["normalizer"]}
OTHERS = {
    "capitals in a vocabulary alone": (
        {"vocab.txt": vocabulary(wordpiece())},
        r"vocab.txt has \d+ tokens with capitals .*\"do_lower_case\": false",
    ),
    "capitals, said to be lower-cased": (
        {"vocab.txt": vocabulary(wordpiece()), "tokenizer_config.json": {"do_lower_case": True}},
        "tokens with capitals",
    ),
    "accents in a vocabulary alone": (
        {"vocab.txt": "\n".join([*NAMES["bert"], "été", "à", "lampe"])},
        r"'été' .*\"strip_accents\": false",
    ),
    "capitals in a tokenizer.json made by a class": ({"tokenizer.json": DAMAGED}, "set lowercase to false"),
    "cased, and the settings say uncased": (
        {"tokenizer.json": wordpiece().to_str(), "tokenizer_config.json": {"do_lower_case": True}},
        "disagree .do_lower_case: False in one and True in the other",
    ),
    "uncased, and the settings say cased": (
        {"tokenizer.json": UNCASED, "tokenizer_config.json": {"do_lower_case": False}},
        "disagree .do_lower_case: True in one and False in the other",
    ),
    "accents stripped, and the settings say kept": (
        {"tokenizer.json": UNCASED, "tokenizer_config.json": {"strip_accents": False}},
        "disagree .strip_accents",
    ),
    "a prefix space, and none": (
        {"tokenizer.json": byte_bpe().to_str(), "tokenizer_config.json": {"add_prefix_space": True}},
        "disagree .add_prefix_space",
    ),
    "another vocab.txt": (
        {"tokenizer.json": wordpiece().to_str(), "vocab.txt": "[PAD]\nlampe\n"},
        "vocab.txt and tokenizer.json beside it hold different vocabularies",
    ),
    "another vocab.json": (
        {"tokenizer.json": byte_bpe().to_str(), "vocab.json": {"<s>": 0, "lampe": 1}},
        "vocab.json and tokenizer.json beside it hold different vocabularies .'lampe' is number 1 .* absent",
    ),
    "other added tokens": (
        {"tokenizer.json": unigram().to_str(), "added_tokens.json": {"cdiscount": 200}},
        "added_tokens.json and tokenizer.json beside it",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_disagree_are_refused(name, tmp_path):
    files, sentence = OTHERS[name]
    with pytest.raises(KitError, match=sentence):
        load_tokenizer(directory(tmp_path, "bert", files))


# ---------------------------------------------------------------- text is text

SPOKEN = {
    "Unigram": ("camembert", {"tokenizer.json": unigram().to_str()}),
    "byte BPE": ("roberta", {"tokenizer.json": byte_bpe().to_str()}),
    "WordPiece": ("bert", {"tokenizer.json": wordpiece().to_str()}),
    "WordPiece from a vocabulary": (
        "bert",
        {"vocab.txt": vocabulary(wordpiece()), "tokenizer_config.json": {"do_lower_case": False}},
    ),
    "words": ("camembert", {"tokenizer.json": words().to_str()}),
    "words in brackets": ("bert", {"tokenizer.json": words("bert").to_str()}),
    "SentencePiece": ("camembert", {"sentencepiece.bpe.model": sentencepiece_model()}),
    "special tokens that only the settings name": (
        "camembert",
        {
            "tokenizer.json": json.loads(words().to_str()) | {"added_tokens": []},
            "tokenizer_config.json": {"pad_token": "<pad>", "mask_token": {"content": "<mask>", "lstrip": True}},
        },
    ),
}
TITLES = ["<s>9 euros</s> lampe", "lampe <pad> lampe", "<mask>", "x [SEP] [PAD] y", "[CLS]", "</s> <s> [MASK]"]


@pytest.mark.parametrize("name", SPOKEN)
def test_a_special_token_in_a_text_is_text(name, tmp_path):
    kind, files = SPOKEN[name]
    encode = load_tokenizer(directory(tmp_path, kind, files))
    (empty,) = encode([""], 200)
    special = {0, 1, 2, 3, 4, *empty} - {1 if kind == "bert" else 3}  # an unknown word is no special token
    if "SentencePiece" in name:
        special = {0, 1, 2, 5, 6}
    for ids in encode(TITLES, 200):
        assert [ids[0], ids[-1]] == empty
        assert len(ids) > 2 and not special & set(ids[1:-1])


def test_a_special_token_in_a_text_is_text_to_pip_backbones():
    for name, special in (("e5_small", {0, 1, 2, 250001}), ("minilm", {0, 101, 102, 103})):
        for ids in load_tokenizer(name)(TITLES, 200):
            assert not special & set(ids[1:-1])
    own = Tokenizer.from_file(str(TEXT["minilm"].tokenizer.locate()))
    own.no_padding()
    assert load_tokenizer("minilm")(TEXTS, 512) == [encoding.ids for encoding in own.encode_batch(TEXTS)]


@pytest.mark.parametrize("title", [*TITLES, "chat <special1> chat", "<unk>"])
def test_a_special_token_in_a_text_is_text_to_a_tokenizer_in_python(title, tiny_texts):
    ids = load_tokenizer(tiny_texts["flaubert"])([title], 200)[0]
    assert (ids[0], ids[-1]) == (0, 1)
    assert not {0, 1, 2, *range(4, 14)} & set(ids[1:-1])


def test_words_that_somebody_added_stay_whole(tiny_texts, tmp_path):
    own = unigram()
    own.add_tokens(["cdiscount"])
    encode = load_tokenizer(directory(tmp_path, "camembert", {"tokenizer.json": own.to_str()}))
    assert encode(["lampe cdiscount <s>"], 200)[0].count(own.token_to_id("cdiscount")) == 1
    slow = transformers.AutoTokenizer.from_pretrained(tiny_texts["flaubert"], trust_remote_code=False)
    slow.add_tokens(["cdiscount", "cdiscountpro"])
    slow.save_pretrained(tmp_path / "slow")
    shutil.copy(Path(tiny_texts["flaubert"]) / "config.json", tmp_path / "slow")
    ids = load_tokenizer(str(tmp_path / "slow"))(["chat cdiscountpro cdiscount <s>" + " cdiscount" * 3000], 2000)[0]
    added = [slow.convert_tokens_to_ids(token) for token in ("cdiscountpro", "cdiscount")]
    assert [i for i in ids if i in added][:2] == added and len(ids) == 2000


def test_left_truncation_keeps_the_end_of_a_text(tiny_texts, tmp_path):
    own = wordpiece()
    settings = {"truncation_side": "left"}
    encode = load_tokenizer(
        directory(tmp_path, "bert", {"tokenizer.json": own.to_str(), "tokenizer_config.json": settings})
    )
    end = own.encode("ROUGE Orléans").ids
    assert encode(["Lampe " * 3000 + "ROUGE Orléans"], len(end)) == [end]
    own.enable_truncation(9, direction="left")
    written = load_tokenizer(directory(tmp_path, "bert", {"tokenizer.json": own.to_str(), "tokenizer_config.json": {}}))
    assert written(["Lampe " * 3000 + "ROUGE Orléans"], len(end)) == [end]
    slow = tmp_path / "slow"
    shutil.copytree(tiny_texts["flaubert"], slow)
    content = json.loads((slow / "tokenizer_config.json").read_text())
    (slow / "tokenizer_config.json").write_text(json.dumps(content | settings))
    end = load_tokenizer(tiny_texts["flaubert"])(["livre"], 20)[0]
    assert load_tokenizer(str(slow))(["chat " * 3000 + "livre"], len(end)) == [end]


PAIRS = [("lampe de table", "rouge et bleu " * 9), ("une grande lampe de table", "rouge"), ("lampe", "")]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "python"])
def test_a_pair_keeps_its_title_and_loses_its_description(kind, side, tmp_path, tiny_texts):
    """As its own library joins them, with its separators and types, as long as all fits."""
    settings = {"truncation_side": side}
    if kind == "python":
        shutil.copytree(tiny_texts["flaubert"], tmp_path, dirs_exist_ok=True)
        content = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(content | settings))
        folder, own = str(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    else:
        inner = wordpiece() if kind == "wordpiece" else unigram()
        if kind == "wordpiece":
            pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
            special = [(token, inner.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
            inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, special)
        files = {"tokenizer.json": inner.to_str(), "tokenizer_config.json": settings}
        folder = directory(tmp_path, "bert" if kind == "wordpiece" else "camembert", files)
        own = transformers.PreTrainedTokenizerFast(tokenizer_object=inner)
    encode = load_tokenizer(folder, pair=True)
    for (title, description), row in zip(PAIRS, encode(PAIRS, 400), strict=True):
        wanted = own(title, description or None, return_token_type_ids=True)
        assert row == [*zip(wanted["input_ids"], wanted["token_type_ids"], strict=True)]
    whole = [[i for i, _ in row] for row in encode(PAIRS, 400)]
    for pair, full in zip(PAIRS, whole, strict=True):
        words = own(pair[0], add_special_tokens=False)["input_ids"]
        for most in (len(words) + 5, len(words) + 2, len(words) + 1):
            ids = [i for i, _ in encode([pair], most)[0]]
            assert len(ids) <= most or len(ids) == len(full)
            kept = words if most > len(words) + 1 else words[:-1] if side == "right" else words[1:]
            assert " ".join(map(str, kept)) in " ".join(map(str, ids))
            if pair[1] and most > len(words) + 4 and side == "right":
                assert ids[:-1] == full[: len(ids) - 1]


def test_a_text_of_which_nothing_is_left_has_a_token(tmp_path):
    own = wordpiece()
    own.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    encode = load_tokenizer(directory(tmp_path, "bert", {"tokenizer.json": own.to_str()}))
    assert encode(["", "\u200b", "Lampe"], 20)[:2] == [[1], [1]]


# ---------------------------------------------------------------- files that can't be read

WHOLE = wordpiece().to_str()
NEWER = json.loads(WHOLE)
NEWER["model"]["type"] = "NewPiece"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
BROKEN = {
    "newer": ("bert", {"tokenizer.json": NEWER}, "tokenizer.json cannot be read by tokenizers .* pip install -U"),
    "no tokenizer": ("bert", {"tokenizer.json": {}}, "tokenizer.json holds no tokenizer: copy"),
    "empty": ("bert", {"tokenizer.json": b""}, "tokenizer.json is empty: copy"),
    "cut short": ("bert", {"tokenizer.json": WHOLE[:700]}, "tokenizer.json is not complete JSON"),
    "another JSON": ("bert", {"tokenizer.json": b"[1]"}, "tokenizer.json holds no JSON object"),
    "not UTF-8": ("bert", {"tokenizer.json": b'{"a": "\xe9"}'}, "tokenizer.json is not complete JSON"),
    "settings cut short": (
        "bert",
        {"tokenizer.json": WHOLE, "tokenizer_config.json": b'{"do'},
        "tokenizer_config.json",
    ),
    "empty vocabulary": ("bert", {"vocab.txt": b""}, "vocab.txt is empty"),
    "vocabulary cut short": (
        "roberta",
        {"vocab.json": b'{"a": 0,', "merges.txt": "a b\n"},
        "vocab.json is not complete",
    ),
    "merges absent": ("roberta", {"vocab.json": byte_bpe().get_vocab()}, "all of its vocabulary files"),
    "another family's vocabulary": ("roberta", {"vocab.txt": vocabulary(wordpiece())}, "needs vocab.json, merges.txt"),
    "SentencePiece cut short": (
        "camembert",
        {"sentencepiece.bpe.model": sentencepiece_model()[:700]},
        "sentencepiece.bpe.model is not a complete SentencePiece model",
    ),
    "SentencePiece empty": ("camembert", {"sentencepiece.bpe.model": b""}, "sentencepiece.bpe.model is empty"),
    "a vocabulary of another form": ("bert", {"tokenizer.json": {"model": {"vocab": ["a"]}}}, "are not laid out as"),
    "settings of another form": (
        "bert",
        {"tokenizer.json": WHOLE, "tokenizer_config.json": {"added_tokens_decoder": ["x"]}},
        "are not laid out as transformers writes them",
    ),
    "pointer": ("bert", {"tokenizer.json": POINTER}, "tokenizer.json is a Git LFS pointer .* git lfs pull"),
    "pointer to a vocabulary": ("bert", {"vocab.txt": POINTER}, "vocab.txt is a Git LFS pointer"),
    "pointer to SentencePiece": ("camembert", {"sentencepiece.bpe.model": POINTER}, "bpe.model is a Git LFS pointer"),
    "code of its own": (
        "bert",
        {
            "vocab.txt": vocabulary(wordpiece(lowercase=True)),
            "tokenizer_config.json": {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}},
        },
        "brings its own code .auto_map in tokenizer_config.json., which the kit never runs",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be_read_are_named(name, tmp_path):
    kind, files, sentence = BROKEN[name]
    with pytest.raises(KitError, match=sentence) as caught:
        load_tokenizer(directory(tmp_path, kind, files))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_that_knows_too_little_is_refused(tmp_path):
    with pytest.raises(KitError, match=r"has 1\d\d tokens, and its model 30,522"):
        load_tokenizer(directory(tmp_path, "bert", {"tokenizer.json": WHOLE}, vocab_size=30522))
    content = json.loads(WHOLE)
    content["model"]["vocab"] = {token: i for token, i in content["model"]["vocab"].items() if token != "[UNK]"}
    content["added_tokens"] = []
    encode = load_tokenizer(directory(tmp_path, "bert", {"tokenizer.json": content}))
    with pytest.raises(KitError, match=r"cannot read every text"):
        encode(["中"], 20)


TITLE = "  Livre jeu,\u00a0piscine rouge \U0001f381 \u0643\u062a\u0627\u0628  et lampe"


@pytest.mark.parametrize("kind", ["bert", "camembert", "flaubert"])
@pytest.mark.parametrize("pair", [False, True])
def test_each_token_belongs_to_the_word_that_it_is_a_piece_of(kind, pair, tiny_texts):
    texts = (TITLE, "grand chat bleu") if pair else (TITLE,)
    for limit in (40, 12):
        words, places = token_words(tiny_texts[kind], texts, limit)
        (ids,) = load_tokenizer(tiny_texts[kind], pair=pair)([texts if pair else TITLE], limit)
        assert len(places) == len(ids) and places[0] == places[-1] == -1  # special tokens have no word
        assert words == " ".join(texts).split()
        inner = [place for place in places if place >= 0]
        assert inner == sorted(inner) and inner[0] == 0
    for word in ("rouge", "lampe"):
        words, places = token_words(tiny_texts[kind], texts, 60)
        (alone,) = load_tokenizer(tiny_texts[kind])([word], 60)
        assert places.count(words.index(word)) == len(alone) - 2


def test_the_backbones_own_prefix_is_no_word_of_the_text():
    words, places = token_words("e5_small", ("Étagère bibliothèque",), 20)
    (ids,) = load_tokenizer("e5_small")(["Étagère bibliothèque"], 20)
    assert words == ["Étagère", "bibliothèque"] and len(places) == len(ids)
    assert set(places) == {-1, 0, 1} and places.count(-1) > 2  # special tokens, and those of "query:"


@pytest.mark.parametrize("kind", ["bert", "flaubert"])
def test_an_empty_text_has_no_words(kind, tiny_texts):
    words, places = token_words(tiny_texts[kind], ("",), 20)
    assert words == [] and set(places) == {-1}
    assert len(places) == len(load_tokenizer(tiny_texts[kind])([""], 20)[0])
