"""Every kind of array that numpy and pandas hand over is taken for what it says, or refused by its name."""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

import zoo
from zoo.core.data import as_data
from zoo.errors import ZooError

NAN = math.nan
DAY = np.datetime64("2020-01-01")
SQUARE = [[1.0, 2.0], [3.0, 4.0]]
BASE = np.array(SQUARE)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


PACKED = np.array([(1, 1.0), (2, 3.0)], dtype=[("a", "i1"), ("b", "f8")])  # strides of 9 bytes

TAKEN: dict[str, tuple[Any, Any, torch.dtype]] = {
    "bool": (np.array([True, False]), [1, 0], torch.bool),
    **{
        name: (np.array([1, 2], dtype=name), [1, 2], getattr(torch, name))
        for name in ("int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")
    },
    **{name: (np.array([1, 2], dtype=name), [1, 2], torch.int64) for name in ("uint16", "uint32", "uint64")},
    "uint64 beyond int64": (np.array([2**63], dtype=np.uint64), [2.0**63], torch.float64),
    "longdouble": (np.array([1.5, 2], dtype=np.longdouble), [1.5, 2], torch.float64),
    "big endian": (np.array([1, 2], dtype=">f8"), [1, 2], torch.float64),
    "big endian int": (np.array([1, 2], dtype=">i4"), [1, 2], torch.int32),
    "fortran": (np.asfortranarray(BASE), SQUARE, torch.float64),
    "negative strides": (BASE[::-1, ::-1], [[4, 3], [2, 1]], torch.float64),
    "every second": (np.arange(6.0)[::2], [0, 2, 4], torch.float64),
    "read-only": (read_only(BASE), SQUARE, torch.float64),
    "broadcast": (np.broadcast_to(np.array([1.0, 2.0]), (2, 2)), [[1, 2], [1, 2]], torch.float64),
    "matrix": (np.asmatrix(BASE), SQUARE, torch.float64),
    "0-d": (np.array(3.0), 3.0, torch.float64),
    "scalar": (np.float32(3.0), 3.0, torch.float32),
    "empty": (np.empty((0, 2)), np.empty((0, 2)), torch.float64),
    "masked": (np.ma.array([1.0, 2.0], mask=[False, True]), [1, NAN], torch.float64),
    "masked int": (np.ma.array([1, 2], mask=[False, True]), [1, NAN], torch.float64),
    "masked nothing": (np.ma.array([1, 2]), [1, 2], torch.int64),
    "masked in a list": (
        [np.ma.array([1.0, 2.0], mask=[True, False]), np.ma.array([3.0, 4.0])], [[NAN, 2], [3, 4]], torch.float64
    ),
    "structured": (PACKED, [[1, 1], [2, 3]], torch.float64),
    "one field": (PACKED["b"], [1, 3], torch.float64),
    "record": (np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f4")]), [[1, 2.5]], torch.float64),
    "masked structured": (np.ma.array(PACKED, mask=[(False, True), (False, False)]), [[1, NAN], [2, 3]], torch.float64),
    "object of numbers": (
        np.array([1, 2.5, Decimal("0.25"), Fraction(1, 2), None], dtype=object), [1, 2.5, 0.25, 0.5, NAN], torch.float64
    ),
    "object of integers": (np.array([1, np.int8(2)], dtype=object), [1, 2], torch.int64),
    "object beyond int64": (np.array([2**70, 1], dtype=object), [2.0**70, 1], torch.float64),
    "object of truth values": (np.array([True, False], dtype=object), [1, 0], torch.bool),
    "numbers as text": (np.array(["1", "2.5"]), [1, 2.5], torch.float64),
    "numbers as bytes": (np.array([b"1", b"2.5"]), [1, 2.5], torch.float64),
    "list": ([[1, 2], [3, 4]], [[1, 2], [3, 4]], torch.int64),
    "list of tuples": ([(1.0, 2.0), (3.0, 4.0)], SQUARE, torch.float64),
    "list with None": ([1.0, None], [1, NAN], torch.float64),
    "list of tensors": ([torch.tensor([1.0, 2.0]).requires_grad_(), torch.tensor([3.0, 4.0])], SQUARE, torch.float32),
    "list of arrays": ([np.array([1, 2]), np.array([3.0, 4.0])], SQUARE, torch.float64),
    "range": (range(3), [0, 1, 2], torch.int64),
    "sparse": (scipy.sparse.csr_matrix(BASE), SQUARE, torch.float64),
    "xarray": (xarray.DataArray(BASE), SQUARE, torch.float64),
    "sparse tensor": (torch.tensor(BASE).to_sparse(), SQUARE, torch.float64),
    "frame": (pd.DataFrame(BASE), SQUARE, torch.float64),
    "frame of integers": (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), [[1, 3], [2, 4]], torch.int64),
    "frame of kinds": (
        pd.DataFrame({"a": [1, 2], "b": [True, False], "c": [0.5, NAN]}), [[1, 1, 0.5], [2, 0, NAN]], torch.float64
    ),
    "series": (pd.Series([1.5, 2]), [1.5, 2], torch.float64),
    "index": (pd.Index([1, 2]), [1, 2], torch.int64),
    "Int64": (pd.Series([1, None], dtype="Int64"), [1, NAN], torch.float64),
    "Int64 whole": (pd.Series([1, 2], dtype="Int64"), [1, 2], torch.int64),
    "UInt64": (pd.Series([2**63, 1], dtype="UInt64"), [2.0**63, 1], torch.float64),
    "Float32": (pd.Series([1.5, None], dtype="Float32"), [1.5, NAN], torch.float64),
    "boolean": (pd.Series([True, None], dtype="boolean"), [1, NAN], torch.float64),
    "extension array": (pd.array([1, None], dtype="Int64"), [1, NAN], torch.float64),
    "categories of numbers": (pd.Series([7, 5, None], dtype="category"), [7, 5, NAN], torch.float64),
    "Categorical of numbers": (pd.Categorical([7, 5]), [7, 5], torch.int64),
    "sparse series": (pd.Series(pd.arrays.SparseArray([0.0, 0.0, 1.5])), [0, 0, 1.5], torch.float64),
    "decimals": (pd.Series([Decimal("1.5"), None]), [1.5, NAN], torch.float64),
    "object with NA": (pd.Series([1, pd.NA, 2.5], dtype=object), [1, NAN, 2.5], torch.float64),
    "string of numbers": (pd.Series(["1", "2.5", None], dtype="string"), [1, 2.5, NAN], torch.float64),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name: str) -> None:
    value, expected, dtype = TAKEN[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = as_data(value)
    assert x.dtype == dtype
    assert not x.requires_grad
    np.testing.assert_array_equal(x.double().numpy(), np.asarray(expected, dtype=np.float64))


def test_what_is_taken_of_arrow() -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is optional")
    import pyarrow as pa

    for dtype, values, expected in [
        ("int64[pyarrow]", [1, None], [1, NAN]),
        ("double[pyarrow]", [1.5, 2], [1.5, 2]),
        ("bool[pyarrow]", [True, None], [1, NAN]),
        (pd.ArrowDtype(pa.decimal128(5, 2)), [Decimal("1.25"), None], [1.25, NAN]),
        ("string[pyarrow]", ["1.5", "2"], [1.5, 2]),
    ]:
        np.testing.assert_array_equal(as_data(pd.Series(values, dtype=dtype)).double(), expected)
    np.testing.assert_array_equal(as_data(pa.table({"a": [1, 2], "b": [0.5, 1.5]})), [[1, 0.5], [2, 1.5]])
    with pytest.raises(ZooError, match="got dates"):
        as_data(pd.Series([datetime.date(2020, 1, 1)], dtype=pd.ArrowDtype(pa.date32())))


REFUSED: dict[str, tuple[Any, str]] = {
    "complex": (np.array([1 + 2j]), "got complex numbers"),
    "complex without imaginary part": (np.array([1 + 0j]), "got complex numbers"),
    "complex object": (np.array([1j, 2], dtype=object), "got complex numbers"),
    "complex list": ([1j, 2.0], "got complex numbers"),
    "complex tensor": (torch.tensor([1j]), "got complex numbers"),
    "complex column": (pd.DataFrame({"a": [1.0], "wave": [1j]}), "got complex numbers in column 'wave'"),
    "complex field": (np.array([(1, 1j)], dtype=[("a", "i4"), ("w", "c16")]), "got complex numbers in field 'w'"),
    "datetime64": (np.array([DAY]), "got dates.*count days"),
    "datetime": ([datetime.datetime(2020, 1, 1)], "got dates"),
    "datetime column": (pd.DataFrame({"a": [1], "day": [DAY]}), "got dates in column 'day'"),
    "time zone": (pd.DataFrame({"day": pd.to_datetime(["2020-01-01"], utc=True)}), "got dates in column 'day'"),
    "datetime index": (pd.DatetimeIndex(["2020-01-01"]), "got dates"),
    "periods": (pd.Series(pd.period_range("2020", periods=2, freq="Y")), "got dates"),
    "categories of dates": (pd.Series(pd.to_datetime(["2020-01-01"])).astype("category"), "got dates"),
    "timedelta64": (np.array([1], dtype="m8[s]"), "got durations"),
    "timedelta column": (pd.DataFrame({"d": pd.to_timedelta([1], unit="s")}), "got durations in column 'd'"),
    "raw bytes": (np.zeros(2, dtype="V8"), "got raw bytes"),
    "field of arrays": (np.zeros(2, dtype=[("a", "f8", (3,))]), "an array in each entry of field 'a'"),
    "text field": (np.array([(1, "x")], dtype=[("a", "i4"), ("k", "U1")]), "got text in field 'k'"),
    "text": (np.array(["a", "b"]), r"got text \('a'\)"),
    "text among numbers": (pd.DataFrame({"a": [1], "kind": ["u"]}), r"got text \('u'\) in column 'kind'"),
    "texts among numbers": (
        pd.DataFrame({"a": [1], "kind": ["u"], "b": [2.0], "id": ["C1"]}),
        r"text in columns 'kind' \('u'\), 'id' \('C1'\). Leave them out: x.select_dtypes\('number'\)",
    ),
    "decimal commas": (pd.DataFrame({"a": [1], "v": ["6,5"]}), r"\('6,5'\) in column 'v'. .*decimal=','"),
    "decimal commas alone": (pd.DataFrame({"v": ["6,5", "7"]}), r"got text \('6,5'\). .*decimal=','"),
    "categories": (pd.DataFrame({"a": [1], "k": pd.Categorical(["u"])}), r"got text \('u'\) in column 'k'"),
    "dicts": ([{"a": 1}], "objects of type dict"),
    "set": ({1, 2}, "objects of type set"),
    "function": (len, "objects of type"),
    "nothing": (None, "got None"),
    "xarray without values": (xarray.Dataset({"a": ("n", [1.0])}), "got Dataset, which is none"),
    "path": ("plain.csv", "zoo.load_data"),
    "rows of unequal length, deeper": ([[[1, 2], [3]], [[1, 2], [3, 4]]], "expected rows of one length"),
    "unlike sequences": ([np.zeros((2, 2)), np.zeros((3, 3))], "expected rows of one length"),
    "too large a whole number": ([10**400], "beyond 1e308"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    value, says = REFUSED[name]
    with pytest.raises(ZooError, match=says) as caught:
        as_data(value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(
    array=numpy_strategies.arrays(
        st.one_of(
            numpy_strategies.boolean_dtypes(),
            numpy_strategies.integer_dtypes(),
            numpy_strategies.unsigned_integer_dtypes(),
            numpy_strategies.floating_dtypes(sizes=(16, 32, 64)),
        ),
        numpy_strategies.array_shapes(max_dims=3, max_side=4),
    ),
    data=st.data(),
)
def test_every_view_keeps_its_numbers(array: np.ndarray, data: st.DataObject) -> None:
    view = array[data.draw(numpy_strategies.basic_indices(array.shape, min_dims=1))]
    x = as_data(view)
    assert tuple(x.shape) == view.shape
    np.testing.assert_array_equal(x.double().numpy(), view.astype(np.float64))


# --- sequences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "expected", "lengths"),
    [
        ([[1, 2, 3], [4]], [[1, 2, 3], [4, 0, 0]], [3, 1]),
        ([np.array([1.0, 2.0]), np.array([3.0])], [[1, 2], [3, 0]], [2, 1]),
        ([torch.ones(2, 1), torch.ones(1, 1)], [[[1], [1]], [[1], [0]]], [2, 1]),
        ([[[1, 2], [3, 4]], [[5, 6]]], [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [2, 1]),
        ([pd.Series([1, 2]), pd.Series([3])], [[1, 2], [3, 0]], [2, 1]),
        ([[1, None], [3]], [[1, NAN], [3, 0]], [2, 1]),
        (np.array([np.array([1, 2]), np.array([3])], dtype=object), [[1, 2], [3, 0]], [2, 1]),
        ({"x": [[1, 2], [3]]}, [[1, 2], [3, 0]], [2, 1]),
    ],
)
def test_sequences_of_unequal_length_are_padded(x: Any, expected: Any, lengths: list[int]) -> None:
    data = as_data(x)
    np.testing.assert_array_equal(data["x"].double(), expected)
    assert data["lengths"].tolist() == lengths


def hmm(x: Any, **options: Any) -> zoo.Fit:
    return zoo.fit(zoo.GaussianHMM(2, 2, prior_strength=1.0), x, max_iter=5, **options)


def test_sequences_in_every_form_give_one_fit() -> None:
    """Padded, as a list, and one below the other with lengths, as hmmlearn has them."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(length, 2)) for length in (5, 9, 1, 7)]
    padded = np.zeros((4, 9, 2))
    for i, part in enumerate(parts):
        padded[i, : len(part)] = part
    lengths = [5, 9, 1, 7]
    fits = [
        hmm({"x": padded, "lengths": lengths}),
        hmm(parts),
        hmm([pd.DataFrame(part, columns=["a", "b"]) for part in parts]),
        hmm((np.concatenate(parts), lengths)),
        hmm({"x": np.concatenate(parts), "lengths": np.array(lengths)}),
    ]
    assert len({fit.log_likelihood for fit in fits}) == 1
    assert fits[2].columns == ("a", "b")
    assert fits[3].predict((np.concatenate(parts), lengths)).shape == (4, 9)
    x = np.array([0, 1, 1, 0, 1])
    model = zoo.CategoricalHMM(2, 2)
    padded_symbols = {"x": [[0, 1, 1], [0, 1, 0]], "lengths": [3, 2]}
    expected = zoo.fit(model, padded_symbols, init="current", max_iter=1).log_likelihood
    for form in ((x, [3, 2]), (x[:, None], [3, 2]), [[0, 1, 1], [0, 1]], ([[0, 1, 1], [0, 1, 0]], [3, 2])):
        assert zoo.fit(model, form, init="current", max_iter=1).log_likelihood == expected
    with pytest.raises(ZooError, match="lengths expected to add up to the"):
        hmm((np.concatenate(parts), [5, 9]))


def test_a_mixture_says_what_unequal_rows_are() -> None:
    with pytest.raises(ZooError, match=r"rows of 2 entries, got sequences of unequal length \(2, 1\)"):
        zoo.fit(zoo.GaussianMixture(2, 2), [[1.0, 2.0], [3.0]])


# --- symbols ----------------------------------------------------------------------------------------------------------

DNA = "ACGTTACGGACCA"


@pytest.mark.parametrize(
    "form",
    [
        str,
        list,
        lambda s: np.array(list(s)),
        lambda s: np.array(list(s))[:, None],
        lambda s: pd.Series(list(s)),
        lambda s: pd.DataFrame({"base": list(s)}),
        lambda s: pd.Categorical(list(s)),
        lambda s: [list(s)],
        lambda s: {"x": list(s)},
        lambda s: np.array([c.encode() for c in s]),
    ],
)
def test_symbols_are_coded_and_kept(form: Callable[[str], Any], tmp_path: Any) -> None:
    codes = torch.tensor([[*"ACGT"].index(c) for c in DNA])
    model = zoo.CategoricalHMM.from_data(form(DNA), num_states=2)
    assert model.num_symbols == 4
    fit = zoo.fit(model, form(DNA), max_iter=3)
    assert fit.symbols == ("A", "C", "G", "T")
    assert fit.log_likelihood == zoo.fit(zoo.CategoricalHMM(2, 4), codes, max_iter=3).log_likelihood
    fit.save(tmp_path / "a")
    loaded = zoo.load(tmp_path / "a")
    assert loaded.symbols == fit.symbols
    # The codes are those of the fit, not of the new data.
    assert loaded.score(form("TTGT")) == pytest.approx(fit.score(torch.tensor([3, 3, 2, 3])), abs=1e-12)
    with pytest.raises(ZooError, match="symbols of the fit, 'A', 'C', 'G', 'T', got 'N'"):
        loaded.score(form("ACN"))


def test_symbols_missing_and_of_unequal_length() -> None:
    x = [list("ACG"), ["A", None]]
    fit = zoo.fit(zoo.CategoricalHMM(2, 3), x, max_iter=2)
    assert fit.score(x) == pytest.approx(fit.score({"x": [[0.0, 1, 2], [0, NAN, 0]], "lengths": [3, 2]}), abs=1e-12)
    words = ["walk", "shop", "walk", "clean"]
    assert zoo.fit(zoo.CategoricalHMM(2, 3), words, max_iter=2).symbols == ("clean", "shop", "walk")


def test_a_categorical_brings_its_own_order() -> None:
    x = pd.Categorical(["low", "high", "low"], categories=["low", "mid", "high"])
    assert zoo.CategoricalHMM.from_data(x, num_states=2).num_symbols == 3
    fit = zoo.fit(zoo.CategoricalHMM(2, 3), x, max_iter=2)
    assert fit.symbols == ("low", "mid", "high")


def test_text_that_is_no_symbols() -> None:
    with pytest.raises(ZooError, match=r"symbols that recur, got 2 .* \[list\(s\) for s in x\]"):
        zoo.fit(zoo.CategoricalHMM(2, 4), ["ACGT", "GGCA"])
    with pytest.raises(ZooError, match=r"no file 'dna\.csv'"):
        zoo.fit(zoo.CategoricalHMM(2, 4), "dna.csv")
    with pytest.raises(ZooError, match=r"symbols 0, 1, 2, \.\.\., got 1e"):
        zoo.CategoricalHMM.from_data(torch.tensor([1e12, 0.0]), num_states=2)


# --- columns by name --------------------------------------------------------------------------------------------------


def test_columns_are_matched_by_name(tmp_path: Any) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(40, 2)) * [1, 50], columns=["height", "weight"])
    fit = zoo.fit(zoo.GaussianMixture(2, 2), frame, max_iter=5)
    assert fit.columns == ("height", "weight")
    fit.save(tmp_path / "a")
    turned = frame[["weight", "height"]]
    for each in (fit, zoo.load(tmp_path / "a")):
        assert each.score(turned) == each.score(frame) == each.score(frame.to_numpy())
        assert each.predict(turned).equal(each.predict(frame))
        assert each.posterior(turned).probs.equal(each.posterior(frame).probs)
        assert zoo.evaluate(each, turned).log_likelihood == zoo.evaluate(each, frame).log_likelihood
        assert each.score(turned.to_records(index=False)) == each.score(frame)
        with pytest.raises(ZooError, match="columns of the fit, 'height', 'weight', got no column 'weight'"):
            each.score(frame.rename(columns={"weight": "width"}))
        with pytest.raises(ZooError, match="got column 'age' too"):
            each.score(frame.assign(age=1.0))
    again = zoo.fit(fit.model, frame.rename(columns={"weight": "width"}), max_iter=1)  # a new fit, new names
    assert again.columns == ("height", "width")
    assert fit.columns == ("height", "weight")
    comparison = zoo.compare(zoo.GaussianMixture(2, 2), frame, estimators=["em"], gradients=False)
    assert comparison.best.columns == ("height", "weight")


def test_columns_of_a_pair() -> None:
    rng = np.random.default_rng(2)
    x, y = pd.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"]), pd.DataFrame({"c": rng.normal(size=30)})
    model = zoo.ConditionalVAE.from_data((x, y), latent_dim=1, likelihood="gaussian")
    fit = zoo.fit(model, (x, y), estimator="svi", max_epochs=1)
    assert fit.model.schema is not None
    assert fit.model.schema.columns == {"": ("a", "b"), "1": ("c",)}
    with pytest.raises(ZooError, match="got no column 'b'"):
        zoo.evaluate(fit, (x[["a"]], y), num_samples=2)


def test_frames_reach_programs_without_a_warning() -> None:
    frame = pd.DataFrame({"a": np.arange(6.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.fit(zoo.GaussianMixture(1, 1), frame, max_iter=2)


@pytest.mark.parametrize("value", [1e301, -1e308, 1e200])
def test_values_whose_squares_overflow_are_refused(value: float) -> None:
    x = torch.randn(20, 2, dtype=torch.float64)
    x[3, 1] = value
    for model in (zoo.GaussianMixture(2, 2), zoo.FactorAnalysis(1, 2), zoo.GaussianHMM(2, 2)):
        with pytest.raises(ZooError, match=r"data expected numbers up to 6e\+102, got .* in row"):
            zoo.fit(model, x)
