"""English prose that every Python installation holds: the language reference and docstrings.

Source files are parsed, never imported.
"""

import ast
import concurrent.futures
import hashlib
import inspect
import itertools
import pathlib
import pydoc_data.topics
import re
import sysconfig

from electra_tf import files

MIN_WORDS = 6
MIN_LETTERS = 0.75  # Share of letters and spaces that tells prose from tables and code.


def packages():
    """Installed packages and the standard library: dict from name to a sorted list of files."""
    found = {}
    for root in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")}):
        for path in sorted(pathlib.Path(root).iterdir()):
            if path.name in ("site-packages", "idlelib", "lib2to3"):
                continue
            sources = sorted(path.rglob("*.py")) if path.is_dir() else [path]
            sources = [
                f for f in sources if f.suffix == ".py" and "test" not in str(f.relative_to(root))
            ]
            if sources:
                found.setdefault(path.stem, []).extend(sources)
    return found


def paragraphs(text):
    """The paragraphs of prose in a docstring, one line each."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        paragraph = " ".join(block.split())
        letters = sum(c.isalpha() or c == " " for c in paragraph)
        is_code = paragraph.startswith((">>>", "...", "```"))
        if (
            len(paragraph.split()) >= MIN_WORDS
            and letters >= MIN_LETTERS * len(paragraph)
            and not is_code
        ):
            yield paragraph


def docstrings(source):
    """The docstrings of a module, its classes and functions; none of what is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node, clean=False)):
            yield text


def module_text(path):
    """One document: the paragraphs of a source file's docstrings, a line each."""
    try:
        source = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # Some packages hold deliberately broken files.
    return "\n".join(itertools.chain.from_iterable(map(paragraphs, docstrings(source))))


def write(folder, held_out_share=0.03, max_megabytes=40, progress=None):
    """Writes the text of whole packages, `train/NAME.txt` or `eval/NAME.txt`, a document a module.

    Args:
      folder: where to.
      held_out_share: share of the text that goes to `eval/`, at least: small packages, chosen by a
        hash of their names.
      max_megabytes: of text; packages are taken in the order of their names.
      progress: function of the number of source files read and of all, called now and then.

    Returns:
      dict from `train` and `eval` to the bytes written.
    """
    folder = pathlib.Path(folder)
    texts, seen = {}, set()
    topics = pydoc_data.topics.topics
    reference = ["\n".join(paragraphs(topics[name])) for name in sorted(topics)]
    texts["language_reference"] = _new_lines(reference, seen)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        found = packages()
        num_files, done = sum(map(len, found.values())), 0
        for name, paths in sorted(found.items()):
            texts[name] = _new_lines(pool.map(module_text, paths, chunksize=16), seen)
            if progress:
                done += len(paths)
                progress(done, num_files)
            if sum(map(len, texts.values())) > max_megabytes * 1e6:
                break
    total = sum(map(len, texts.values()))
    by_hash = sorted(texts, key=lambda name: hashlib.blake2b(name.encode()).digest())
    written = {"train": 0, "eval": 0}
    for name in by_hash:
        is_small = len(texts[name]) < total * held_out_share / 2
        split = "eval" if is_small and written["eval"] < total * held_out_share else "train"
        if texts[name]:
            files.write(str(folder / split / f"{name}.txt"), texts[name])
            written[split] += len(texts[name])
    return written


def _new_lines(documents, seen):
    """Joins documents by blank lines, without the paragraphs that came before (`seen`)."""
    kept = []
    for document in documents:
        new = [line for line in document.splitlines() if line not in seen]
        seen.update(new)
        if new:
            kept.append("\n".join(new) + "\n")
    return "\n".join(kept)
