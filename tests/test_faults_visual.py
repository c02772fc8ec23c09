"""Figures, reports and explorers given what the world gives them: names that are markup or formulas, tensors of any kind, files of other shapes."""

import dataclasses
import json
import math
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from refusals import one_line, refused

from uda_kit.core.errors import InputError, expect_error
from uda_kit.core.files import WriteError
from uda_kit.core.tables import Table, html_text, markdown_text
from uda_kit.data.labels import LabelSpace
from uda_kit.data.streets.dataset import StreetScenes
from uda_kit.data.streets.style import CAMERA, RENDERED
from uda_kit.evaluation import curves
from uda_kit.evaluation import report as reports
from uda_kit.evaluation.scores import Evaluation
from uda_kit.models.segmenters import deeplab_v2
from uda_kit.visual import embedding, mode_panels, panels, plots, style
from uda_kit.visual.drawing import Drawing
from uda_kit.visual.embedding import embed
from uda_kit.visual.explorers import (
    AlignmentExplorer,
    AttentionExplorer,
    LabelExpansionExplorer,
    MixExplorer,
    PatchClusterExplorer,
    SceneExplorer,
    TrainingExplorer,
)
from uda_kit.visual.features import FeatureTable

HOSTILE = (
    r"$\frac{$",
    "<script>alert(1)</script>",
    "a|b`c`",
    "[x](javascript:alert(1))",
    "![](http://evil/x.png)",
    "道路",
    "כביש",
    "_under",
    "x" * 300,
    "two\nlines",
    "\x1b[31mred",
    "</details>",
    "all",
)
SPACE = LabelSpace(
    "hostile", tuple(name for name in HOSTILE if name.isprintable())
)  # a label space takes no control codes


def evaluation(seed: int = 0) -> Evaluation:
    "Counts of the hostile classes, diagonal by far."
    C = len(SPACE)
    counts = np.random.default_rng(seed).integers(0, 50, (C, C)) + 300 * np.eye(C, dtype=int)
    return Evaluation(
        "<b>evil</b>|x",
        "v$al",
        SPACE,
        tuple(range(C)),
        tuple(map(tuple, counts.tolist())),
        "x`y",
        C,
        "m<i>",
        None,
        3,
        1.0,
    )


def table(n: int = 40, domains=("source", "target"), space: LabelSpace = SPACE, seed: int = 0) -> FeatureTable:
    "Features around one center for each class."
    rng = np.random.default_rng(seed)
    ids = np.arange(n) % len(space)
    features = (rng.normal(size=(len(space), 6))[ids] * 3 + rng.normal(size=(n, 6))).astype(np.float32)
    domain = np.array([domains[k % len(domains)] for k in range(n)])
    zeros = np.zeros(n, np.int64)
    return FeatureTable(features, ids, ids, domain, zeros, np.full(n, "a"), np.stack((zeros, zeros), 1), space)


# Pictures


def test_a_figure_is_shown_once_with_and_without_the_inline_backend():
    import nbclient
    import nbformat

    cells = [
        "from uda_kit.visual.style import axes_or_new, new_figure\ndef drawn():\n    f = new_figure(2, 1)\n    f.add_subplot()\n    return f",
        "axes_or_new(None, 2, 1)",
        "drawn()",
        "%matplotlib inline",
        "axes_or_new(None, 2, 1)",
        "drawn()",
        "from matplotlib_inline.backend_inline import set_matplotlib_formats\nset_matplotlib_formats('jpeg')",
        "drawn()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(book, timeout=100, kernel_name="python3").execute()
    for k in (1, 2, 4, 5):
        pictures = [o for o in book.cells[k].outputs if "image/png" in o.get("data", {})]
        assert len(pictures) == 1, (k, book.cells[k].outputs)
    (shown,) = book.cells[7].outputs
    assert {k for k in shown["data"] if k.startswith("image/")} == {"image/jpeg"}


def test_every_figure_of_the_kit_is_its_own_picture(tmp_path):
    scene = SceneExplorer((32, 64))
    t = table()
    ids = np.zeros((1, 8, 8), np.int64)
    modes = {"a": [0.5, 0.5]}
    quality = {"first": {"precision": {"road": 0.5}, "coverage": {"road": 0.2}}}
    figures = [
        scene.figure(),
        reports.class_figure(evaluation(), evaluation(1)),
        curves.curve_figure([{"step": 1, "loss/seg": 1.0}]),
        panels.picture_grid([{"x": np.zeros((3, 8, 8), np.uint8)}]),
        plots.label_quality_bars(quality),
        panels.prediction_grid([np.zeros((3, 8, 8), np.uint8)], {"net": ids}, SPACE),
        embedding.plot_embeddings({"a": (embed(t, "pca"), t)}),
    ]
    charts = [
        mode_panels.mode_shares(modes),
        plots.value_curve({"a": {1: 2.0}}),
        plots.confusion_plot(np.eye(3), "abc"),
        embedding.plot_embedding(embed(t, "pca"), t),
        plots.adversarial_curves([{"step": 1, "loss/seg": 1.0}]),
    ]
    for drawing in (*figures, *(ax.figure for ax in charts)):
        assert isinstance(drawing, Drawing)
    for shown in (figures[0], charts[0]):
        assert shown._repr_png_().startswith(b"\x89PNG")


# Names


def test_names_are_drawn_as_they_are(capfd):
    with patch.object(style, "MISSING", []):
        drawn = [style.drawn_name(n) for n in HOSTILE]
        figure = reports.class_figure(evaluation(), evaluation(1))
        figure._repr_png_()  # Matplotlib reads formulas only now
        assert capfd.readouterr().err.count("\n") <= 1  # one line for all letters that no font has
    assert drawn[0] == r"\$\frac{\$" and len(drawn[8]) == 40 and drawn[9] == "two lines" and "\x1b" not in drawn[10]
    assert drawn[7].startswith(" _") and style.drawn_name("") == "(no name)"
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == [style.drawn_name(name) for name in SPACE.classes]


def test_letters_without_a_font_become_codes_and_others_get_one():
    with patch.object(style, "font_with", lambda letter: None):
        assert style.drawn_name("道x") == r"\u9053x" and style.drawn_name("🚗") == r"\U0001f697"
    with (
        patch.object(style, "font_with", lambda letter: "DejaVu Serif"),
        patch.object(style, "FONTS", []),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # that font has no such letter either
        ax = style.axes_or_new(None, 2, 1)
        text = ax.text(0, 0, style.drawn_name("道"))
        ax._repr_png_()
        assert text.get_text() == "道" and text.get_fontfamily()[-1] == "DejaVu Serif"


def test_formulas_stay_formulas_unless_they_are_none():
    assert style.drawn_text("distance $R$") == "distance $R$"
    assert style.drawn_text(r"$\frac{$") == r"\$\frac{\$"
    panels.picture_grid([{r"$\frac{$": np.zeros((3, 8, 8), np.uint8)}])._repr_png_()


def test_names_are_text_in_markdown_and_html():
    page = Table(("class", "IoU"), [(n, "1") for n in HOSTILE], "<i>x</i>")
    rows = page.markdown().splitlines()
    assert len(rows) == len(HOSTILE) + 4  # no name begins a line of its own
    for row in rows[2:]:
        bare = row.replace(r"\|", "").replace("\\\\", "")
        assert (
            bare.count("|") == 3
            and "<script" not in bare
            and "](" not in bare
            and "http://" not in bare
            and "\x1b" not in bare
        )
    assert "<script" not in page.html() and "<i>x" not in page.html() and "\x1b" not in page.html() + str(page)
    assert markdown_text("traffic light") == html_text("traffic light") == "traffic light"


def test_report_of_hostile_names(tmp_path):
    config = {"x": "</details><script>", "y": "```\n# no heading", "z": math.nan}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = reports.write_report(tmp_path, evaluation(), evaluation(1), 0.5, title="<img src=x>").read_text(
        encoding="utf-8"
    )
    for bad in ("<script", "<img", "<b>", "](javascript", "http://", "\x1b"):
        assert bad not in text
    assert text.count("</details>") == 1 and text.count("```") == 2 and "NaN" not in text
    block = json.loads(text.split("```json")[1].split("```")[0])
    assert block == {**config, "z": None}
    again = reports.load_report(tmp_path)
    assert again["after"].miou == evaluation(1).miou and again["oracle"] == 0.5


def test_legend_and_card_of_the_alignment_explorer_hold_no_markup():
    t = table(domains=("<script>x</script>", "target"))
    data = {d: StreetScenes(CAMERA, 1, (32, 64)) for d in t.domains}
    explorer = AlignmentExplorer({"<img src=x>": t}, data, methods=("pca",), radius=2, progress=False)
    for color in ("class", "domain", "predicted", "correct"):
        parts = explorer.set(color=color).parts()
        for name in ("legend", "about", "scores"):
            assert "<script" not in parts[name] and "<img src=x" not in parts[name] and "\x1b" not in parts[name]
    assert len(explorer.visible()) == len(t)  # a class called "all" is not all of them
    assert len(explorer.set(shown="all").visible()) == (t.ids == SPACE.classes.index("all")).sum()
    explorer.figure()._repr_png_()


# Maps


def test_embed_takes_features_of_any_kind():
    X = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    usual = embed(X, "pca")
    kinds = {
        "gradient": X.clone().requires_grad_(),
        "double": X.double(),
        "list": X.tolist(),
        "strided": X.T.contiguous().T,
        "tiny": X.double() * 1e-30,
        "huge": X.double() * 1e30,
        "hugest": X.double() * 1e300,
    }
    for name, x in kinds.items():
        assert np.allclose(embed(x, "pca"), usual, atol=1e-5), name
    assert (
        embed(X.bfloat16(), "pca").shape
        == embed(X.half(), "pca").shape
        == embed((10 * X).int(), "pca").shape
        == (30, 2)
    )
    assert [m.shape for m in embed([X, X.bfloat16() + 1], "pca")] == [(30, 2), (30, 2)]
    for scale in (1e-30, 1e30):  # the map of t-SNE has no scale; PCA's has the features' own
        assert np.allclose(
            embed(X.double() * scale, "pca", unit=False).astype(float) / scale, embed(X, "pca", unit=False), atol=1e-4
        )
        map = embed(X.double() * scale, "tsne", unit=False)
        assert np.isfinite(map).all() and map.std() > 1


def test_embed_refuses_in_one_line(tmp_path):
    X = np.random.default_rng(0).normal(size=(30, 8))
    for x in (
        X * np.nan,
        X * 1j,
        X[:2],
        X[:1],
        X * 0,
        X[:, :0],
        X[0],
        "text",
        None,
        [[1, 2], [3]],
        np.zeros((3, 4, 5)),
    ):
        expect_error(embed, x, "pca")
    options = {
        "tsne": (
            {"perplexity": 0},
            {"perplexity": math.nan},
            {"components": 0},
            {"components": 1.5},
            {"n_components": 3},
            {"metric": "nope"},
            {"learning_rate": 1e30},
            {"init": np.full((30, 2), np.nan)},
            {"init": "x"},
            {"early_exaggeration": 0},
        ),
        "umap": (
            {"neighbours": 1},
            {"neighbours": "a"},
            {"neighbours": 2.5},
            {"min_dist": 5.0},
            {"min_dist": -1},
            {"n_components": 3},
        ),
        "pca": ({"perplexity": 3}, {"components": 3}),
        "mds": ({},),
    }
    for method, choices in options.items():
        for choice in choices:
            one_line(expect_error(embed, X, method, **choice))
    for seed in (-1, 1.5, None, "a", 2**32):
        expect_error(embed, X, "pca", seed=seed)
    (tmp_path / "file").write_text("")
    assert "file" in expect_error(embed, X, "pca", cache=tmp_path / "file")
    for module, method in (("umap", "umap"), ("sklearn.decomposition", "pca"), ("sklearn.manifold", "tsne")):
        with patch.dict(sys.modules, {module: None}):
            command = 'pip install "uda_kit[notebooks]"' if module == "umap" else "pip install scikit-learn"
            assert command in expect_error(embed, X, method)


def test_a_kept_map_of_another_shape_is_made_again(tmp_path):
    X = np.random.default_rng(0).normal(size=(30, 8))
    first = embed(X, "pca", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    for wrong in (first[:7], np.full_like(first, np.nan), first.astype(float)):
        np.save(file, wrong)
        assert np.array_equal(embed(X, "pca", cache=tmp_path), first)


# Reports


def test_reports_of_other_shapes_are_refused(tmp_path):
    assert "report.json" in expect_error(reports.load_report, tmp_path)
    shapes = (
        "[]",
        "{}",
        "3",
        "null",
        "{",
        '{"after": [1]}',
        '{"after": {}}',
        '{"oracle": "x"}',
        '{"after": {"space": 3}}',
        "[" * 10_000,
    )
    for text in shapes:
        (tmp_path / "report.json").write_text(text)
        line = expect_error(reports.load_report, tmp_path)
        assert "report.json" in line and "\n" not in line, text
    for arguments in ((), ("x",), (None, {"miou": 0.5}), (evaluation(), None, 41.4), (evaluation(), None, math.nan)):
        expect_error(reports.write_report, tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_a_report_that_cannot_be_written_leaves_nothing_half(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match="file"):
        reports.write_report(tmp_path / "file", after=evaluation())
    assert (tmp_path / "file").read_text() == "mine"
    with patch("uda_kit.core.files.os.fsync", side_effect=OSError(28, "No space left on device")):
        with pytest.raises(WriteError, match="make room"):
            reports.write_report(tmp_path / "run", after=evaluation())
    assert not [f for f in (tmp_path / "run").rglob("*") if f.is_file()]


def test_logs_of_other_shapes_are_drawn_as_far_as_they_hold_numbers():
    lines = [None, 3, {}, {"step": "x"}, {"step": -1}, {"step": 2**60}, {"step": True}, {"step": 1, "stage": 5}]
    good = [
        {"stage": "a", "step": 1, "loss/seg": math.nan, "lr": 10**400},
        {"stage": "a", "step": 2, "loss/seg": 0.5, "loss/x": "y"},
    ]
    panels_of, stages = curves.log_series(lines + good)
    assert panels_of == {"loss": {"seg": ([2], [0.5])}} and stages == [(0, "a")]
    curves.curve_figure(lines + [{"step": 0, "loss/seg": 1.0}])
    for config in (
        [],
        {"recipe": {"stages": 5}},
        {"recipe": {"stages": [3, {"name": "a", "terms": {"kind": "hinge"}}]}},
        {"terms": [1]},
    ):
        assert curves.discriminator_kinds(config) == {}


# Pictures of other shapes


def test_the_band_of_the_discriminators_has_room_above_low_losses(tmp_path):
    lines = [{"stage": "adapt", "step": n, "loss/seg": 1.0, "low/discriminator": 0.1} for n in (1, 2, 3)]
    log = "\n".join(json.dumps(line) for line in lines) + "\n"
    stage = {"name": "adapt", "steps": 3, "terms": {"function": "output_space_terms"}}
    run = run_folder(tmp_path / "run", log=log, config=json.dumps({"recipe": {"stages": [stage]}}))
    explorer = TrainingExplorer(run, progress=False)
    explorer.set(panel="discriminator")
    low, high = explorer.figure().axes[0].get_ylim()
    assert low == 0 and high > curves.CHANCE["vanilla"] > curves.HEALTHY["vanilla"][1]


def test_panels_and_charts_refuse_in_one_line():
    photo, ids = np.zeros((1, 3, 8, 16), np.uint8), np.zeros((1, 8, 16), np.int64)
    records = [{"step": 1, "loss/seg": 1.0}]
    calls = [
        lambda: panels.picture_grid([]),
        lambda: panels.picture_grid([{"x": np.zeros((0, 3))}]),
        lambda: panels.picture_grid([{"x": ids[0]}]),
        lambda: panels.picture_grid([{"x": ids[0] + 99}], SPACE),
        lambda: panels.picture_grid([{"x": ids[0] - 1}], SPACE),
        lambda: panels.picture_grid([{"x": photo[0].astype(np.int64) + 999}]),
        lambda: panels.picture_grid([{"x": photo[0]}], names=("a", "b")),
        lambda: panels.picture_grid([{"x": photo[0]}], width=0),
        lambda: panels.picture_grid(5),
        lambda: panels.prediction_grid(photo, {"a": ids[:, :, :8]}, SPACE),
        lambda: panels.prediction_grid(photo, {"a": []}, SPACE),
        lambda: panels.prediction_grid(5, {}, SPACE),
        lambda: panels.prediction_grid(photo, [ids], SPACE),
        lambda: panels.verdict(ids[0], ids[0][:4]),
        lambda: panels.label_shares([]),
        lambda: panels.label_shares(ids, ids[:, :4]),
        lambda: panels.expansion_panels(photo, {}, SPACE, ids[:, :4]),
        lambda: panels.expansion_panels(photo, 5, SPACE),
        lambda: panels.attention_panels(photo, ids, ids),
        lambda: panels.Field(np.full((2, 2), np.nan)),
        lambda: panels.Field(5),
        lambda: mode_panels.mode_shares({}),
        lambda: mode_panels.mode_shares({"a": []}),
        lambda: mode_panels.mode_shares({"a": [0.5]}, chosen=[-1]),
        lambda: mode_panels.mode_shares({"a": [0.5]}, chosen=["x"]),
        lambda: mode_panels.mode_shares({"a": [0.5]}, ax="axes"),
        lambda: mode_panels.mode_shares(5),
        lambda: plots.value_curve({"a": {1: "x"}}),
        lambda: plots.value_curve({"a": {"x": 1}}),
        lambda: plots.value_curve({"a": 5}),
        lambda: plots.value_curve(5),
        lambda: plots.confusion_plot(np.eye(3), "ab" * 5),
        lambda: plots.confusion_plot(np.eye(3) * np.nan, "abc"),
        lambda: plots.confusion_plot("x", "abc"),
        lambda: plots.confusion_plot(np.eye(3), None),
        lambda: plots.confusion_plot(np.zeros((0, 0)), ""),
        lambda: plots.adversarial_curves(5),
        lambda: plots.adversarial_curves(records, window=0),
        lambda: plots.adversarial_curves(records, kind=["x"]),
        lambda: plots.label_quality_bars(5),
        lambda: plots.label_quality_bars({"a": 5}),
        lambda: plots.label_quality_bars({"a": {"precision": {"x": "y"}}}),
        lambda: embedding.plot_embedding(np.zeros((3, 2)), table()),
        lambda: embedding.plot_embedding(np.full((40, 2), np.nan), table()),
        lambda: embedding.plot_embedding(np.zeros((40, 2)), table(), classes=[1.5]),
        lambda: embedding.plot_embedding(np.zeros((40, 2)), table(), by=[1]),
        lambda: embedding.plot_embedding(np.zeros((40, 2)), table(), size=-1),
        lambda: embedding.plot_embeddings({}),
        lambda: embedding.plot_embedding(np.zeros((40, 2)), 5),
        lambda: dataclasses.replace(table(), predicted=np.full(40, 99)),
    ]
    for call in calls:
        refused(call)


def test_a_whole_number_photograph_keeps_its_colors():
    photo = np.random.default_rng(0).integers(0, 256, (4, 6, 3))
    assert np.array_equal(panels.as_picture(photo, None), photo)  # was white from 1 on


# Explorers

JUNK = ("ab", math.nan, [1, "x"], np.ones(3), -1, 10**30, (), {"a": 1}, None)


@pytest.fixture(scope="module")
def explorers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = deeplab_v2(19, "tiny", ancillary=2)
    game, camera = StreetScenes(RENDERED, 2, (32, 64)), StreetScenes(CAMERA, 2, (32, 64))
    t = table(space=game.space)
    return (
        {
            "alignment": AlignmentExplorer(
                {"a": t}, {"source": game, "target": camera}, methods=("pca",), radius=4, progress=False
            ),
            "patches": PatchClusterExplorer(game, camera, patch=(8, 16), ks=(2, 3), images=2, progress=False),
            "expansion": LabelExpansionExplorer(net, camera, 1, (1,), progress=False),
            "attention": AttentionExplorer(net, camera, count=1, progress=False),
            "mix": MixExplorer(net, game, camera),
            "scenes": SceneExplorer((32, 64)),
        },
        net,
        game,
        camera,
        t,
    )


def test_a_control_refuses_and_nothing_moves(explorers):
    for name, explorer in explorers[0].items():
        for control in (*explorer.controls, "unknown"):
            for value in (
                *JUNK,
                1.5 if control in ("point", "page", "scene", "seed", "lambda_cos", "draw", "block") else (),
            ):
                before, controls = dict(vars(explorer.values)), dict(explorer.controls)
                first = next(iter(explorer.controls))
                try:
                    explorer.set(**{first: getattr(explorer.values, first)} | {control: value})
                except InputError as error:
                    assert (
                        "\n" not in str(error)
                        and dict(vars(explorer.values)) == before
                        and explorer.controls == controls
                    ), (name, control)
                else:
                    assert isinstance(value, (int, float)) and not math.isnan(value) and control != "point", (
                        name,
                        control,
                        value,
                    )
        explorer.parts()


def test_what_explorers_are_made_of_is_checked(explorers):
    _, net, game, camera, t = explorers
    unlabelled = StreetScenes(RENDERED, 2, (32, 64))
    unlabelled.labelled = False
    quiet = {"progress": False}
    sides = {"source": game, "target": camera}
    calls = [
        lambda **k: AlignmentExplorer({"a": t}, sides, **{"methods": ("pca",), **quiet, **k}),
        lambda **k: PatchClusterExplorer(game, camera, **{"patch": (8, 16), "ks": (2,), "images": 2, **quiet, **k}),
        lambda **k: LabelExpansionExplorer(net, camera, **{"images": 1, "scales": (1,), **quiet, **k}),
        lambda **k: AttentionExplorer(net, camera, **{"count": 1, **quiet, **k}),
        lambda **k: MixExplorer(**{"net": net, "source": game, "target": camera, **k}),
        lambda **k: SceneExplorer(**k),
        lambda **k: AlignmentExplorer.from_networks(
            {"a": net}, sides, **{"per_class": 3, "methods": ("pca",), **quiet, **k}
        ),
    ]
    wrong = [
        (
            {"methods": ()},
            {"methods": 5},
            {"methods": ("mds",)},
            {"radius": 0},
            {"radius": "x"},
            {"seed": -1},
            {"predictions": {"b": 1}},
            {"predictions": 3},
        ),
        (
            {"size": (1, 1)},
            {"size": 5},
            {"patch": "ab"},
            {"ks": ()},
            {"ks": (0,)},
            {"ks": "ab"},
            {"images": 0},
            {"images": 1.5},
            {"images": []},
            {"net": 5},
            {"modes": 3},
        ),
        (
            {"scales": ()},
            {"scales": (0,)},
            {"scales": "ab"},
            {"size": (1, 1)},
            {"images": 0},
            {"cap": 2},
            {"share": "x"},
            {"precision": 8},
            {"seed": None},
        ),
        (
            {"count": 0},
            {"count": "x"},
            {"indices": []},
            {"indices": [9]},
            {"indices": ["x"]},
            {"size": (1, 1)},
            {"source": 5},
        ),
        (
            {"images": 0},
            {"images": "ab"},
            {"images": [9]},
            {"size": (1, 1)},
            {"size": 5},
            {"seed": -1},
            {"teacher": net},
            {"teacher": "average"},
            {"threshold": 0.0},
            {"threshold": 1.0},
            {"ratio": 1.0},
            {"ratio": "x"},
            {"block": 0},
            {"block": 2.5},
            {"draw": -1},
            {"classes": "car"},
            {"colors": 1},
            {"source": unlabelled},
            {"source": StreetScenes(RENDERED, 2, (64, 64))},
        ),
        ({"size": (1, 1)}, {"size": None}, {"styles": ()}, {"styles": 5}, {"n": 0}, {"n": "x"}, {"seed": -1}),
        (
            {"size": (1, 1)},
            {"per_class": 0},
            {"images": 0},
            {"most": 1},
            {"classes": ["nothing"]},
            {"classes": [1.5]},
            {"precision": 3},
            {"methods": ()},
        ),
    ]
    for call, choices in zip(calls, wrong):
        for choice in choices:
            refused(call, **choice)
    for junk in (None, "folder", 5, []):
        for make in (
            lambda: PatchClusterExplorer(junk, camera),
            lambda: LabelExpansionExplorer(net, junk),
            lambda: LabelExpansionExplorer(junk, camera),
            lambda: AttentionExplorer(net, junk),
            lambda: MixExplorer(junk, game, camera),
            lambda: MixExplorer(net, junk, camera),
            lambda: MixExplorer(net, game, junk),
            lambda: AlignmentExplorer(junk, sides),
            lambda: AlignmentExplorer({"a": t}, junk),
        ):
            refused(make)


def run_folder(folder: Path, **files: str) -> Path:
    "A run of two steps, with some files of other content."
    usual = {
        "config": '{"stage": "a", "steps": 2}',
        "log": '{"stage": "a", "step": 1, "loss/seg": 1.0}\n{"stage": "a", "step": 2, "loss/seg": 0.5}\n',
    }
    folder.mkdir()
    for name, text in (usual | files).items():
        (folder / f"{name}.{'jsonl' if name == 'log' else 'json'}").write_text(text)
    return folder


def test_a_run_is_shown_whatever_its_files_hold(tmp_path):
    shapes = (
        "[]",
        "3",
        "null",
        "{",
        "",
        "[" * 10_000,
        '{"miou": "x", "stage": 5, "step": "x", "steps": [], "recipe": {"stages": 3}}',
    )
    k = 0
    for name in ("config", "result", "stopped"):
        for text in shapes:
            explorer = TrainingExplorer(run_folder(tmp_path / f"run{(k := k + 1)}", **{name: text}), progress=False)
            shown = explorer.parts()["curves"]
            assert f"Not shown: {name}.json" in shown and "polyline" in shown, (name, text[:20])
    state = {
        '{"miou": null}': "No class could be scored",
        '{"miou": 0.5}': "Mean IoU 50.0 %",
        '{"miou": -3}': "no fraction",
        "{}": "Finished: a, step 2 of 2",
    }
    for text, words in state.items():
        assert (
            words
            in TrainingExplorer(run_folder(tmp_path / f"run{(k := k + 1)}", result=text), progress=False).parts()[
                "curves"
            ]
        ), text
    lines = (
        '{"stage": "a", "step": 1, "loss/seg": 1.0}\n[]\n'
        + "[" * 9_000
        + '\n{"step": "x"}\n{"stage": "<script>", "step": 3, "loss/seg": 1e400}\n{"half'
    )
    explorer = TrainingExplorer(run_folder(tmp_path / "log", log=lines), progress=False)
    shown = explorer.parts()["curves"]
    assert "log.jsonl holds 3 lines that are no records" in shown and "<script" not in shown
    explorer.figure()._repr_png_()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / ".lock").touch()
    assert "has no log" in expect_error(TrainingExplorer, bare)
    for junk in (None, 5, []):
        expect_error(TrainingExplorer, junk)


def test_half_a_checkpoint_says_so(tmp_path):
    run = run_folder(tmp_path / "run")
    (run / "checkpoints" / "a-0000002").mkdir(parents=True)
    (run / "checkpoints" / ("a-" + "9" * 200)).mkdir()
    explorer = TrainingExplorer(run, StreetScenes(CAMERA, 1, (32, 64)), count=1, progress=False)
    assert "nothing to show" in explorer.parts()["checkpoints"]
    assert "a, step 2" in explorer.set(checkpoint="a, step 2").parts()["checkpoints"]
