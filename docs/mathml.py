"""Formulas as MathML, which browsers draw without a script and without a font from elsewhere."""

import html
import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(formula: str, display: bool, place: object = None) -> str:
    "A formula of LaTeX as MathML; what cannot be read is a warning, and shown as it was written."
    try:
        known = re.sub(r"\\arg(?![a-zA-Z])", r"\\mathrm{arg}\\,", formula.strip())  # the converter lacks it
        return checked(convert(known, display="block" if display else "inline"), formula)
    except Exception as error:
        logger.warning("formula %r: %s", formula, error or type(error).__name__, location=place)
        return f"<code>{html.escape(formula)}</code>"


def checked(written: str, formula: str) -> str:
    "The MathML of a formula. `ValueError` for what the converter takes in silence."
    braces = re.sub(r"\\[{}]", "", formula)
    if braces.count("{") != braces.count("}"):
        raise ValueError("a brace is missing")
    if left := re.search(r"\\[a-zA-Z]+", html.unescape(re.sub(r"<[^>]*>", " ", written))):
        raise ValueError(f"{left[0]} is unknown")
    return written


def inline(self, node):
    self.body.append(mathml(node.astext(), False, node))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<div class="formula">{mathml(re.sub(r"^&|&$", "", node.astext()), True, node)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
