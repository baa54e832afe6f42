"""The named data sets of text: sentences of words and tags, and lines of characters."""

from __future__ import annotations

from zoo.data._data_set import DataSet
from zoo.data._fetch import File
from zoo.data._treebank import sentences, treebank_trees
from zoo.data._words import read_characters, read_penn_words
from zoo.data.known_grammar import known_trees
from zoo.data.known_sentences import known_sentences

__all__ = ["TEXT_SETS"]

_TREEBANK = File(
    "treebank/treebank.zip",
    "9da92d76c3666cfb6cddeaed0f7e86b344cce0f0928a286d439e555f19c37399",
    1740034,
    ("https://raw.githubusercontent.com/nltk/nltk_data/5db857e/packages/corpora/treebank.zip",),
)
# As published in one archive; kept file by file, compressed.
_PENN = {
    split: File(f"ptb_lm/ptb.{split}.txt.gz", checksum, size)
    for split, checksum, size in (
        ("train", "c4c6455d85f60640431f7bc738d51265ba2d55dcce10e8906322d6f9e3dcca81", 1688035),
        ("valid", "f2148d96d82f827399b7e5040868a4541bd2d2612ebaf5a2ff213bc07fd74eb8", 134062),
        ("test", "5015d206077ff3e96161868c5c280ec8a28e9ad5617ef99ee0e734aaef6130c5", 149201),
    )
}
_SHAKESPEARE = File(
    "tinyshakespeare/input.txt.gz", "bed00f18e91cda6838950656f0a95e07e0f4dbe8649a4b959f7602a7e53fbc6e", 433627
)


def _treebank(longest: int, shape: str) -> DataSet:
    read = treebank_trees(longest)
    return DataSet(
        f"{shape} sentences, with lengths",
        f"tags of sentences of at most {longest} words, punctuation and traces dropped; trees by load_trees",
        "Penn Treebank, M. Marcus, B. Santorini, M. A. Marcinkiewicz (1993); NLTK's sample, https://www.nltk.org",
        "for non-commercial use, as NLTK distributes it",
        lambda paths: sentences([tree.tags() for tree in read(paths)], f"treebank{longest}"),
        {"": {"x": (_TREEBANK,)}},
        trees=read,
        otherwise="known_grammar",
    )


TEXT_SETS: dict[str, DataSet] = {
    "known_grammar": DataSet(
        "1000 x 24 sentences, with lengths",
        "words of a small English grammar whose entropy is known exactly: 1.6947 nats a word; trees by load_trees",
        "drawn by us",
        "as this package",
        lambda paths: sentences([tree.words() for tree in known_trees(paths)], "known_grammar"),
        provider="latent-zoo",
        trees=known_trees,
    ),
    "known_sentences": DataSet(
        "1000 x 10 sentences, with lengths",
        "words of a small language of 21 hidden states whose entropy is known exactly: 1.3755 nats a word",
        "drawn by us",
        "as this package",
        lambda paths: sentences(known_sentences(), "known_sentences"),
        provider="latent-zoo",
    ),
    "ptb_lm": DataSet(
        "42068 x 83 sentences, with lengths",
        "newspaper sentences of 10000 different words, <unk> and the end <eos> among them",
        "T. Mikolov's parts of the Penn Treebank, http://www.fit.vutbr.cz/~imikolov/rnnlm/",
        "text copyright of the Linguistic Data Consortium; research use",
        read_penn_words,
        {part: {role: (_PENN[role],) for role in dict.fromkeys((part, "train"))} for part in _PENN},
        otherwise="known_sentences",
    ),
    "tinyshakespeare": DataSet(
        "29499 x 64 lines, with lengths",
        "characters of Shakespeare's plays, a line each, with an end; the last tenth of the lines is the test part",
        "A. Karpathy, https://github.com/karpathy/char-rnn",
        "public domain",
        read_characters,
        {split: {split: (_SHAKESPEARE,)} for split in ("train", "test")},
        otherwise="known_sentences",
    ),
    "treebank10": _treebank(10, "555 x 10"),
    "treebank20": _treebank(20, "2036 x 20"),
}
