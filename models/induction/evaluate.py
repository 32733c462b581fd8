"""Writes the card of a trained `induction`: `python models/induction/evaluate.py [--folder F] [--twin T]`."""

import argparse
from pathlib import Path

import matplotlib

import jaxinterp as ji
from jaxinterp.cards.induction import card
from jaxinterp.io.corpus import Corpus, read_corpus, standard_library
from jaxinterp.training import TrainingRecord

matplotlib.use("Agg")


def corpus_of(folder: Path | None) -> Corpus:
    """The text of a folder, or of the running Python's standard library."""
    return standard_library() if folder is None else read_corpus(folder)


def write_card(folder: Path, corpus: Corpus, *, twin: Path | None = None, draws: int = 100) -> str:
    """Measures the model in a folder, writes `README.md` and its figures there, and returns the text.

    Warns, and says so in the card, if the text is not the one that the folder's `manifest.json` lists.
    """
    model, params, tokenizer = ji.load(folder)
    counts = corpus.differences(folder)
    differ = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    note = f"**This is not the text that the model was trained on**: of its files, {differ}."
    written = card(
        model,
        params,
        tokenizer,
        TrainingRecord.read(folder),
        train=corpus.documents("train"),
        evaluation=corpus.documents("evaluation"),
        source=corpus.source,
        note=note if any(counts.values()) else "",
        twin=None if twin is None else ji.load(twin)[:2],
        draws=draws,
    )
    written.write(folder)
    return written.markdown()


def main() -> None:
    """Prints the card of the model in a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model is")
    parser.add_argument("--twin", type=Path, help="where the one-layer model is, to compare with")
    parser.add_argument("--corpus", type=Path, help="a folder of text; the standard library if not given")
    parser.add_argument("--draws", type=int, default=100, help="rows of random tokens")
    args = parser.parse_args()
    print(write_card(args.folder, corpus_of(args.corpus), twin=args.twin, draws=args.draws))


if __name__ == "__main__":
    main()
