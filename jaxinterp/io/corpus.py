"""Real text: a folder's files, or the running Python's standard library, deduplicated and split by package.

What was read is pinned by a manifest of hashes, since another Python carries another library.
"""

import hashlib
import json
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from jaxinterp.io.results import write_whole

Part = Literal["train", "whitelist", "selection", "evaluation"]

#: The parts of a corpus, and how many packages in a hundred each has: text to train on, text from which the tokens
#: that induction helps with are listed, text on which heads are chosen, and text on which claims are tested.
PARTS: dict[Part, int] = {"train": 80, "whitelist": 6, "selection": 4, "evaluation": 10}

MANIFEST = "manifest.json"

#: Of the standard library: its sources and what documentation lies among them.
SUFFIXES = (".py", ".rst", ".txt", ".md")

#: Names of what is not the library's own text: tests, packages that were installed, and what differs from one
#: build of the same version to the next.
EXCLUDED = (
    *("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"),
    *("config-*", "_sysconfigdata*", "sitecustomize.py"),
)

#: Lines of fewer characters, the spaces around them not counted, are no one's own: `else:`, `return result`.
LINE = 32


@dataclass(frozen=True)
class TextFile:
    """One file of a corpus.

    Attributes:
      path: within the folder, with "/" between its parts.
      text: what is left of it after deduplication.
      sha256: of the whole file, in hexadecimal.
      size: of the whole file, in bytes.
    """

    path: str
    text: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Corpus:
    """Text files in the order of their paths; made by `standard_library` and `read_corpus`.

    Attributes:
      source: where they are from, in words.
      files: the files.
      left_out: how many files were not taken, by the reason.
    """

    source: str
    files: tuple[TextFile, ...]
    left_out: Mapping[str, int]

    def documents(self, part: Part) -> dict[str, str]:
        """`{path: text}` of one part.

        Raises:
          ValueError: a part that does not exist, or that no file is in.

        Example:
          >>> from jaxinterp.io.corpus import standard_library
          >>> "def signature(" in standard_library().documents("selection")["inspect.py"]
          True
        """
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}; expected one of: {', '.join(PARTS)}")
        found = {file.path: file.text for file in self.files if part_of(package_of(file.path)) == part}
        if not found:
            packages = {package_of(file.path) for file in self.files}
            raise ValueError(
                f"no text for {part!r}: {self.source} has {len(packages)} packages (top-level files and folders), "
                f"of which about {PARTS[part]} in 100 are for it: give it more, smaller ones"
            )
        return found

    def manifest(self) -> dict[str, Any]:
        """What was read, as JSON values: the source, and each file's hash and size in bytes."""
        files = {file.path: {"sha256": file.sha256, "bytes": file.size} for file in self.files}
        return {"source": self.source, "files": files}

    def write_manifest(self, folder: str | os.PathLike[str]) -> None:
        """Writes `manifest.json` into a folder, whole or not at all."""
        text = json.dumps(self.manifest(), indent=1) + "\n"
        write_whole(Path(folder) / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))

    def differences(self, folder: str | os.PathLike[str]) -> dict[str, int]:
        """How this text differs from that of the manifest in a folder; warns if it does.

        Returns:
          How many files have "changed", are "missing" here, and are "new" here.

        Raises:
          OSError: there is no manifest, or it cannot be read.
          ValueError: it is not a manifest.

        Example:
          >>> import pathlib
          >>> from jaxinterp.io.corpus import read_corpus
          >>> pathlib.Path("songs").mkdir()
          >>> _ = pathlib.Path("songs/one.txt").write_text("la la la")
          >>> read_corpus("songs").write_manifest(".")
          >>> read_corpus("songs").differences(".")
          {'changed': 0, 'missing': 0, 'new': 0}
        """
        path = Path(folder) / MANIFEST
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
            source, files = written["source"], {name: each["sha256"] for name, each in written["files"].items()}
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a manifest of a corpus: {error!r}") from error
        here = {file.path: file.sha256 for file in self.files}
        counts = {
            "changed": sum(here[name] != digest for name, digest in files.items() if name in here),
            "missing": len(files.keys() - here.keys()),
            "new": len(here.keys() - files.keys()),
        }
        if any(counts.values()):
            warnings.warn(
                f"this is not the text that {path} lists: that is {source}, {len(files)} files, and this is "
                f"{self.source}, with {counts['changed']} files changed, {counts['missing']} missing and "
                f"{counts['new']} new. Packages keep their parts, but losses are of the text as it is here",
                stacklevel=2,
            )
        return counts


def standard_library() -> Corpus:
    """The standard library of the running Python: sources and documentation, without tests.

    Raises:
      ValueError: this Python does not have it as files (some come with a zip archive).

    Example:
      >>> from jaxinterp.io.corpus import standard_library
      >>> "heapq.py" in standard_library().documents("evaluation")
      True
    """
    name = f"the standard library of {platform.python_implementation()} {platform.python_version()}"
    return _gather(Path(sysconfig.get_path("stdlib")), name, SUFFIXES, EXCLUDED)


def read_corpus(folder: str | os.PathLike[str]) -> Corpus:
    """The text files of a folder and of those in it; names that begin with a dot are passed over.

    Symbolic links are not followed, so that nothing outside the folder is read.

    Raises:
      ValueError: not a folder, or one without text.

    Example:
      >>> import pathlib
      >>> from jaxinterp.io.corpus import read_corpus
      >>> _ = pathlib.Path("song.txt").write_text("la la la")
      >>> [file.path for file in read_corpus(".").files]
      ['song.txt']
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder")
    return _gather(path, f"the folder {path.resolve().name!r}", None, ())


def _gather(folder: Path, source: str, suffixes: tuple[str, ...] | None, excluded: Collection[str]) -> Corpus:
    left_out: Counter[str] = Counter()
    contents: dict[str, bytes] = {}

    def unreadable(error: OSError) -> None:
        left_out["unreadable"] += 1

    for directory, subfolders, names in os.walk(folder, onerror=unreadable):
        here = Path(directory)
        wanted = [n for n in (*subfolders, *names) if n[0] != "." and not any(fnmatchcase(n, e) for e in excluded)]
        for name in wanted:
            path = here / name
            is_folder = name in subfolders
            if not is_folder and suffixes is not None and path.suffix not in suffixes:
                continue
            if path.is_symlink():
                left_out["symbolic links"] += 1
            elif not is_folder and not path.is_file():
                left_out["not files"] += 1  # sockets and pipes, which may never end
            elif not is_folder:
                try:
                    with path.open("rb") as file:
                        beginning = file.read(1 << 13)  # of what is no text, however large, no more is read
                        if b"\0" in beginning:
                            left_out["not text"] += 1
                        else:
                            contents[path.relative_to(folder).as_posix()] = beginning + file.read()
                except OSError as error:
                    unreadable(error)
        subfolders[:] = [name for name in subfolders if name in wanted]

    texts: dict[str, str] = {}
    for name in sorted(contents):  # by code points: the same order on every system
        try:
            text = contents[name].decode("utf-8-sig")
        except UnicodeDecodeError:
            left_out["not UTF-8"] += 1
            continue
        if "\0" in text:
            left_out["not text"] += 1
        elif text.strip():
            texts[name] = text.replace("\r\n", "\n").replace("\r", "\n")
        else:
            left_out["empty"] += 1
    kept = deduplicate(texts)
    if not kept:
        raise ValueError(f"{source} holds no text ({dict(left_out) or 'no files'})")
    left_out["copies"] = len(texts) - len(kept)
    files = (
        TextFile(name, text, hashlib.sha256(contents[name]).hexdigest(), len(contents[name]))
        for name, text in kept.items()
    )
    return Corpus(source, tuple(files), dict(+left_out))


def deduplicate(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts without the lines that an earlier text has, so that no two share one of `LINE` characters or more.

    What counts are lines of `LINE` characters or more, the spaces around them left aside: licences and modules
    that were copied go, while `else:` and `return result` stay and code stays readable. What a text repeats of
    itself stays too. A text more than half of whose lines that count stand in earlier ones is a copy, and goes
    whole. Where lines are gone, at most two blank lines follow each other.

    Args:
      texts: by name; the earlier keeps the line.

    Example:
      >>> from jaxinterp.io.corpus import deduplicate
      >>> notice = "# All rights reserved by those who reserved them."
      >>> one = notice + chr(10) + "def first_of_two_functions(a, b): return a"
      >>> two = notice + chr(10) + "def second_of_two_functions(a, b): return b"
      >>> deduplicate({"one": one, "two": two, "three": one})["two"]
      'def second_of_two_functions(a, b): return b'
    """
    taken: set[str] = set()
    kept = {}
    for name, text in texts.items():
        lines = text.split("\n")
        stripped = [line.strip() for line in lines]
        counted = [line for line in stripped if len(line) >= LINE]
        known = sum(line in taken for line in counted)
        if 2 * known > len(counted):
            continue
        if known:
            # lines that do not count are never taken
            text = "\n".join(line for line, bare in zip(lines, stripped, strict=True) if bare not in taken)
            text = re.sub(r"\n([ \t]*\n){3,}", "\n\n\n", text)
        kept[name] = text
        taken.update(counted)
    return kept


def package_of(path: str) -> str:
    """The package that a path within a corpus belongs to: its first part, without what follows a dot.

    Example:
      >>> from jaxinterp.io.corpus import package_of
      >>> package_of("email/mime/text.py"), package_of("heapq.py")
      ('email', 'heapq')
    """
    return path.split("/")[0].split(".")[0]


def part_of(package: str) -> Part:
    """The part of a corpus that a package is in: decided by the hash of its name, and so the same in every corpus.

    Example:
      >>> from jaxinterp.io.corpus import part_of
      >>> part_of("heapq"), part_of("email"), part_of("inspect"), part_of("collections")
      ('evaluation', 'train', 'selection', 'whitelist')
    """
    digest = hashlib.blake2b(package.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") % 100
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    raise AssertionError("the parts' shares do not add up to 100")
