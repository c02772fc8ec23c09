"""Formulas as MathML, which browsers draw without a script and without a font from elsewhere."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(formula: str, display: bool, place: object = None) -> str:
    "A formula of LaTeX as MathML; what cannot be read is a warning, and shown as it was written."
    try:
        return convert(formula.strip(), display="block" if display else "inline")
    except Exception as error:
        logger.warning("formula %r: %s", formula, error or type(error).__name__, location=place)
        return f"<code>{nodes.unescape(formula)}</code>"


def inline(self, node):
    self.body.append(mathml(node.astext(), False, node))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<div class="formula">{mathml(re.sub(r"^&|&$", "", node.astext()), True, node)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
