"""The site: pages from notebooks, the table of recipes, the API reference, and what Sphinx refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("myst_nb")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import make_site  # noqa: E402
import mathml  # noqa: E402
import notebooks  # noqa: E402
import records  # noqa: E402
import reference  # noqa: E402

from uda_kit.core.errors import InputError, expect_error  # noqa: E402


def code(text, *outputs, id="a0000001"):
    return {
        "cell_type": "code",
        "id": id,
        "metadata": {},
        "source": text,
        "outputs": list(outputs),
        "execution_count": None,
    }


def prose(text, id="a0000000"):
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": text}


def book(*cells):
    return {
        "cells": [prose("# A title\n\n> What it computes."), *cells],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    return {"output_type": "display_data", "metadata": {}, "data": {k.replace("_", "/", 1): v for k, v in data.items()}}


@pytest.fixture(scope="module")
def site():
    found = notebooks.survey(ROOT / "nbs")
    found.objects = reference.documented(reference.public_names(ROOT / "uda_kit" / "__init__.pyi"))
    return found


# --- notebooks ----------------------------------------------------------------------------------------------------


NOT_RUN = ["print(1)", "x = 1\ndisplay(x)", "import numpy\nx = 3\nx", "{k: 1 for k in 'ab'}", "Table(a, b)"]
NOT_RUN += [
    "for k in 'ab':\n    print(k)",
    "ax.imshow(picture)\nax.axis('off')",
    "recorded('x')",
]  # where nothing else is shown


@pytest.mark.parametrize("text", NOT_RUN)
def test_a_notebook_that_was_not_run_is_refused(text):
    message = expect_error(notebooks.check_executed, book(code(text)), "data/05_new")
    assert "nbs/data/05_new.ipynb" in message and "has not been executed" in message and "make notebooks" in message


@pytest.mark.parametrize(
    "text", ["x = 1", "if x:\n    print(x)", "assert x", "#| hide\nprint(1)", "print(1, file=f)", "x;"]
)
def test_cells_that_need_not_show_anything(text):
    notebooks.check_executed(book(code("x", printed("3")), code(text)), "data/05_new")


def test_a_notebook_that_only_asserts_has_nothing_to_show():
    notebooks.check_executed(book(code("#| export\ndef f():\n    print(1)"), code("test_eq(f(), None)")), "data/05_new")


def test_a_cell_that_ended_in_an_error_is_refused():
    failed = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    assert "ended in an error" in expect_error(notebooks.check_executed, book(code("f()", failed)), "x")


def test_every_notebook_of_the_kit_has_been_run(site):
    for name in site.books:
        notebooks.check_executed(json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8")), name)


def test_a_notebook_without_a_title_is_refused():
    assert "title" in expect_error(notebooks.title, {"cells": [prose("text")]}, "x")


def test_outputs_without_codes_warnings_and_bars():
    clean = notebooks.clean_output
    assert clean(printed("\x1b[31mred\x1b[0m\n"), "x")["text"] == "red\n"
    assert clean(printed("UserWarning: old\n", "stderr"), "x") is None
    assert clean(printed("adapt:   0%|          | 0/100 [00:00<?, ?it/s]"), "x") is None
    assert clean(printed("wrote /tmp/tmpabc123/a.png"), "x")["text"] == "wrote /tmp/…/a.png"
    assert clean(shown(**{"application_vnd.jupyter.widget-view+json": "{}"}), "x") is None
    assert clean(shown(text_plain="<Figure size 1x1>", image_png="aa"), "x")["data"] == {"image/png": "aa"}
    assert clean(shown(image_png="aaaa", image_jpeg="aa"), "x")["data"] == {"image/jpeg": "aa"}
    assert "names" in expect_error(clean, printed("/home" + "/ann/data/a.png"), "x")
    assert clean(printed("uda-kit train --roots gta5=/data/gta5"), "x")  # an example, no machine's


def test_cells_of_a_page(site):
    cells = (code("#| hide\nsecret()"), code("#| default_exp a.b"), code("#| exporti\ndef f(): pass", id="a0000002"))
    page = notebooks.page(book(*cells, code("#| slow\nprint(f())", printed("None"), id="a0000003")), "data/x", site)
    texts = [cell["source"] for cell in page["cells"]]
    assert texts[1:] == ["def f(): pass", "print(f())"]
    assert [cell["metadata"].get("tags") for cell in page["cells"][1:]] == [["export"], []]
    assert "nbs/data/x.ipynb" in texts[0]


def test_prose_leads_to_the_reference_and_to_notebooks(site):
    linked = notebooks.link_code("`evaluate` of `methods/86_classmix`, `x`", "training/40_fit", site)
    assert "{py:obj}`evaluate <uda_kit.evaluate>`" in linked and "(/methods/86_classmix.ipynb)" in linked
    assert linked.endswith("`x`")
    assert "(/methods/82_teacher.ipynb)" in notebooks.link_code("`82_teacher`", "papers/contrastive", site)
    assert (
        notebooks.link_code("`86_classmix`", "methods/82_teacher", site)
        == "[`86_classmix`](/methods/86_classmix.ipynb)"
    )
    for text in ("# The `evaluate` of a title", "```\n`evaluate`\n```", "[`evaluate`](x.ipynb)", "``evaluate``"):
        assert notebooks.link_code(text, "training/40_fit", site) == text
    assert notebooks.link_code("`evaluate`", "cli/40_evaluate", site) == "`evaluate`"  # the command


@pytest.mark.parametrize(
    "long, short",
    [
        ("ClassMix: paste half of the source's classes onto the target (DACS)", "ClassMix"),
        ("Reproduction: patch-level alignment", "Patch-level alignment"),
        ("Masked image consistency (MIC)", "Masked image consistency (MIC)"),
        ("Command `train`", "Command train"),
    ],
)
def test_short_titles(long, short):
    assert notebooks.short_title(long) == short


# --- reference ----------------------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name(site):
    names = reference.public_names(ROOT / "uda_kit" / "__init__.pyi")
    pages = "\n".join(reference.pages(names, site).values())
    for name in names:
        assert re.search(rf"^:{{3,4}}{{py:(class|function|data)}} uda_kit\.{name}\b", pages, re.M), name
        assert f"#{reference.label(name)})" in pages
    assert "Annotated" not in pages and "msgspec" not in pages and " object at 0x" not in pages


def test_signatures_read_as_they_are_written():
    from uda_kit import ConfusionMatrix, OutputSpaceTerms, evaluate

    assert reference.head("evaluate", evaluate).startswith(
        "evaluate(net: Segmenter, dataset: Dataset, size: tuple[int, int]"
    )
    assert reference.head("evaluate", evaluate).endswith("-> Evaluation")
    assert reference.head("C", ConfusionMatrix).startswith("C(num_classes: int, ignore: int = 255")
    assert "adv: float = 0.001" in reference.head("O", OutputSpaceTerms)
    rows = dict(reference.meanings(OutputSpaceTerms))
    assert rows["`adv_aux`"].startswith("lambda\\_adv of the auxiliary level")


# --- recipes and results ------------------------------------------------------------------------------------------


def test_every_recipe_has_a_row_with_all_columns():
    from uda_kit.recipes.catalogue import recipes

    page = records.recipes_page(ROOT / "results")
    rows = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            name, *cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip("| "))]
            rows[name.strip("`")] = cells
    assert rows.keys() == recipes().keys() and all(len(cells) == 6 and all(cells) for cells in rows.values())
    paper, table, data, published, measured, command = rows["gta5/multi-level"]
    assert "Table 1: Ours (multi-level)" in table and data == "GTA5 → Cityscapes" and published == "42.4 (T1 T2)"
    assert measured == "–" and command == "`uda-kit train gta5/multi-level --roots gta5=FOLDER cityscapes=FOLDER`"
    assert re.fullmatch(r"31\.1 ± 0\.9 \(n=3\)", rows["scenes/multi-level"][4]) and rows["scenes/multi-level"][3] == "–"


def test_printed_numbers_are_those_of_the_rows_that_recipes_name():
    from uda_kit.recipes.catalogue import recipes

    for recipe in recipes().values():
        tables = [row for row in recipe.rows if "Table" in row]  # figures print no numbers
        assert bool(records.printed(recipe)) >= bool(tables), recipe.name
    assert records.published_cell(recipes()["gta5/vgg-oracle"]) == "61.8 (T2)"


def test_results_of_an_unknown_benchmark_are_refused(tmp_path):
    (tmp_path / "mars_output_space.csv").write_text("a\n", encoding="utf-8")
    assert "mars_output_space.csv" in expect_error(records.result_files, tmp_path)


# --- Sphinx -------------------------------------------------------------------------------------------------------


def sphinx(source, texts):
    "Status and complaints of a small site."
    for name, text in texts.items():
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", ROOT / "docs", "-d", source.parent / "cache"]
    strict = ["-n", "-W", "--keep-going", "-q", source, source.parent / "site"]
    done = subprocess.run([str(w) for w in command + strict], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


TREE = "\n\n```{toctree}\nother\n```\n"


def test_a_sound_site_is_built_with_formulas_and_nothing_from_elsewhere(source):
    texts = {
        "index.md": "# A\n\n[to B](other.md) and $\\frac{a}{b}$" + TREE,
        "other.md": "# B\n\n## UMAP of features\n",
    }
    status, complaints = sphinx(source, texts)
    assert status == 0, complaints
    page = (source.parent / "site" / "index.html").read_text(encoding="utf-8")
    assert "<mfrac>" in page and not re.search(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(?:https?:)?//', page)
    assert 'href="other.html"' in page


WRONG = {
    "[gone](nowhere.ipynb)": "nowhere.ipynb",
    "[gone](#nothing-there)": "nothing-there",
    "{py:obj}`uda_kit.neither`": "uda_kit.neither",
    "![picture](gone.png)": "gone.png",
    "(twice)=\n## C\n\n(twice)=\n## D": "twice",
    "$\\frac{a$": "a brace is missing",
    "$\\nosuch x$": "\\nosuch is unknown",
}


def test_what_is_broken_is_refused(source):
    "Each page has one mistake, and each mistake is named with its page."
    pages = {f"page{k}": f"# Page {k}\n\n{wrong}\n" for k, wrong in enumerate(WRONG)}
    tree = "\n\n```{toctree}\n" + "\n".join([*pages, "untitled"]) + "\n```\n"
    texts = {f"{name}.md": text for name, text in pages.items()}
    status, complaints = sphinx(source, {"index.md": "# A" + tree, "untitled.md": "no title\n", **texts})
    assert status != 0
    for page, complaint in zip(pages, WRONG.values(), strict=True):
        assert any(f"{page}.md" in line and complaint in line for line in complaints.splitlines()), complaint
    assert "untitled" in complaints and "title" in complaints


def test_formulas():
    assert re.sub("<[^>]*>", "", mathml.mathml(r"\arg\max_c s_c", False)) == "argmaxcsc"
    assert "<msub>" in mathml.mathml("x_i", False) and 'display="block"' in mathml.mathml("x", True)


def test_the_command_names_the_notebook(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise InputError("nbs/a.ipynb", "has not been executed", "run it")

    monkeypatch.setattr(make_site, "prepare", refused)
    monkeypatch.setattr(sys, "argv", ["make_site.py", "--out", str(tmp_path / "site")])
    assert make_site.main() == 2
    assert "nbs/a.ipynb: has not been executed" in capsys.readouterr().err and not (tmp_path / "site").exists()


# --- the whole site, where `make docs` has built it ----------------------------------------------------------------

SITE = ROOT / "build" / "site"
built = pytest.mark.skipif(not (SITE / "searchindex.js").exists(), reason="make docs has not been run")


@pytest.fixture(scope="module")
def index():
    text = (SITE / "searchindex.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))


def titled(index, *words):
    "Pages that have all words in a title."
    pages = None
    for word in words:
        hits = index["titleterms"].get(word, [])
        pages = set(hits if isinstance(hits, list) else [hits]) & (pages if pages is not None else set(range(9999)))
    return {index["docnames"][page] for page in pages}


@built
@pytest.mark.parametrize(
    "words, page",
    [
        (("umap",), "visual/60_embedding"),
        (("confus", "matrix"), "evaluation/10_metrics"),
        (("classmix",), "methods/86_classmix"),
        (("resum",), "training/40_fit"),
        (("slurm",), "training/35_devices"),
    ],
)
def test_search_finds(index, words, page):
    assert page in titled(index, *words)


@built
def test_the_site_takes_nothing_from_elsewhere():
    taken = re.compile(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]*)')
    for file in SITE.rglob("*.html"):
        assert not taken.findall(file.read_text(encoding="utf-8")), file
    for file in SITE.rglob("*.css"):
        assert "url(http" not in file.read_text(encoding="utf-8"), file


@built
def test_pages_show_no_directives():
    for file in SITE.rglob("*.html"):
        text = re.sub(r"<[^>]+>", "", file.read_text(encoding="utf-8"))
        assert not re.search(r"^#\| *(?:export|exporti|default_exp|hide|slow)\b", text, re.M), file
        assert "\x1b" not in text, file


def test_pages_whose_source_is_gone_are_deleted(tmp_path):
    source, out = tmp_path / "source", tmp_path / "site"
    for file in (source / "a.md", source / "b" / "c.ipynb", *(out / name for name in PAGES)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    make_site.drop_old_pages(source, out)
    left = {file.relative_to(out).as_posix() for file in out.rglob("*.html")}
    assert left == set(PAGES) - {"old.html", "b/old.html"}


PAGES = ("a.html", "b/c.html", "search.html", "genindex.html", "_modules/x.html", "old.html", "b/old.html")
