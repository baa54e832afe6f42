"""Compiled inside and outside passes of ``tree_dense.py``: plain Python that numba compiles at the first call.

Spans are taken some rows at a time: their products of parts, (rows, A, W), stay in a near cache until the rules have
used them. The innermost loops run over W numbers, A and zeros up to a whole number of cache lines, and eight terms of a
sum at once, as loads and stores decide.

Shapes, of N items of at most T words: lengths (N,), begins, back (N, T, T + 1, W), scales (N, T, T + 1), left, right,
back_left, back_right (N, T, A, W), pairs, back_pairs (N, T, W); see ``tree_dense.Charts``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from zoo.core.exponential import compiled_exp
from zoo.core.exponential import exp_in_place as _exp
from zoo.core.parallel import compiled

#: Spans that are worked on at a time.
ROWS = 32
#: Columns of a wide table that are worked on at a time.
CHUNK = 128
#: ln 1e-75: a product of four numbers that are no smaller is no zero.
SMALL = -172.69388197455342


def _add_products(
    out: Any, o: int, step: int, x: Any, a: int, row: int, column: int, y: Any, b: int, stride: int, rows: int,
    depth: int, width: int,
) -> None:  # fmt: skip
    """out[r, j] += sum_k x[r, k] y[k, j]: tables within flat arrays, by where they begin and how far entries are apart.

    Rows of ``out`` and ``y`` are contiguous. Four rows and four terms at once: entries of y are read, and sums written,
    a quarter as often.
    """
    head = depth % 4
    for _ in range(0, rows - 3, 4):
        p, q = out[o : o + width], out[o + step : o + step + width]
        s, t = out[o + 2 * step : o + 2 * step + width], out[o + 3 * step : o + 3 * step + width]
        for k in range(head):
            i = a + k * column
            x0, x1, x2, x3 = x[i], x[i + row], x[i + 2 * row], x[i + 3 * row]
            y0 = y[b + k * stride : b + k * stride + width]
            for j in range(width):
                u = y0[j]
                p[j] += x0 * u
                q[j] += x1 * u
                s[j] += x2 * u
                t[j] += x3 * u
        for k in range(head, depth, 4):
            i = a + k * column
            p0, p1, p2, p3 = x[i], x[i + column], x[i + 2 * column], x[i + 3 * column]
            i += row
            q0, q1, q2, q3 = x[i], x[i + column], x[i + 2 * column], x[i + 3 * column]
            i += row
            s0, s1, s2, s3 = x[i], x[i + column], x[i + 2 * column], x[i + 3 * column]
            i += row
            t0, t1, t2, t3 = x[i], x[i + column], x[i + 2 * column], x[i + 3 * column]
            i = b + k * stride
            y0, y1 = y[i : i + width], y[i + stride : i + stride + width]
            i += 2 * stride
            y2, y3 = y[i : i + width], y[i + stride : i + stride + width]
            for j in range(width):
                u0, u1, u2, u3 = y0[j], y1[j], y2[j], y3[j]
                p[j] += (p0 * u0 + p1 * u1) + (p2 * u2 + p3 * u3)
                q[j] += (q0 * u0 + q1 * u1) + (q2 * u2 + q3 * u3)
                s[j] += (s0 * u0 + s1 * u1) + (s2 * u2 + s3 * u3)
                t[j] += (t0 * u0 + t1 * u1) + (t2 * u2 + t3 * u3)
        o += 4 * step
        a += 4 * row
    for _ in range(rows % 4):
        p = out[o : o + width]
        for k in range(head):
            x0, y0 = x[a + k * column], y[b + k * stride : b + k * stride + width]
            for j in range(width):
                p[j] += x0 * y0[j]
        for k in range(head, depth, 4):
            i = a + k * column
            p0, p1, p2, p3 = x[i], x[i + column], x[i + 2 * column], x[i + 3 * column]
            i = b + k * stride
            y0, y1 = y[i : i + width], y[i + stride : i + stride + width]
            i += 2 * stride
            y2, y3 = y[i : i + width], y[i + stride : i + stride + width]
            for j in range(width):
                p[j] += (p0 * y0[j] + p1 * y1[j]) + (p2 * y2[j] + p3 * y3[j])
        o += step
        a += row


def _spans(lengths: Any, low: int, high: int, w: int, items: Any, places: Any) -> int:
    """The spans of w words of items low..high; their number."""
    count = 0
    for n in range(low, high):
        for i in range(lengths[n] - w + 1):
            items[count], places[count] = n, i
            count += 1
    return count


def _cuts(scales: Any, n: int, i: int, w: int, logs: Any) -> float:
    """Into logs[v] the scale of the product of a span's first v words and the rest; the largest, 0 if all are -inf."""
    top = -np.inf
    for v in range(1, w):
        logs[v] = scales[n, i, v] + scales[n, i + v, w - v]
        top = logs[v] if not logs[v] <= top else top  # NaN stays
    return 0.0 if top == -np.inf else top


def _weigh(logs: Any, level: float, w: int) -> bool:
    """exp(logs - level) in place; whether something small was among them."""
    small = False
    for v in range(1, w):
        logs[v] -= level
        small |= logs[v] < SMALL and logs[v] > -np.inf
    _exp(logs[1:w], w - 1)
    return small


def _join(
    begins: Any, start: int, steps: int, w: int, weights: Any, second: Any, joined: Any, o: int, width: int
) -> None:
    """joined[o..] (W, W), [b, c]: the products of both parts of a span, summed over the cuts between nonterminals.

    ``start`` is where the span's words begin in ``begins``. ``second`` becomes the right parts, weighted. w > 3.
    """
    row = (steps + 1) * width
    for v in range(2, w - 1):
        at = start + v * row + (w - v) * width
        part, other, weight = begins[at : at + width], second[(v - 2) * width : (v - 1) * width], weights[v]
        for j in range(width):
            other[j] = weight * part[j]
    table = joined[o : o + width * width]
    for j in range(width * width):
        table[j] = 0.0
    _add_products(joined, o, width, begins, start + 2 * width, 1, width, second, 0, width, width, w - 3, width)


def inside_kernel(
    rules: Any, rule_scale: float, size: int, lengths: Any, low: int, high: int, left: Any, right: Any, pairs: Any,
    begins: Any, scales: Any, suspect: Any,
) -> None:  # fmt: skip
    """Fills begins and scales of items low..high from two words on; ``rules`` (A, W, W) is [b, c, a].

    ``left``, ``right``, ``begins`` and ``rules`` come flat.
    """
    steps, width = pairs.shape[1], pairs.shape[2]
    longest, most = 1, 0
    for n in range(low, high):
        longest, most = max(longest, lengths[n]), most + lengths[n]
    items, places = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    logs = np.empty(longest + 1)
    square = width * width
    second, side = np.empty(longest * width), np.empty(width)
    joined, total, tops = np.zeros(ROWS * square), np.zeros(ROWS * width), np.empty(ROWS)
    for w in range(2, longest + 1):
        count = _spans(lengths, low, high, w, items, places)
        for first in range(0, count, ROWS):
            rows = min(ROWS, count - first)
            for r in range(rows):
                n, i = items[first + r], places[first + r]
                tops[r] = _cuts(scales, n, i, w, logs)
                row = total[r * width : (r + 1) * width]
                for j in range(width):
                    row[j] = pairs[n, i, j] if w == 2 else 0.0
                if w == 2:
                    continue
                suspect[n] |= _weigh(logs, tops[r], w)
                start = (n * steps + i) * (steps + 1) * width
                at = start + (steps + w) * width
                for j in range(width):
                    side[j] = logs[1] * begins[at + j]
                at = (n * steps + i) * size * width
                _add_products(total, r * width, width, side, 0, 0, 1, left, at, width, 1, size, width)
                at = start + (w - 1) * width
                for j in range(width):
                    side[j] = logs[w - 1] * begins[at + j]
                at = (n * steps + i + w - 1) * size * width
                _add_products(total, r * width, width, side, 0, 0, 1, right, at, width, 1, size, width)
                if w > 3:
                    _join(begins, start, steps, w, logs, second, joined, r * square, width)
            if w > 3:
                up = (rows + 3) // 4 * 4  # others are of no consequence
                for b in range(size):
                    at = b * square
                    _add_products(total, 0, width, joined, b * width, square, 1, rules, at, width, up, size, width)
            for r in range(rows):
                n, i = items[first + r], places[first + r]
                start = ((n * steps + i) * (steps + 1) + w) * width
                row, made = total[r * width : (r + 1) * width], begins[start : start + width]
                top, odd = 0.0, False
                for j in range(width):
                    top = row[j] if not row[j] <= top else top  # NaN stays
                level = tops[r]
                if 0.0 < top < 1e-300:  # below 5e-309 a number has no inverse
                    level, top = level - math.log(1e300), top * 1e300
                    for j in range(width):
                        row[j] *= 1e300
                inverse = 1.0 / top if top > 0.0 else 1.0
                for j in range(width):
                    made[j] = row[j] * inverse
                    odd |= 0.0 < made[j] < 1e-75
                suspect[n] |= odd
                scales[n, i, w] = level + math.log(top) + rule_scale if top > 0.0 else -np.inf


def outside_kernel(
    rules: Any, rule_scale: float, size: int, lengths: Any, low: int, high: int, left: Any, right: Any, begins: Any,
    scales: Any, back: Any, back_left: Any, back_right: Any, back_pairs: Any, counts: Any,
) -> None:  # fmt: skip
    """Adds to the adjoints of items low..high, and to the counts of the rules; both (W, A, W), [a, b, c].

    ``back`` comes with the adjoints of whole sentences. All but scales and pairs come flat.
    """
    steps, width = back_pairs.shape[1], back_pairs.shape[2]
    longest, most = 1, 0
    for n in range(low, high):
        longest, most = max(longest, lengths[n]), most + lengths[n]
    items, places = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    weights = np.empty((ROWS, longest + 1))
    square, table = width * width, size * width
    second, moved, turned = np.empty(longest * width), np.empty(longest * width), np.zeros(square)
    joined, grown, here = np.zeros(ROWS * square), np.zeros(ROWS * square), np.zeros(ROWS * width)
    for w in range(longest, 1, -1):
        count = _spans(lengths, low, high, w, items, places)
        for first in range(0, count, ROWS):
            rows = min(ROWS, count - first)
            for r in range(rows):
                n, i = items[first + r], places[first + r]
                start = (n * steps + i) * (steps + 1) * width
                own, row = back[start + w * width : start + (w + 1) * width], here[r * width : (r + 1) * width]
                _cuts(scales, n, i, w, weights[r])
                level = scales[n, i, w] - rule_scale
                _weigh(weights[r], np.inf if level == -np.inf else level, w)
                for j in range(width):
                    row[j] = own[j]
                if w == 2:
                    for j in range(width):
                        back_pairs[n, i, j] = row[j] * weights[r, 1]
                    continue
                at, other = (n * steps + i) * table, start + (steps + w) * width
                _back_side(row, weights[r, 1], left, back_left, at, begins, back, other, size)
                at, other = (n * steps + i + w - 1) * table, start + (w - 1) * width
                _back_side(row, weights[r, w - 1], right, back_right, at, begins, back, other, size)
                if w > 3:
                    _join(begins, start, steps, w, weights[r], second, joined, r * square, width)
            if w <= 3:
                continue
            for j in range(rows * square):
                grown[j] = 0.0
            up = (rows + 3) // 4 * 4
            for b in range(0, table, CHUNK):
                wide = min(CHUNK, table - b)
                _add_products(counts, b, table, here, 0, 1, width, joined, b, square, width, rows, wide)
                _add_products(grown, b, square, here, 0, width, 1, rules, b, table, up, size, wide)
            for r in range(rows):
                n, i = items[first + r], places[first + r]
                start = (n * steps + i) * (steps + 1) * width
                _back_parts(begins, back, start, steps, w, weights[r], grown, r * square, turned, moved, size, width)


def _back_side(
    here: Any, weight: float, table: Any, back_table: Any, at: int, begins: Any, back: Any, start: int, size: int
) -> None:
    """From the adjoint of a span to those of one of its parts and of the table (A, W) at ``at`` that has the other."""
    width = len(here)
    for c in range(size):
        row, other = table[at : at + width], back_table[at : at + width]
        scaled, found = begins[start + c] * weight, 0.0
        for j in range(width):
            found += row[j] * here[j]
            other[j] += scaled * here[j]
        back[start + c] += weight * found
        at += width


def _back_parts(
    begins: Any, back: Any, start: int, steps: int, w: int, weights: Any, grown: Any, o: int, turned: Any, moved: Any,
    size: int, width: int,
) -> None:  # fmt: skip
    """From the adjoint of the products of both parts, (W, W) at ``o`` of grown, to those of the parts; w > 3."""
    for b in range(size):
        for c in range(size):
            turned[c * width + b] = grown[o + b * width + c]
    row, cuts = (steps + 1) * width, w - 3
    for j in range(cuts * width):
        moved[j] = 0.0
    # Right parts begin a row further each, and are a word shorter.
    at = start + 2 * row + (w - 2) * width
    _add_products(moved, 0, width, begins, at, row - width, 1, turned, 0, width, cuts, size, width)
    for v in range(2, w - 1):
        at = start + v * width
        own, other, weight = back[at : at + width], moved[(v - 2) * width : (v - 1) * width], weights[v]
        for j in range(width):
            own[j] += weight * other[j]
            other[j] = 0.0
    _add_products(moved, 0, width, begins, start + 2 * width, width, 1, grown, o, width, cuts, size, width)
    for v in range(2, w - 1):
        at = start + v * row + (w - v) * width
        own, other, weight = back[at : at + width], moved[(v - 2) * width : (v - 1) * width], weights[v]
        for j in range(width):
            own[j] += weight * other[j]


@functools.lru_cache(maxsize=1)
def compile_kernels() -> None:
    """Replaces the kernels by numba's."""
    names = globals()
    names["_exp"] = compiled_exp()
    inner = ("_add_products", "_spans", "_cuts", "_weigh", "_join", "_back_side", "_back_parts")
    compiled(names, (*inner, "inside_kernel", "outside_kernel"))
