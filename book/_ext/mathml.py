"""Write equations into the page as MathML when the book is built: no script, no request, and screen readers read it.

Docutils translates the TeX. An equation that it cannot translate gives a warning, which is an error in a strict build.
"""

import html
import re
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

MATHML = "http://www.w3.org/1998/Math/MathML"
logger = logging.getLogger(__name__)


def to_mathml(tex: str, display: bool = False) -> str:
    r"""The `<math>` element of an equation: docutils' translation, tidied, without `align` and its like."""
    tex = re.sub(r"\\(begin|end)\{(align|gather|equation|split)\*?\}", "", tex).strip()
    if r"\operatorname*" in tex:
        raise MathError(r'"\operatorname*" is not supported')  # docutils would print the star
    markup = tex2mathml(tex, as_block=display).replace(f' xmlns="{MATHML}"', "").replace("&ApplyFunction;", "\u2061")
    tree = ElementTree.fromstring(markup)
    for element in tree.iter():
        _keep_bars_small(element)
        if element.tag == "msub" and element[0].tag == "munder":  # the label of an \underbrace
            element.tag = "munder"
    return ElementTree.tostring(tree, encoding="unicode")


def _keep_bars_small(parent: ElementTree.Element) -> None:
    r"""Keep bars from growing with what they enclose, except those of `\left` and `\right`, which end an `mrow`."""
    bars = [child for child in parent if child.tag == "mo" and child.text in ("|", "‖")]
    if parent.tag == "mrow" and len(bars) > 1 and parent[0] in bars and parent[-1] in bars:
        bars = bars[1:-1]
    for bar in bars:
        bar.attrib |= {"stretchy": "false", "lspace": "0", "rspace": "0"}


def _translated(node: nodes.Node, tex: str, display: bool) -> str:
    try:
        return to_mathml(tex, display)
    except (MathError, SyntaxError, AttributeError, IndexError) as error:  # docutils raises them all
        logger.warning("equation that docutils cannot translate: %s: %s", error, tex, location=node)
        return f"<code>{html.escape(tex)}</code>"


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """An equation within a line."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(_translated(node, node.astext(), display=False) + "</span>")
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    r"""An equation on its own, with the number in its `\tag`, or Sphinx's number if it has a label."""
    tex, *tags = re.split(r"\\tag\{(.*?)\}", node.astext(), maxsplit=1)
    equation = _translated(node, tex + "".join(tags[1:]), display=True)
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    self.body.append(f'<div class="equation">{equation}</div>')
    number = tags[0] if tags else node["number"] and get_node_equation_number(self, node)
    if number:
        self.body.append(f'<span class="eqno">({number})')
        if node["number"]:
            self.add_permalink_ref(node, _("Link to this equation"))
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer that `html_math_renderer: mathml` selects."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
