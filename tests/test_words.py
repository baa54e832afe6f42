"""Text for language models: the rule of the vocabulary, named sets, files and the command line; the known chain."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Ran

import zoo
from zoo.data import known_sentences
from zoo.data._words import in_vocabulary
from zoo.errors import ZooError
from zoo.structures import Chain

TEXT = "the dog sees the cat\nthe cat sleeps\n\na dog sleeps\nthe bird sings\n"


def words(loaded: object) -> list[list[str]]:
    return [[word for word in row if word is not None] for row in loaded.x.tolist()]  # type: ignore[attr-defined]


def test_words_that_come_once_and_rare_ones_are_unknown() -> None:
    rows = [line.split() for line in TEXT.split("\n") if line]
    assert words(in_vocabulary(rows, 100, "x")) == [
        ["the", "dog", "<unk>", "the", "cat", "<eos>"],
        ["the", "cat", "sleeps", "<eos>"],
        ["<unk>", "dog", "sleeps", "<eos>"],
        ["the", "<unk>", "<unk>", "<eos>"],
    ]
    # Three besides <unk> and <eos>: "the" four times, and of "cat", "dog", "sleeps", twice each, the first two.
    few = {word for row in words(in_vocabulary(rows, 5, "x")) for word in row}
    assert few == {"the", "cat", "dog", "<unk>", "<eos>"}
    cut = [["rare", "<unk>", "the"], ["the"]]
    assert words(in_vocabulary(cut, 100, "x")) == [["rare", "<unk>", "the", "<eos>"], ["the", "<eos>"]]
    assert words(in_vocabulary(rows[:1], ("the", "dog", "<unk>", "<eos>"), "x")) == [
        ["the", "dog", "<unk>", "the", "<unk>", "<eos>"]
    ]
    with pytest.raises(ZooError, match=r"x: vocabulary expected at least 3 words, .* got 2"):
        in_vocabulary(rows, 2, "x")


def test_a_text_file_is_read_by_load_data(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_text(TEXT)
    data = zoo.load_data(path, sentences=True, symbols=True, vocabulary=100)
    assert data["lengths"].tolist() == [6, 4, 4, 4]
    assert data["x"][0].tolist() == ["the", "dog", "<unk>", "the", "cat", "<eos>"]
    plain = zoo.load_data(path, sentences=True, symbols=True)
    assert plain["lengths"].tolist() == [5, 3, 3, 3]
    with pytest.raises(ZooError, match=r"vocabulary= is for sentences, got it with my.txt. Pass sentences=True too"):
        zoo.load_data(path, vocabulary=5)
    with pytest.raises(ZooError, match="vocabulary= is for files"):
        zoo.load_data("known_sentences", vocabulary=5)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\n  \n", "has only blank lines, expected one sentence a line"),
        ("caf\u00e9 ol\u00e9\n".encode("latin-1"), "should be text in UTF-8, got byte 0xe9. Save it as UTF-8"),
    ],
)
def test_bad_text_is_refused_in_one_line(tmp_path: Path, run: Callable[..., Ran], content: bytes, match: str) -> None:
    path = tmp_path / "my.txt"
    path.write_bytes(content)
    ran = run("fit", "discrete_sequence_vae", "--data", str(path), "--out", str(tmp_path / "out"))
    assert ran.code == 2
    assert match in ran.err
    assert len(ran.err.strip().split("\n")) == 1


def test_the_command_line_fits_and_scores_a_text(tmp_path: Path, run: Callable[..., Ran]) -> None:
    path, other, out = tmp_path / "my.txt.gz", tmp_path / "other.txt", tmp_path / "out"
    with gzip.open(path, "wt") as file:
        file.write(TEXT * 5 + "a unicorn sleeps\n")
    other.write_text("the zebra sleeps\n")
    settings = ("--set", "num_states=3", "--set", "hidden_dim=4", "--set", "max_epochs=2")
    ran = run("fit", "discrete_sequence_vae", "--data", str(path), "--out", str(out), *settings)
    assert ran.code == 0, ran.err
    assert {"words.png", "words.txt", "states.png"} <= {file.name for file in out.iterdir()}
    fit: Any = zoo.load(out)
    said = float((out / "words.txt").read_text().splitlines()[0].rpartition(" ")[2])
    rows = zoo.load_data(path, sentences=True, symbols=True, vocabulary=10_000)
    assert said == pytest.approx(fit.model.perplexity(rows), rel=1e-3)
    assert fit.model.schema is not None
    assert set(fit.model.schema.symbols or ()) >= {"the", "bird", "<eos>", "<unk>"}
    ran = run("evaluate", str(out), "--data", str(other), "--json")
    assert ran.code == 0, ran.err
    assert "log_likelihood" in ran.out
    for name in ("s.csv", "s.npy", "s.txt"):
        ran = run("sample", str(out), "-n", "3", "--out", str(tmp_path / name))
        assert ran.code == 0, ran.err
    lines = (tmp_path / "s.txt").read_text().splitlines()
    assert len(lines) == 3
    assert {word for line in lines for word in line.split()} <= set(fit.model.schema.symbols or ())
    table = zoo.load_data(tmp_path / "s.csv", symbols=True)
    assert [w for row in table["x"][:, :, 0] for w in row if w is not None] == " ".join(lines).split()


def test_the_known_sentences_has_the_entropy_that_is_said() -> None:
    entropy, length = known_sentences.sentence_entropy()
    start, steps, emissions = (torch.from_numpy(table).log() for table in known_sentences.tables())
    sentences = known_sentences.known_sentences(20_000, seed=5)
    index = {word: i for i, word in enumerate(known_sentences.WORDS)}
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    x = torch.nn.utils.rnn.pad_sequence([torch.tensor([index[w] for w in s]) for s in sentences], batch_first=True)
    chain = Chain(start, steps, emissions.mT[x], lengths)
    nats = -chain.log_partition()
    assert float(nats.mean()) == pytest.approx(entropy, abs=4 * float(nats.std()) / math.sqrt(len(nats)))
    assert float(lengths.double().mean()) == pytest.approx(length, abs=4 * float(lengths.double().std()) / 141)
    assert float(chain.entropy().max()) < 1e-9, "a sentence determines its path, or the entropy is another"
    assert zoo.load_data("known_sentences")["lengths"].tolist()[:3] == [
        len(sentence) for sentence in known_sentences.known_sentences(3)
    ]
    for table in known_sentences.tables():
        assert table.sum(-1) == pytest.approx(1.0)


def test_parts_of_a_set_are_coded_alike(zoo_data: Callable[..., Any]) -> None:
    train, test = (zoo_data("ptb_lm", split=split) for split in ("train", "test"))
    assert (int(train["lengths"].sum()), int(test["lengths"].sum())) == (929_589, 82_430)
    assert int(train["x"].max()) == 9999
    text = zoo_data("ptb_lm", split="test", symbols=True)
    symbols = sorted({word for row in zoo_data("ptb_lm", symbols=True)["x"] for word in row if word is not None})
    assert [symbols[code] for code in test["x"][0, : int(test["lengths"][0])].tolist()] == [
        word for word in text["x"][0] if word is not None
    ]
    assert text["x"][0][int(test["lengths"][0]) - 1] == "<eos>"
    characters = zoo_data("tinyshakespeare", split="test", symbols=True)
    assert "".join(characters["x"][0][: int(characters["lengths"][0]) - 1]).isprintable()
