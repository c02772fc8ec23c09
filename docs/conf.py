"""Sphinx's settings; `docs/make_site.py` writes the pages that are read here."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
settings = ConfigParser()
settings.read(HERE.parent / "settings.ini", encoding="utf-8")

project, author = "uda_kit", settings["DEFAULT"]["author"]
version = release = settings["DEFAULT"]["version"]
project_copyright = f"{author}, Apache-2.0"
extensions = ["myst_nb", "mathml"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["**/.ipynb_checkpoints"]
language = "en"

nb_execution_mode = "off"
nb_merge_streams = True
nb_number_source_lines = False
nb_code_prompt_show = "Imports"
nb_code_prompt_hide = "Imports"
myst_enable_extensions = ["colon_fence", "dollarmath", "attrs_inline", "deflist"]
myst_heading_anchors = 3
myst_dmath_allow_labels = False
suppress_warnings = ["mystnb.unknown_mime_type"]

add_module_names = False
python_maximum_signature_line_length = 76
python_trailing_comma_in_multi_line_signatures = False
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"
highlight_language = "default"

html_theme = "furo"
html_title = f"uda_kit {version}"
html_math_renderer = "mathml"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_js_files = ["recipes.js"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2a6f97", "color-brand-content": "#2a6f97"},
    "dark_css_variables": {"color-brand-primary": "#7fb8dc", "color-brand-content": "#7fb8dc"},
    "navigation_with_keys": False,
    "footer_icons": [],
}
pygments_style, pygments_dark_style = "friendly", "native"

TYPES = re.compile(r"^(py:)?(class|exc|data)$")


def resolve(app, env, node, contnode):
    "A type in a signature: a name of the kit by its short name, any other type without a link. Prose has to be right."
    if node.get("refdomain") != "py":
        return None
    short = node["reftarget"].rpartition(".")[2]
    if not TYPES.match(node["reftype"]):
        return None
    target = env.domains["py"].objects.get(f"uda_kit.{short}")
    if target is None:
        return contnode
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], target.docname, target.node_id, contnode, f"uda_kit.{short}")


def setup(app):
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
