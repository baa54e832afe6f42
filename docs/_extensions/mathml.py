"""Formulae as MathML, which browsers draw by themselves: no script, no network, no picture."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def spaced(text: str) -> str:
    """With the thin space after a function's name that TeX sets and the converter leaves out."""
    return re.sub(r"\\(ln|exp|log|arg|max)(?![A-Za-z_({\\])", r"\\\1\\,", text)


def mathml(text: str, display: str = "inline") -> str:
    """The converter makes a name of the relation that is read "is drawn from": without the spaces of a relation."""
    return str(convert(spaced(text), display=display)).replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")


def inline(visitor: Any, node: nodes.math) -> None:
    visitor.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def displayed(visitor: Any, node: nodes.math_block) -> None:
    text = node.astext().replace("{aligned}", "{align*}")  # the converter knows one of the two
    if "\\\\" in text and "\\begin" not in text:
        text = rf"\begin{{align*}}{text}\end{{align*}}"
    visitor.body.append(f'<div class="formula">{mathml(text, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
