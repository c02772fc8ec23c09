"""Recipes and results on the site: a table of all recipes, and what `results/` holds, by benchmark."""

import io
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from reference import cell, prose

from uda_kit.core.errors import InputError
from uda_kit.core.tables import Table, percent
from uda_kit.recipes.catalogue import recipes
from uda_kit.recipes.config import Recipe
from uda_kit.results.comparisons import bars, class_table, overview, paired, scores
from uda_kit.results.tables import PUBLISHED, PublishedRow, measured, published, read_csv

PAPERS = {
    "output_space": "Output space (AdaptSegNet)",
    "patch_alignment": "Patch alignment",
    "content_invariant": "Content-invariant (CIRN)",
    "contrastive": "Contrastive, label expansion",
    "self_training": "Self-training, mixed images",
}
SHORT = dict(zip(PAPERS, ("Output space", "Patch alignment", "CIRN", "Contrastive", "Self-training"), strict=True))
DATA = {
    "gta5": "GTA5",
    "synthia": "SYNTHIA",
    "synscapes": "Synscapes",
    "cityscapes": "Cityscapes",
    "vistas": "Mapillary Vistas",
    "robotcar": "Oxford RobotCar",
    "camvid": "CamVid",
    "kitti": "KITTI",
    "acdc": "ACDC",
    "darkzurich": "Dark Zurich",
    "urbansyn": "UrbanSyn",
    "bdd100k": "BDD100K",
}
BENCHMARKS = {
    "scenes": "Street scenes: rendered → camera",
    "camvid": "CamVid: day → dusk",
    "camvid-lite0": "CamVid: day → dusk, ImageNet weights",
    "camvid-kitti": "CamVid → KITTI, ImageNet weights",
    "scenes-kitti": "Street scenes → KITTI, ImageNet weights",
    "scenes-lite0": "Street scenes, ImageNet weights",
    "pose": "Street scenes: car's camera → lorry's camera",
    "lane": "Street scenes: one lane → another",
}


# --- recipes ------------------------------------------------------------------------------------------------------


def side(data) -> str:
    "A data set in words: 'GTA5', 'scenes (camera)', 'CamVid (dusk_test)'."
    name = DATA.get(data.name, data.name)
    if data.name == "crosscity":
        return data.city
    if data.name == "scenes":
        return f"scenes ({data.style})"
    return f"{name} ({data.split})" if data.name == "camvid" else name


def task(recipe: Recipe) -> str:
    "Sources and test images of a recipe: 'GTA5 → Cityscapes'."
    first = recipe.stages[-1] if recipe.stages[-1].other_sources else recipe.stages[0]
    sources = list(dict.fromkeys(side(data) for data in first.labelled_sources))
    return f"{' + '.join(sources)} → {side(recipe.test)}"


def folders(recipe: Recipe) -> list[str]:
    "Names of data that the recipe reads from folders, in order of use."
    names = []
    for data in (*(d for stage in recipe.stages for d in stage.entries), recipe.test, recipe.val):
        if data is None:
            continue
        names += [data.translated] if data.translated else []
        names += [data.name] if data.name != "scenes" and not data.root else []
    return list(dict.fromkeys(names))


def command(recipe: Recipe) -> str:
    "What trains a recipe."
    roots = " ".join(f"{name}=FOLDER" for name in folders(recipe))
    return f"uda-kit train {recipe.name}" + (f" --roots {roots}" if roots else "")


def printed(recipe: Recipe) -> list[PublishedRow]:
    "Rows that papers print of what a recipe reproduces."
    rows = oracles(recipe)
    for paper in recipe.papers:
        if paper in PUBLISHED:
            of_row = [row for row in published(paper) if row.recipe == recipe.row and row.task == task(recipe)]
            rows += [row for row in of_row if not math.isnan(row.miou)]
    return rows


def oracles(recipe: Recipe) -> list[PublishedRow]:
    "What a paper's table prints as the oracle of its own rows, where the recipe is that oracle."
    if recipe.row not in ("oracle", "vgg-oracle") or recipe.paper not in PUBLISHED:
        return []
    source, backbone = DATA.get(recipe.benchmark), "VGG-16" if recipe.row.startswith("vgg") else "ResNet-101"
    rows = [row for row in published(recipe.paper) if row.recipe and "oracle" in row.extra]
    rows = [row for row in rows if row.backbone == backbone and row.task.startswith(f"{source} →")]
    return [replace(row, miou=row.extra["oracle"]) for row in rows]


def where(row: PublishedRow) -> str:
    "A table of a paper, shortly: 'T1', 'S2', 'text'."
    return f"T{row.table}" if isinstance(row.table, int) else str(row.table)


def published_cell(recipe: Recipe) -> str:
    "mIoU that papers print, each number once, with its tables."
    by_number = {}
    for row in printed(recipe):
        by_number.setdefault(f"{row.miou:.1f}", []).append(where(row))
    return ", ".join(f"{number} ({' '.join(dict.fromkeys(tables))})" for number, tables in by_number.items()) or "–"


def tables_cell(recipe: Recipe) -> str:
    "Rows of the papers' tables, or what the recipe says about itself."
    return "; ".join(recipe.rows) or recipe.about or "–"


def measured_cell(recipe: Recipe, runs: dict[tuple[str, str], dict[str, str]]) -> str:
    "mIoU that this kit measured, from the table of the recipe's own paper first."
    for paper in (*recipe.papers, *PAPERS):
        text = runs.get((recipe.benchmark, paper), {}).get(recipe.row)
        if text:
            return text
    return "–"


def all_runs(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    "Benchmark and paper -> row -> measured mIoU as text, of each row's longest runs."
    runs = {}
    for benchmark, paper in result_files(root):
        rows = sorted(measured(benchmark, paper, root), key=lambda run: run.steps)
        runs[benchmark, paper] = {run.recipe: str(run) for run in rows}
    return runs


def recipes_page(root: Path) -> str:
    "The table of all recipes."
    runs = all_runs(root)
    lines = [
        "# Recipes",
        "",
        f"Every row of the papers' tables is a recipe, {len(recipes())} in all. `uda-kit recipes show NAME` prints all "
        "settings of one, `--set` changes any of them. Numbers are mIoU in percent. **Published** numbers are the "
        "papers', on their data and networks; **measured** ones are this kit's, on the data of the row: mean ± standard "
        "deviation over n seeds. A dash: nothing printed, nothing measured.",
        "",
        "FOLDER is where the data set lies. `--precision bf16-mixed` is faster on most machines.",
        "",
        ":::{container} recipes",
        "| recipe | paper | table and row | data | published | measured | command |",
        "|:--|:--|:--|:--|:--|:--|:--|",
    ]
    for name, recipe in sorted(recipes().items(), key=lambda pair: pair[1].benchmark in BENCHMARKS):  # full size first
        paper = SHORT.get(recipe.paper, recipe.paper)
        cells = (
            f"`{name}`",
            paper,
            prose(tables_cell(recipe)),
            prose(task(recipe)),
            published_cell(recipe),
            measured_cell(recipe, runs),
            f"`{command(recipe)}`",
        )
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join([*lines, ":::", ""])


# --- results ------------------------------------------------------------------------------------------------------


def result_files(root: Path) -> list[tuple[str, str]]:
    "Benchmark and paper of each file of scores in `results/`."
    measured_pairs = []
    for benchmark in BENCHMARKS:
        measured_pairs += [(benchmark, paper) for paper in PAPERS if (root / f"{benchmark}_{paper}.csv").exists()]
    known = {f"{benchmark}_{paper}.csv" for benchmark, paper in measured_pairs}
    for file in root.glob("*.csv"):
        paper = next((p for p in PAPERS if file.stem.endswith(f"_{p}")), None)
        if paper and file.name not in known and not file.name.startswith("bench_"):
            raise InputError(file, "is of a benchmark without a page", "add it to BENCHMARKS in docs/records.py")
    return measured_pairs


def markdown(table: Table) -> str:
    "A table with its caption as a line above it."
    lines = ["| " + " | ".join(cell(prose(c)) for c in table.columns) + " |"]
    lines.append("|:--" + "|--:" * (len(table.columns) - 1) + "|")
    lines += ["| " + " | ".join(cell(prose(c)) for c in row) + " |" for row in table.rows]
    return "\n".join([*([f"*{prose(table.caption)}*", ""] if table.caption else []), *lines, ""])


def with_baselines(benchmark: str, paper: str, root: Path) -> tuple[list[str], list[str]]:
    "Papers to read for a paper's rows, its own first, and the rows between source-only and oracle."
    papers = [paper, *(p for b, p in result_files(root) if b == benchmark and p != paper)]
    rows = [row for row in scores(benchmark, paper, root) if row not in ("source-only", "oracle")]
    return papers, ["source-only", *rows, "oracle"]


def figure(benchmark: str, paper: str, root: Path, file: Path) -> None:
    "Bars of a paper's rows, as a picture."
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = list(scores(benchmark, paper, root))
    first = [row for row in ("source-only", "statistics-only", "contrastive-cond1") if row in rows]
    rows = [*first, *(row for row in rows if row not in (*first, "oracle")), *(["oracle"] if "oracle" in rows else [])]
    drawing, axes = pyplot.subplots(figsize=(7, 0.7 + 0.26 * len(rows)), layout="constrained", dpi=110)
    bars(axes, benchmark, paper, rows, root=root)
    axes.tick_params(labelsize=8)
    axes.set_title("")
    picture = io.BytesIO()
    drawing.savefig(picture, format="png", metadata={"Software": None})
    pyplot.close(drawing)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture.getvalue())


def labels_table(benchmark: str, paper: str, root: Path) -> Table | None:
    "Precision and coverage of pseudo-labels over all classes, mean over seeds."
    groups = {}
    for row in read_csv(root / f"{benchmark}_{paper}_labels.csv"):
        if row["class"] == "all":
            groups.setdefault((row["recipe"], row["labels"]), {})[row["seed"]] = row
    lines = []
    for (recipe, labels), seeds in groups.items():
        values = [sum(float(r[c]) for r in seeds.values()) / len(seeds) for c in ("precision", "coverage", "labelled")]
        lines.append((recipe, labels, *map(percent, values), str(len(seeds))))
    caption = "MEASURED HERE: the last teacher's labels on validation images (CamVid: the target's training images), percent of pixels"
    return Table(("row", "labels", "precision", "coverage", "labelled", "seeds"), lines, caption) if lines else None


def benchmark_page(benchmark: str, root: Path, folder: Path) -> str:
    "All that was measured on a benchmark, paper by paper."
    lines = [f"# {BENCHMARKS[benchmark]}", "", f"Recipes `{benchmark}/...`: [their commands](/recipes.md).", ""]
    for _, paper in (pair for pair in result_files(root) if pair[0] == benchmark):
        papers, rows = with_baselines(benchmark, paper, root)
        lines += [f"## {PAPERS[paper]}", "", f"[What this says about the paper](/papers/{paper}.ipynb).", ""]
        lines += [markdown(overview(benchmark, papers, rows, root)), ""]
        if len(scores(benchmark, paper, root)) > 2:
            name = f"{benchmark}_{paper}.png"
            figure(benchmark, paper, root, folder / name)
            words = f"mIoU of each row with its spread, {benchmark}, {PAPERS[paper]}"
            lines += [f"![{words}]({name})", ""]
        first = "source-only" if "source-only" in scores(benchmark, paper, root) else rows[1]
        pairs = [(first, row) for row in rows if row != first]
        if (table := paired(benchmark, paper, pairs, root)).rows:
            lines += ["### Seed by seed", "", markdown(table), ""]
        if (table := class_table(benchmark, paper, rows, root)).rows:
            lines += ["### IoU by class", "", markdown(turned(table)), ""]
        if table := labels_table(benchmark, paper, root):
            lines += ["### Pseudo-labels", "", markdown(table), ""]
        lines += [provenance(benchmark, paper, root), ""]
    return "\n".join(lines)


def turned(table: Table) -> Table:
    "Rows as columns, where that makes the table narrower."
    if len(table.columns) - 1 <= len(table.rows):
        return table
    head, *body = zip(table.columns, *table.rows, strict=True)
    return Table(("row", *head[1:]), body, table.caption)


def provenance(benchmark: str, paper: str, root: Path) -> str:
    "Commits and machines of a file of scores."
    runs = measured(benchmark, paper, root)
    commits = sorted({commit for run in runs for commit in run.commits})
    machines = sorted({machine for run in runs for machine in run.machines})
    text = f"From `results/{benchmark}_{paper}.csv`. Commits {', '.join(f'`{c}`' for c in commits)}; "
    return text + f"machine: {prose('; '.join(machines))}."


def csv_table(file: Path, leave_out: Iterable[str] = ("machine", "digest")) -> Table:
    "A CSV file as a table."
    rows = read_csv(file)
    columns = [column for column in (rows[0] if rows else ()) if column not in leave_out]
    return Table([c.replace("_", " ") for c in columns], [[row[c] for c in columns] for row in rows])


def timings_page(root: Path) -> str:
    "Timings of steps, losses, maps and explorers."
    lines = ["# Time and memory", "", "Seconds, and GiB at the peak. `ratio` is plain over fast.", ""]
    for file in sorted(root.glob("bench_*.csv")):
        name = file.stem.removeprefix("bench_").replace("_", " ")
        lines += [f"## {name.capitalize()}", "", markdown(csv_table(file)), f"From `results/{file.name}`.", ""]
    return "\n".join(lines)


OTHERS = {
    "settings.csv": ("Choosing settings", "mIoU on validation images; an empty setting is the recipe as it was."),
    "alignment.csv": ("How well source and target meet", "Scores of features of finished runs."),
    "translation_quality.csv": ("Quality of translated images", "Segmentation scores and Fréchet distances."),
}


def others_page(root: Path) -> str:
    "Settings, alignment, quality of translations."
    lines = ["# Settings, alignment, translation quality", ""]
    for name, (heading, text) in OTHERS.items():
        lines += [f"## {heading}", "", text, "", markdown(csv_table(root / name)), f"From `results/{name}`.", ""]
    return "\n".join(lines)


def result_pages(root: Path, source: Path) -> dict[str, str]:
    "Path of each page of results -> its Markdown; pictures go to `source`."
    measured_on = list(dict.fromkeys(benchmark for benchmark, _ in result_files(root)))
    pages = {f"measured/{name}.md": benchmark_page(name, root, source / "measured") for name in measured_on}
    pages |= {"measured/timings.md": timings_page(root), "measured/others.md": others_page(root)}
    text = re.sub(r"^# .*", "# Measured results", (root / "README.md").read_text(encoding="utf-8"), count=1)
    doors = [f"- [{BENCHMARKS[name]}](/measured/{name}.md)" for name in measured_on]
    doors += ["- [Time and memory](/measured/timings.md)", "- [Settings, alignment, quality](/measured/others.md)"]
    first, rest = text.split("\n| file |", 1)
    tree = ["```{toctree}", ":hidden:", "", *measured_on, "timings", "others", "```", ""]
    pages["measured/index.md"] = "\n".join([first, *doors, "", "## Files and commands", "", "| file |" + rest, *tree])
    return pages
