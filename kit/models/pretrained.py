"""Weights wherever they are (a local directory, the hub's cache or the hub), and strings that identify them."""

import pickle
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError

from kit.core.cache import content_hashes
from kit.core.console import setting
from kit.core.exceptions import KitError, first_line
from kit.core.paths import resolve
from kit.models.registry import BACKBONES, IMAGE, TEXT, offline

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # their names on the hub
WEIGHTS_FORMAT = 3  # of backbones' outputs: raise it when normalising pixels or reading weights changes
# the libraries' errors for weights that are broken or of another model
BROKEN = (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)


def refuse_pointers(directory: Path) -> None:
    """Raise KitError if a file of a model's directory is only the Git LFS pointer to it."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise KitError(
                f"{path} is a Git LFS pointer and not the file itself: run git lfs pull in its repository, or fetch "
                f"that with hf download, and copy it again."
            )


def local_directory(name: str, side: str) -> Path | None:
    """Return the local directory called `name`, None if it is a name of the registry or the hub.

    Raise KitError if a path leads nowhere.
    """
    if name in BACKBONES[side]:
        return None
    path = resolve(name)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~", "\\")):
        raise KitError(f"There is no directory {path}: pass the path of a local copy of a model, or a model's name.")
    return None


def check_hub(name: str, repo: str, parameter: str, file: str) -> None:
    """Raise KitError, within seconds, if a hub name is neither in the cache nor reachable over the network."""
    known = ", ".join(BACKBONES[parameter])
    try:
        if isinstance(try_to_load_from_cache(repo, file), str):
            return
        HfApi().model_info(repo, timeout=5)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise KitError(
            f"{parameter}={name!r} is not a name that the kit knows ({known}), not a directory, "
            "and not a model on the Hugging Face hub: check the spelling."
        ) from error
    except Exception as error:  # the hub's HTTP client and its errors depend on the version
        unknown = "" if name in TEXT or name in IMAGE else f" (the kit's own names are {known})"
        raise KitError(
            f"The {parameter} backbone {name!r}{unknown} needs the weights of {repo!r}, and the Hugging Face hub "
            f"cannot be reached from here ({first_line(error)}): download that repository on a machine with network "
            f"(hf download {repo} --local-dir DIR), copy it over, and set {setting(**{parameter: 'DIR'})}{_at_once()}."
        ) from error


def _at_once() -> str:
    """Return the words about what needs no network, if pip has installed it."""
    text, image = offline(TEXT)[:1], offline(IMAGE)[:1]
    if not text or not image:
        return ""
    return f"; or take what needs no network: {setting(text=text[0], image=image[0], recipe='demo')}"


def text_hub_name(name: str) -> str:
    """Return the hub repository of a text backbone's weights."""
    return (TEXT[name].hub if name in TEXT else None) or name


def timm_hub_name(name: str) -> str | None:
    """Return the hub repository of a timm model's weights, None if it has none."""
    import timm

    model = IMAGE[name].timm if name in IMAGE else name
    try:
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
        return (config.hf_hub_id or model) if config else None
    except RuntimeError:  # a tag that this architecture has no weights for
        return None


def weights_fingerprint(name: str, side: str, pretrained: bool, here: bool = False) -> str | None:
    """Return a string that identifies the weights in cache keys: a pinned hash, a directory's files or a hub commit.

    Return None if hub weights are not downloaded yet, judged by the usual file names; `here=True` asserts that they
    are, under whatever names.
    """
    spec = BACKBONES[side].get(name)
    if directory := local_directory(name, side):
        files = [path for path in sorted(directory.iterdir()) if path.is_file() and not path.name.startswith(".")]
        hashes = content_hashes([str(path) for path in files])
        return repr([pretrained, *((path.name, digest) for path, digest in zip(files, hashes, strict=True))])
    if not pretrained or (spec and spec.file):
        return repr((pretrained, name, spec))
    repo = timm_hub_name(name) if side == "image" else text_hub_name(name)
    if repo is None:
        return None
    usual = [*WEIGHTS, *(f"{file}.index.json" for file in WEIGHTS), *(["config.json"] if here else [])]
    cached = [path for file in usual if isinstance(path := try_to_load_from_cache(repo, file), str)]
    return repr((name, repo, [Path(path).parts[-2:] for path in cached])) if cached else None  # commit and file
