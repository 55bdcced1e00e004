"""One wall around the model libraries: whatever they raise about an unusable model becomes one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import open_regular

WHERE = "model.name_or_path"
POINTER = b"version https://git-lfs"  # how a file begins that git-lfs has not fetched
OUR_MISTAKES = (TypeError, AttributeError, NameError, AssertionError)  # where our own code raises them
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
LONGEST = 300  # characters of a library's reason


@contextmanager
def explained(source: str, doing: str = "use") -> Iterator[None]:
    """Turn what a library raises while `doing` something with the model folder or hub name `source` into one UserError.

    Mistakes of our own are let through.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries, their parsers and their network raise types of their own
        if isinstance(error, OUR_MISTAKES) and _raised_here(error):
            raise
        raise _as_user_error(error, source, doing) from error


def refuse_unreadable(folder: Path) -> None:
    """Raise UserError for a safetensors file in `folder` whose header, or length, is not that of one."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            _refuse_pointers(folder)
            raise UserError(
                f"{path} cannot be read: {_reason(error)}", where=WHERE, fix="it is cut off or damaged: fetch it again"
            ) from error


def require_sentencepiece(folder: Path, where: str = WHERE) -> None:
    """Raise UserError if `folder` has its tokenizer in sentencepiece's own format alone, and nothing reads that."""
    if (folder / "tokenizer.json").exists() or find_spec("sentencepiece") is not None:
        return
    if found := next((name for name in SENTENCEPIECE if (folder / name).is_file()), None):
        raise UserError(
            f"{folder} has its tokenizer as {found} alone, which the package sentencepiece reads",
            where=where,
            fix="pip install sentencepiece protobuf; or put the tokenizer.json of the same model beside it",
        )


def _as_user_error(error: Exception, source: str, doing: str) -> UserError:
    text = str(error)
    if "trust_remote_code" in text:
        return UserError(f"{source} needs code of its own, which galore never runs", where=WHERE)
    if "does not support an attention implementation" in text:
        return UserError(
            f"{text.split(maxsplit=1)[0]} of {source} has no such attention",
            where="model.attn_implementation",
            fix="set model.attn_implementation: eager",
        )
    folder = Path(source)
    if folder.is_dir():
        try:
            _refuse_pointers(folder)
            refuse_gguf(folder)
        except UserError as known:
            return known
    what = source if folder.exists() else f"{source}, which is no folder here but a hub name"
    return UserError(
        f"cannot {doing} {what}: {_reason(error)}",
        where=WHERE,
        fix="give a folder with config.json and *.safetensors, or the hub name of such a model",
    )


def _refuse_pointers(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".model") and path.is_file():
            with open_regular(path) as file:
                if file.read(len(POINTER)) == POINTER:
                    raise UserError(
                        f"{path} is a pointer of git-lfs, not the file itself",
                        where=WHERE,
                        fix=f"run `git lfs pull` in {folder}",
                    )


def refuse_gguf(path: Path) -> None:
    """Raise UserError where `path` is a file of llama.cpp, or a folder with nothing else that holds a model."""
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "config.json").exists() else [path]
    if files and files[0].suffix == ".gguf":
        load = f"AutoModelForCausalLM.from_pretrained({str(files[0].parent)!r}, gguf_file={files[0].name!r})"
        raise UserError(
            f"{files[0]} is GGUF, which is not read here",
            where=WHERE,
            fix="give the folder that it was converted from (config.json, *.safetensors), or convert it back with "
            f"transformers and the package gguf: {load}.save_pretrained('OUT'), and the same with AutoTokenizer",
        )


def _reason(error: BaseException) -> str:
    """The library's own words in one line, with the error's name where they are not a sentence."""
    if type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:
        return _reason(error.__cause__)  # a sentence that names field and value, which huggingface_hub wraps twice
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    plain = (isinstance(error, (OSError, ValueError, ImportError)) or text.startswith("Field ")) and text
    return text[:LONGEST] if plain else f"{type(error).__name__}: {text}"[:LONGEST].removesuffix(": ")


def _raised_here(error: Exception) -> bool:
    """Whether the innermost frame is galore's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("galore.")
