"""Text from folders: what is read and what is not, deduplication, parts, and the manifest."""

import hashlib
import json
import os
import sys

import pytest

from jaxinterp.io.corpus import (
    LINE,
    PARTS,
    Corpus,
    TextFile,
    deduplicate,
    package_of,
    part_of,
    read_corpus,
    standard_library,
)

NOTICE = "# Nobody may copy this line, and nobody may take it away."
SECOND = "# This is the second line of the same well-known notice."


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def paths(corpus):
    return [file.path for file in corpus.files]


def test_files_are_read_in_one_order_and_pinned_by_their_bytes(tmp_path):
    write(tmp_path, {"b/two.txt": "two\r\nlines\r", "a.txt": "\ufeffone", "B.txt": "three", "b.txt": "four"})
    corpus = read_corpus(tmp_path)
    assert paths(corpus) == ["B.txt", "a.txt", "b.txt", "b/two.txt"]
    assert [file.text for file in corpus.files] == ["three", "one", "four", "two\nlines\n"]
    last = corpus.files[-1]
    assert (last.sha256, last.size) == (hashlib.sha256(b"two\r\nlines\r").hexdigest(), 11)
    assert corpus == read_corpus(tmp_path)
    assert corpus.left_out == {}


def test_what_is_not_text_is_left_out_and_counted(tmp_path):
    write(
        tmp_path,
        {
            "good.txt": "text",
            "latin.txt": b"caf\xe9",
            "binary.txt": b"a\0b",
            "blank.txt": " \n\n",
            ".hidden/secret.txt": "no",
            ".secret": "no",
        },
    )
    os.mkfifo(tmp_path / "pipe")
    corpus = read_corpus(tmp_path)
    assert paths(corpus) == ["good.txt"]
    assert corpus.left_out == {"not UTF-8": 1, "not text": 1, "empty": 1, "not files": 1}


def test_files_that_cannot_be_read_are_counted(tmp_path, monkeypatch):
    write(tmp_path, {"good.txt": "text", "locked.txt": "text"})
    opened = type(tmp_path).open

    def refuse(path, *how):
        if path.name == "locked.txt":
            raise PermissionError(13, "no permission", str(path))
        return opened(path, *how)

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    corpus = read_corpus(tmp_path)
    assert (paths(corpus), corpus.left_out) == (["good.txt"], {"unreadable": 1})


def test_no_link_leads_out_of_the_folder(tmp_path):
    write(tmp_path, {"outside/secret.txt": "secret", "inside/open.txt": "open"})
    inside = tmp_path / "inside"
    (inside / "file.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "up").symlink_to("..")
    (inside / "loop").symlink_to("loop")
    (inside / "dangling.txt").symlink_to("nowhere")
    corpus = read_corpus(inside)
    assert paths(corpus) == ["open.txt"]
    assert corpus.left_out == {"symbolic links": 5}


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    write(tmp_path, {"real/one.txt": "one"})
    (tmp_path / "link").symlink_to("real")
    assert read_corpus(tmp_path / "link") == read_corpus(tmp_path / "real")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "is not a folder"),
        (lambda folder: folder, "holds no text"),
        (lambda folder: (write(folder, {"file": b"\xff"}), folder)[1], "holds no text .*not UTF-8"),
        (lambda folder: (write(folder, {"file": "text"}), folder / "file")[1], "is not a folder"),
    ],
)
def test_folders_without_text_are_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        read_corpus(make(tmp_path))


def test_long_lines_stand_in_one_text_only():
    own = {name: f"def the_function_of_module_{name}(argument): ..." for name in "abcd"}
    texts = {name: f"{NOTICE}\nelse:\n{line}\n    {line}\nelse:" for name, line in own.items()}
    kept = deduplicate(texts)
    assert kept["a"] == texts["a"]
    for name in "bcd":
        assert kept[name] == f"else:\n{own[name]}\n    {own[name]}\nelse:"  # its own repeats stay, short lines too


def test_indentation_does_not_make_a_line_another():
    own = "one_line_that_only_the_second_text_has = True"
    kept = deduplicate({"a": NOTICE, "b": f"\t  {NOTICE}  \n{own}\n{own}"})
    assert kept["b"] == f"{own}\n{own}"


def test_the_length_at_which_a_line_counts():
    short, long = "x" * (LINE - 1), "y" * LINE
    texts = {"a": f"{short}\n{long}", "b": f"{short}\n{long}\n{'z' * LINE}"}
    assert deduplicate(texts)["b"] == f"{short}\n{'z' * LINE}"


def test_copies_go_whole_and_take_nothing_with_them():
    own = "a_line_that_the_copy_has_and_the_original_does_not = 1"
    original = f"{NOTICE}\n{SECOND}\nelse:"
    kept = deduplicate({"a": original, "b": f"{original}\n{own}", "c": f"{own}\nelse:"})
    assert kept == {"a": original, "c": f"{own}\nelse:"}
    assert deduplicate({"a": "pass", "b": "pass"}) == {"a": "pass", "b": "pass"}  # nothing in them counts


def test_gaps_close_to_two_blank_lines():
    own = "this_is_a_line_that_stands_in_one_of_them_only"
    kept = deduplicate({"a": NOTICE, "b": f"{own}\n\n\n{NOTICE}\n  \n\n{own}"})
    assert kept["b"] == f"{own}\n\n\n{own}"


def test_no_two_texts_of_a_corpus_share_a_long_line(tmp_path):
    write(
        tmp_path,
        {f"m{n}/{m}.py": f"{NOTICE}\n{SECOND}\n" + f"value = {n * m:040d}\n" * 3 for n in range(9) for m in range(5)},
    )
    seen = set()
    for file in read_corpus(tmp_path).files:
        lines = {line.strip() for line in file.text.split("\n") if len(line.strip()) >= LINE}
        assert not lines & seen
        seen |= lines


def test_parts_are_disjoint_and_go_by_package(tmp_path):
    assert sum(PARTS.values()) == 100
    write(tmp_path, {f"package{n}/{name}.txt": f"text {n} {name}" for n in range(60) for name in ("a", "b/c")})
    corpus = read_corpus(tmp_path)
    parts = {part: corpus.documents(part) for part in PARTS}
    assert sorted(path for documents in parts.values() for path in documents) == paths(corpus)
    packages = [{package_of(path) for path in documents} for documents in parts.values()]
    assert sum(map(len, packages)) == len(set().union(*packages)) == 60
    assert all(len(documents) == 2 * len(each) for documents, each in zip(parts.values(), packages, strict=True))


def test_parts_have_their_shares():
    names = [f"package{n}" for n in range(20_000)]
    for part, share in PARTS.items():
        assert abs(sum(part_of(name) == part for name in names) / 200 - share) < 1


def test_a_module_and_a_folder_of_one_name_are_one_package():
    assert package_of("decimal.py") == package_of("decimal/notes.txt") == package_of("decimal.rst") == "decimal"


def test_parts_without_text_and_unknown_parts_are_refused(tmp_path):
    write(tmp_path, {"email.txt": "a name that is in the training part"})
    corpus = read_corpus(tmp_path)
    assert list(corpus.documents("train")) == ["email.txt"]
    with pytest.raises(ValueError, match=r"no text for 'evaluation': the folder .* has 1 packages"):
        corpus.documents("evaluation")
    with pytest.raises(ValueError, match="unknown part 'test'; expected one of: train, whitelist"):
        corpus.documents("test")


def test_the_manifest_tells_of_every_change(tmp_path):
    write(tmp_path, {"text/a.txt": "one", "text/b.txt": "two", "text/c.txt": "three"})
    before = read_corpus(tmp_path / "text")
    before.write_manifest(tmp_path / "model")
    written = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert written["files"]["a.txt"] == {"sha256": hashlib.sha256(b"one").hexdigest(), "bytes": 3}
    assert str(tmp_path) not in json.dumps(written)
    assert not any(before.differences(tmp_path / "model").values())

    write(tmp_path, {"text/a.txt": "another", "text/d.txt": "four", "text/e.txt": "five"})
    (tmp_path / "text" / "b.txt").unlink()
    with pytest.warns(UserWarning, match="with 1 files changed, 1 missing and 2 new"):
        assert read_corpus(tmp_path / "text").differences(tmp_path / "model") == {"changed": 1, "missing": 1, "new": 2}


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"source": "x", "files": {"a": 1}}'])
def test_what_is_not_a_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    corpus = Corpus("a test", (TextFile("a", "b", "c", 1),), {})
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        corpus.differences(tmp_path)
    with pytest.raises(FileNotFoundError):
        corpus.differences(tmp_path / "elsewhere")


def test_the_standard_library_comes_without_tests_and_without_other_packages():
    corpus = standard_library()
    assert sys.version.split()[0] in corpus.source
    folders = {folder for path in paths(corpus) for folder in path.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    assert {path.rsplit(".", 1)[1] for path in paths(corpus)} <= {"py", "rst", "txt", "md"}
    assert {"heapq.py", "email/header.py"} <= set(paths(corpus))
    for part in PARTS:
        assert sum(map(len, corpus.documents(part).values())) > 50_000
