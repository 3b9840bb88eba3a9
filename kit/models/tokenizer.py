"""Tokenizers exactly as a model's own files define them, for texts in which no special token is ever recognised.

A directory's `tokenizer.json` decides, if it has one: transformers may rebuild a tokenizer from the defaults of its
class, which lower-case or lose accents. Otherwise transformers reads the vocabulary files. Texts stay texts: "<s>" or
"[SEP]" in a title never becomes the token of that name.
"""

import bisect
import functools
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from kit.core.exceptions import KitError, first_line
from kit.models.pretrained import local_directory, refuse_pointers, text_hub_name
from kit.models.registry import TEXT, TOKENIZER

TOKENS_FORMAT = 1  # of the cached ids: raise it when a text may be tokenised differently
FILES = (
    "*token*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.codes",
)  # a tokenizer's files, as model families name them
TYPED = "\U0010ffff"  # not a character: no text contains a token that begins with it
CHARACTERS_PER_TOKEN = 100  # at most: text beyond this many per token would be truncated anyway
TOLERATED_SHARE = 0.01  # share of a vocabulary up to which deviations are ignored
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# texts, max_tokens → ids, special tokens included; or titles with descriptions, max_tokens → ids with their types
Encode = Callable[[list, int], list[list]]


def read_tokenizer(folder: Path) -> "_Fast | _Slow":
    """Return the tokenizer of a model's directory. Raise KitError if its files are damaged or contradict each other."""
    settings, model = _read_settings(folder), read_json_file(folder / "config.json")
    try:
        if (folder / "tokenizer.json").is_file():
            content = read_json_file(folder / "tokenizer.json")
            _check_agreement(folder, content, settings)
            encode: _Fast | _Slow = _Fast(content, settings, folder / "tokenizer.json")
        else:
            tokenizer, content = _from_vocabulary(folder)
            declared = settings | {"special": tokenizer.all_special_tokens}
            encode = _Fast(content, declared, folder) if content else _Slow(tokenizer)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # valid JSON, but of something else
        raise KitError(
            f"The tokenizer's files in {folder} are not laid out as transformers writes them ({first_line(error)}): "
            f"copy them again from the model's repository."
        ) from error
    model_size = model.get("vocab_size")
    if isinstance(model_size, int) and model_size >= 5000 and encode.size < 0.9 * model_size:
        raise KitError(
            f"The tokenizer in {folder} has {encode.size:,} tokens, and its model {model_size:,}: a file is cut short "
            f"or belongs to another model; copy the tokenizer's files again from the model's repository."
        )
    return encode


@functools.lru_cache(maxsize=1)  # one file stands for several backbones with random weights
def read_tokenizer_file(path: Path) -> "_Fast":
    """Return the tokenizer that a tokenizer.json describes. Raise KitError if it is damaged."""
    return _Fast(read_json_file(path), {}, path)


def read_json_file(path: Path) -> dict:
    """Return a JSON file's content, empty if there is no file. Raise KitError if it is not a JSON object."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = "is empty" if not path.stat().st_size else f"is not complete JSON ({error})"
        raise KitError(f"{path} {reason}: copy the file again from the model's repository.") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} holds no JSON object: copy the file again from the model's repository.")
    return content


class _Fast:
    """A tokenizer of the tokenizers library.

    `content`: tokenizer.json · `settings`: tokenizer_config.json, parsed.
    """

    def __init__(self, content: dict, settings: dict, path: Path):
        from tokenizers import Tokenizer, __version__

        if not isinstance(content.get("model"), dict):
            raise KitError(f"{path} holds no tokenizer: copy the file again from the model's repository.")
        model, side = content["model"], (content.get("truncation") or {}).get("direction", "right")
        self.path, self.side = path, (settings.get("truncation_side") or side).lower()
        special = _special_tokens(content, settings)
        try:
            self.inner = Tokenizer.from_str(json.dumps(_hide_special_tokens(content, special)))
        except Exception as error:  # the library raises Exception itself
            raise KitError(
                f"{path} cannot be read by tokenizers {__version__} ({first_line(error)}): if a newer version wrote "
                f"it, pip install -U tokenizers transformers; else copy it again from the model's repository."
            ) from error
        self.inner.no_padding()
        self.size = self.inner.get_vocab_size()
        unknown = model.get("unk_id") or self.inner.token_to_id(TYPED + str(model.get("unk_token")))
        self.placeholder = unknown or 0  # for a text without a token, which needs one

    def __call__(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        self.inner.enable_truncation(max_tokens, direction=self.side)
        return [encoding.ids or [self.placeholder] for encoding in self._encode(texts, max_tokens)]

    def pairs(self, texts: list[tuple[str, str]], max_tokens: int) -> list[list[tuple[int, int]]]:
        """Return ids with their types of titles and descriptions; an empty description makes no pair."""
        rows = ([*zip(both.ids, both.type_ids, strict=True)] for both, _ in self._pairs(texts, max_tokens))
        return [row or [(self.placeholder, 0)] for row in rows]

    def words(self, texts: tuple[str, ...], max_tokens: int) -> tuple[list[str], list[int]]:
        """Return the words of a text, or of a pair, and the place among them of each token's word, -1 if it has none.

        A token is part of the word in which its first character stands.
        """
        if len(texts) == 2:
            ((encoding, first),) = self._pairs([(texts[0], texts[1])], max_tokens, offsets=True)
        else:
            self.inner.enable_truncation(max_tokens, direction=self.side)
            (encoding,), first = self._encode([*texts], max_tokens, offsets=True), max_tokens
        near = [_near_end(text, max_tokens, self.side) for text in texts]
        words = [[*re.finditer(r"\S+", text)] for text in near]
        starts, before, places, seen = [[word.start() for word in row] for row in words], [0, len(words[0])], [], 0
        for special, (start, end) in zip(encoding.special_tokens_mask, encoding.offsets, strict=True):
            part, seen = int(seen >= first), seen + 1 - special
            piece = "" if special else near[part][start:end]
            start += len(piece) - len(piece.lstrip())
            places.append(before[part] + bisect.bisect_right(starts[part], start) - 1 if piece.strip() else -1)
        return [word[0] for row in words for word in row], places or [-1]

    def _pairs(self, texts: list[tuple[str, str]], max_tokens: int, offsets: bool = False) -> list[tuple]:
        """Return the encodings of titles with descriptions, and the number of a title's tokens; an empty description
        makes no pair."""
        self.inner.no_truncation()
        parts = [self._encode([text[i] for text in texts], max_tokens, False, offsets) for i in (0, 1)]
        alone, together = (max_tokens - self.inner.num_special_tokens_to_add(pair) for pair in (False, True))
        encodings = []
        for title, description in zip(*parts, strict=True):
            room = max(0, together - len(title))
            title.truncate(alone, direction=self.side)
            description.truncate(room, direction=self.side)
            both = self.inner.post_process(title, description if len(description) else None)
            encodings.append((both, len(title)))
        return encodings

    def _encode(self, texts: list[str], max_tokens: int, special: bool = True, offsets: bool = False) -> list:
        try:
            near = [_near_end(text, max_tokens, self.side) for text in texts]
            encode = self.inner.encode_batch if offsets else self.inner.encode_batch_fast
            return encode(near, add_special_tokens=special)
        except Exception as error:  # a vocabulary without a token for unknown words
            raise KitError(
                f"The tokenizer in {self.path} cannot read every text ({first_line(error)}): copy its files again from "
                f"the model's repository."
            ) from error


class _Slow:
    """A tokenizer that transformers implements in Python only, like FlauBERT's."""

    def __init__(self, tokenizer):
        self.tokenizer, self.side, self.size = tokenizer, tokenizer.truncation_side, len(tokenizer)
        self.special = {str(token) for token in tokenizer.all_special_tokens}
        added = tokenizer.added_tokens_decoder.items()
        self.special |= {str(token) for _, token in added if token.special}
        self.added = {str(token): i for i, token in added if str(token) not in self.special}
        longest = sorted(self.added, key=len, reverse=True)
        self.split = re.compile(f"({'|'.join(map(re.escape, longest))})" if longest else r"(?!)").split

    def __call__(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        return [[i for i, _ in row] for row in self.pairs([(text, "") for text in texts], max_tokens)]

    def pairs(self, texts: list[tuple[str, str]], max_tokens: int) -> list[list[tuple[int, int]]]:
        """Return ids with their types of titles and descriptions; an empty description makes no pair."""
        rows = []
        for text in texts:
            parts = self._fit([self._ids(_near_end(part, max_tokens, self.side)) for part in text], max_tokens)
            ids = self.tokenizer.build_inputs_with_special_tokens(*parts)
            types = self.tokenizer.create_token_type_ids_from_sequences(*parts) if len(parts) > 1 else [0] * len(ids)
            rows.append([*zip(ids, types, strict=True)] or [(self.tokenizer.unk_token_id or 0, 0)])
        return rows

    def words(self, texts: tuple[str, ...], max_tokens: int) -> tuple[list[str], list[int]]:
        """Return what `_Fast.words` returns. If words are not tokenised one by one, each token is one."""
        words: list[str] = []
        sides: list[list[int]] = []  # of each part's tokens: -1 - the place of its word
        for text in (*texts, "")[:2]:
            near = _near_end(text, max_tokens, self.side)
            ids, shown = self._ids(near), near.split()
            counts = [len(self._ids(word)) for word in shown]
            if sum(counts) != len(ids):
                shown = [piece.replace("</w>", "") for piece in self.tokenizer.convert_ids_to_tokens(ids)]
                counts = [1] * len(ids)
            sides.append([-1 - len(words) - word for word, count in enumerate(counts) for _ in range(count)])
            words += shown
        row = self.tokenizer.build_inputs_with_special_tokens(*self._fit(sides, max_tokens))  # special ones are from 0
        return words, [-1 - place if place < 0 else -1 for place in row] or [-1]

    def _fit(self, parts: list[list[int]], max_tokens: int) -> list[list[int]]:
        """Return title and description cut to what fits; an empty description makes no pair."""
        alone, together = (max_tokens - self.tokenizer.num_special_tokens_to_add(pair) for pair in (False, True))
        title, description = parts
        kept = [self._cut(title, alone), self._cut(description, together - len(title))]
        return kept if kept[1] else kept[:1]

    def _cut(self, ids: list[int], room: int) -> list[int]:
        return [] if room <= 0 else ids[-room:] if self.side == "left" else ids[:room]

    def _ids(self, text: str) -> list[int]:
        """Return the ids of the text alone; added tokens are recognised in it, special ones are not."""
        unknown, ids = self.tokenizer.unk_token, []
        for part in self.split(text):
            if part in self.added:
                ids.append(self.added[part])
            elif part:
                tokens = self.tokenizer.tokenize(part, split_special_tokens=True)
                tokens = [unknown if token in self.special else token for token in tokens]
                ids += self.tokenizer.convert_tokens_to_ids(tokens)
        return ids


def _near_end(text: str, max_tokens: int, side: str) -> str:
    """Return the end of a text that truncation keeps; tokenizers in Python take minutes for megabytes."""
    limit = CHARACTERS_PER_TOKEN * max_tokens
    return text[-limit:] if side == "left" else text[:limit]


def _special_tokens(content: dict, settings: dict) -> set[str]:
    """Return the tokens that the files call special, and those that the tokenizer puts around a text."""
    model, after = content["model"], content.get("post_processor") or {}
    special = {token["content"] for token in content.get("added_tokens") or () if token.get("special")}
    special |= {token["content"] for token in settings.get("added_tokens_decoder", {}).values() if token.get("special")}
    named = [settings.get(f"{role}_token") for role in ROLES]
    for setting in ("additional_special_tokens", "extra_special_tokens", "special"):
        extra = settings.get(setting) or ()
        named += extra.values() if isinstance(extra, dict) else extra
    special |= {token["content"] if isinstance(token, dict) else str(token) for token in named if token}
    for part in after.get("processors") or [after]:
        special |= {*(part.get("special_tokens") or ()), *(part[name][0] for name in ("cls", "sep") if part.get(name))}
    if model.get("unk_token"):
        special.add(model["unk_token"])
    if isinstance(model.get("vocab"), list) and isinstance(model.get("unk_id"), int):
        special.add(model["vocab"][model["unk_id"]][0])
    return special


def _hide_special_tokens(content: dict, special: set[str]) -> dict:
    """Return tokenizer.json's content with its special tokens renamed, so that no text contains one.

    The library's own setting, `encode_special_tokens`, covers only added tokens, while a Unigram or word vocabulary
    still finds "<s>" among its pieces. Tokens put around a text are given there by number and are not affected.
    """

    def renamed(token: str) -> str:
        return TYPED + token if token in special else token

    model = dict(content["model"])
    vocabulary: Any = model.get("vocab")
    if isinstance(vocabulary, list):
        model["vocab"] = [[renamed(piece), score] for piece, score in vocabulary]
    elif isinstance(vocabulary, dict):
        model["vocab"] = {renamed(token): i for token, i in vocabulary.items()}
    if model.get("unk_token"):
        model["unk_token"] = renamed(model["unk_token"])
    if model.get("merges"):
        pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [list(pair) for pair in pairs if "".join(pair) not in special]
    added = [token | {"content": renamed(token["content"])} for token in content.get("added_tokens") or ()]
    return {"version": "1.0", **content, "model": model, "added_tokens": added, "truncation": None, "padding": None}


def _read_settings(folder: Path) -> dict:
    return read_json_file(folder / "special_tokens_map.json") | read_json_file(folder / "tokenizer_config.json")


def _parts(component: dict | None) -> list[dict]:
    """Return a normalizer or pre-tokenizer and all its parts."""
    if not component:
        return []
    inner = component.get("normalizers") or component.get("pretokenizers") or ()
    return [component, *(part for one in inner for part in _parts(one))]


def _check_agreement(folder: Path, content: dict, settings: dict) -> None:
    """Raise KitError if the other files of a directory contradict its tokenizer.json."""
    model, path = content.get("model"), folder / "tokenizer.json"
    if not isinstance(model, dict):
        return  # refused later, when it is read
    normalizers = _parts(content.get("normalizer"))
    bert = next((part for part in normalizers if part.get("type") == "BertNormalizer"), None)
    lowers = bool(bert and bert.get("lowercase")) or any(part.get("type") == "Lowercase" for part in normalizers)
    vocabulary: Any = model.get("vocab")
    pieces = isinstance(vocabulary, dict) and "merges" not in model and "max_input_chars_per_word" in model
    actual: dict[str, bool | None] = {}
    if bert or pieces or lowers:  # other classes ignore the setting, and repositories have it wrong
        actual["do_lower_case"] = lowers
    if bert:
        strips = bert.get("strip_accents")
        actual["strip_accents"] = lowers if strips is None else strips
        actual["tokenize_chinese_chars"] = bert.get("handle_chinese_chars")
    for part in _parts(content.get("pre_tokenizer")):
        if part.get("type") == "ByteLevel":
            actual["add_prefix_space"] = part.get("add_prefix_space")
    for name, value in actual.items():
        if isinstance(settings.get(name), bool) and isinstance(value, bool) and settings[name] != value:
            raise KitError(
                f"{path} and tokenizer_config.json beside it disagree ({name}: {value} in one and {settings[name]} in "
                f"the other): find out how the model was trained, and correct the wrong file."
            )
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    if pieces and bert:
        case_only = bert | {"strip_accents": False}  # the file itself decides on accents
        _check_case(path, set(vocabulary) - set(added), case_only, f"set lowercase to false in {path.name}")
    if isinstance(vocabulary, list):
        vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    declared = settings.get("added_tokens_decoder", {}).items()
    lists = {"tokenizer_config.json": {token["content"]: int(i) for i, token in declared if not token.get("special")}}
    lists["added_tokens.json"] = read_json_file(folder / "added_tokens.json")
    if pieces and (folder / "vocab.txt").is_file():
        lists["vocab.txt"] = _read_lines(folder / "vocab.txt")
    elif not pieces and isinstance(model.get("vocab"), dict):
        lists["vocab.json"] = read_json_file(folder / "vocab.json")
    ids = vocabulary | added
    for name, tokens in lists.items():
        other = [token for token, i in tokens.items() if ids.get(token) != i]
        if len(other) > TOLERATED_SHARE * len(tokens):
            raise KitError(
                f"{folder / name} and tokenizer.json beside it hold different vocabularies ({other[0]!r} is number "
                f"{tokens[other[0]]} in one and {ids.get(other[0], 'absent')} in the other): copy both again from the "
                f"model's repository, or remove the one that is not the model's."
            )


def _read_lines(path: Path) -> dict[str, int]:
    """Return the tokens of a vocab.txt, one per line. Raise KitError if it is not UTF-8."""
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise KitError(f"{path} is not UTF-8: copy the file again from the model's repository.") from error
    return {token: i for i, line in enumerate(lines) if (token := line.rstrip("\r"))}


def _check_case(path: Path, tokens: set[str], bert: dict, advice: str) -> None:
    """Raise KitError if a BERT normalizer removes capitals or accents that many of the tokens have."""
    lowers = bool(bert.get("lowercase"))
    strips = lowers if bert.get("strip_accents") is None else bert["strip_accents"]

    def changes(token: str) -> bool:
        if lowers and token != token.lower():
            return True
        return strips and any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", token))

    words = [token for token in tokens if token.lower() != token.upper() and token[0] + token[-1] not in ("[]", "<>")]
    lost = sorted(token for token in words if changes(token))
    if len(lost) > TOLERATED_SHARE * len(words):
        examples = ", ".join(map(repr, lost[:3]))
        raise KitError(
            f"{path} has {len(lost):,} tokens with capitals or accents ({examples} …), which its tokenizer removes "
            f"from every text, so that these tokens are never used: {advice}, unless the file is another model's."
        )


def _from_vocabulary(folder: Path) -> tuple:
    """Return the tokenizer that transformers builds from a directory's vocabulary files, and its tokenizer.json.

    The latter is empty for a tokenizer in Python. Raise KitError if the files are damaged or incomplete.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
        if not path.stat().st_size:
            raise KitError(f"{path} is empty: copy the file again from the model's repository.")
        if path.suffix == ".model":
            _check_sentencepiece(path)
        elif path.suffix == ".json":
            read_json_file(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        content = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    except Exception as error:  # each class has its own
        if "auto_map" in _read_settings(folder):
            raise KitError(
                f"The tokenizer in {folder} brings its own code (auto_map in tokenizer_config.json), which the kit "
                f"never runs: copy its tokenizer.json there, if its repository has one, or use another model."
            ) from error
        raise KitError(
            f"The tokenizer in {folder} could not be loaded ({first_line(error)}): copy tokenizer.json, or all of its "
            f"vocabulary files, again from the model's repository."
        ) from error
    files = {name: file for name, file in type(tokenizer).vocab_files_names.items() if name != "tokenizer_file"}
    absent = [file for name, file in files.items() if name != "spm_file" and not (folder / file).is_file()]
    if absent or type(tokenizer) is PreTrainedTokenizerFast:
        needs = (
            f"{type(tokenizer).__name__} needs {', '.join(absent)}" if absent else "no class of transformers reads it"
        )
        raise KitError(
            f"The tokenizer in {folder} is not complete ({needs}): copy tokenizer.json, or all of its vocabulary "
            f"files, there from the model's repository."
        )
    bert = next((part for part in _parts(content.get("normalizer")) if part["type"] == "BertNormalizer"), None)
    if bert and (folder / "vocab.txt").is_file():
        tokens = set(_read_lines(folder / "vocab.txt")) - {str(t) for t in tokenizer.added_tokens_decoder.values()}
        if "strip_accents" in _read_settings(folder):
            bert = bert | {"strip_accents": False}  # the author's explicit choice
        flag = "do_lower_case" if any(token != token.lower() for token in tokens) else "strip_accents"
        _check_case(folder / "vocab.txt", tokens, bert, f'put {{"{flag}": false}} into tokenizer_config.json beside it')
    return tokenizer, content


def _check_sentencepiece(path: Path) -> None:
    """Raise KitError if a file is not a SentencePiece model: transformers' own error would be about tiktoken."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise KitError(
            f"{path} is not a complete SentencePiece model: copy the file again from the model's repository."
        ) from error


def load_tokenizer(name: str, pretrained: bool = True, pair: bool = False) -> Encode:
    """Return a function `(texts, max_tokens) → token ids`, with special tokens and without padding.

    With `pair`, a text is a title and a description, and a token its id and its type (0 or 1). The description is cut
    first; if it is empty, the title stands alone.

    For random weights of a named backbone, ids of the e5 tokenizer are folded into the vocabulary: as many as real
    ones. Raise KitError if the tokenizer cannot be loaded.
    """
    spec, encode_all = TEXT.get(name), find_tokenizer(name, pretrained)
    fold, prefix = None if pretrained or spec is None else spec.config["vocab_size"], spec.prefix if spec else ""

    def encode(texts: list, max_tokens: int) -> list[list]:
        if not texts:  # some tokenizers fail on an empty list
            return []
        if pair:
            rows = encode_all.pairs([(prefix + title, description) for title, description in texts], max_tokens)
            return [[(5 + i % (fold - 5), kind) for i, kind in row] for row in rows] if fold else rows
        ids = encode_all([prefix + text for text in texts], max_tokens)
        return [[5 + i % (fold - 5) for i in row] for row in ids] if fold else ids

    return encode


def token_words(
    name: str, texts: tuple[str, ...], max_tokens: int, pretrained: bool = True
) -> tuple[list[str], list[int]]:
    """Return the words of a text, or of a title and a description, and for each of its tokens the place among them of
    the word that it is a piece of; -1: special tokens, and those of the backbone's own prefix.

    Raise KitError if the tokenizer cannot be loaded.
    """
    prefix = TEXT[name].prefix if name in TEXT else ""
    words, places = find_tokenizer(name, pretrained).words((prefix + texts[0], *texts[1:]), max_tokens)
    own = len(prefix.split())
    return words[own:], [max(place - own, -1) for place in places]


@functools.lru_cache(maxsize=8)  # the members of a stack
def find_tokenizer(name: str, pretrained: bool) -> _Fast | _Slow:
    """Return the tokenizer of a backbone. Raise KitError if it cannot be loaded."""
    spec = TEXT.get(name)
    file = TOKENIZER if spec and not pretrained else spec and spec.tokenizer
    if file:
        return read_tokenizer_file(file.locate())
    return read_tokenizer(tokenizer_folder(name))


def tokenizer_folder(name: str) -> Path:
    """Return a local directory with the tokenizer's files of a directory or hub repository.

    Raise KitError if it is unreachable.
    """
    if directory := local_directory(name, "text"):
        refuse_pointers(directory)
        return directory
    patterns = [*FILES, "config.json"]
    try:
        return Path(snapshot_download(text_hub_name(name), allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # the hub's HTTP client and its errors depend on the version
        raise KitError(f"The tokenizer of {name!r} could not be downloaded: {first_line(error)}") from error
