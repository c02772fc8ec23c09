"""Build the site: `make docs`, or `python docs/make_site.py`. Pages go to build/site, what Sphinx reads to build/site-source."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import commands  # noqa: E402
import records  # noqa: E402
import reference  # noqa: E402
from notebooks import page, short_title, survey  # noqa: E402

from uda_kit.core.errors import InputError  # noqa: E402

FOLDERS = {  # each has a front page that lists its notebooks
    "tutorials": ("Lessons", "Eight lessons of a quarter of an hour each, from the domain gap to a fair comparison."),
    "guides": ("How-to guides", "One task each, with code that runs."),
    "methods": (
        "Methods",
        "The papers' losses and batch transforms in reading order. Each notebook states the equations, defines the "
        "code, looks at it and tests it.",
    ),
    "methods/by_hand": (
        "Steps written out by hand",
        "Each paper's training step in plain fp32: what the composed step has to equal, and what it is timed against.",
    ),
    "papers": (
        "Papers",
        "Each paper's tables beside what this kit measured, its figures, and what did not come out as printed.",
    ),
    "core": ("Core", "Errors, files, records, settings, tables."),
    "data": ("Data", "Label spaces, images, data sets, transforms, streams."),
    "data/streets": ("Street scenes", "A renderer of street scenes, from style to data set."),
    "models": ("Models", "Backbones, segmentation networks, discriminators, weight files."),
    "training": ("Training", "Batches, terms, the step, runs, devices, the loop. Begin with the first."),
    "evaluation": ("Evaluation", "Confusion matrix, sliding windows, scoring, reports."),
    "visual": ("Figures", "Features, maps, panels and charts: every figure of the papers."),
    "visual/explorers": ("Explorer notebooks", "How the explorers are built."),
    "recipes": ("Recipes as settings", "A row of a paper's table as frozen dataclasses."),
    "experiments": ("Experiments", "From a recipe to a scored network."),
    "results": ("Tables of results", "Published numbers, measured numbers, comparisons."),
    "benchmarks": ("Benchmarks", "What times steps, losses, maps and explorers."),
    "cli": ("Command line", "How `uda-kit` reads its arguments and what each command does."),
}
LIBRARY = ("core", "data", "models", "training", "evaluation", "visual", "recipes", "experiments", "results")
LIBRARY += ("benchmarks", "cli")


def first_sentence(book: dict) -> str:
    "What a notebook says of itself below its title."
    lines = "".join(book["cells"][0]["source"]).split("\n")[1:]
    quoted = " ".join(line.lstrip("> ").strip() for line in lines if line.startswith(">"))
    head, stop, _ = quoted.partition(". ")
    return head + ("." if stop else "")


def folder_page(folder: str, books: dict[str, dict], titles: dict[str, str], more: tuple[str, ...] = ()) -> str:
    "The front page of a folder: its notebooks with their first sentences, and their order in the side bar."
    heading, text = FOLDERS[folder]
    own = [name for name in books if name.rpartition("/")[0] == folder]
    lines = [f"# {heading}", "", text, ""]
    for name in own:
        lines.append(f"- [{titles[name]}](/{name}.ipynb). {first_sentence(books[name])}")
    below = [key for key in FOLDERS if key.rpartition("/")[0] == folder]
    lines += [f"- [{FOLDERS[key][0]}](/{key}/index.md). {FOLDERS[key][1]}" for key in below]
    inner = [f"{key.rpartition('/')[2]}/index" for key in below]
    entries = [f"{short_title(titles[name])} <{name.rpartition('/')[2]}>" for name in own]
    tree = ["```{toctree}", ":hidden:", "", *entries, *inner, *more, "```"]
    return "\n".join([*lines, "", *tree, ""])


def library_page() -> str:
    "The front page of the modules."
    lines = ["# Modules", "", "Each module of `uda_kit` is a notebook that explains, defines and tests it.", ""]
    lines += [f"- [{FOLDERS[name][0]}](/{name}/index.md): {FOLDERS[name][1]}" for name in LIBRARY]
    lines += ["- [Doctor](/10_doctor.ipynb): is the installation complete?"]
    entries = [*(f"/{name}/index" for name in LIBRARY), "Doctor </10_doctor>", "Former address of errors </05_errors>"]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *entries, "```", ""])


def write(path: Path, text: str) -> None:
    "Write a file where it differs, so that Sphinx reads only what has changed."
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def written_by_hand(pages: Path) -> dict[str, str]:
    "Pages of `docs/pages`, and those of the repository."
    texts = {file.relative_to(pages).as_posix(): file.read_text(encoding="utf-8") for file in pages.rglob("*.md")}
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        texts[f"project/{name.lower()}"] = text.replace("](nbs/", "](/")
    return texts


def prepare(root: Path, source: Path) -> None:
    "Write all that Sphinx reads. `InputError` where a notebook cannot be shown."
    site, names = survey(root / "nbs"), reference.public_names(root / "uda_kit" / "__init__.pyi")
    site.objects, site.labels = reference.documented(names), reference.labels(names, site)
    books = {name: json.loads((root / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8")) for name in site.books}
    texts = {}
    for name, book in books.items():
        target = "overview" if name == "index" else name
        if name == "index":  # the site has a front page of its own
            book["cells"][0]["source"] = "".join(book["cells"][0]["source"]).replace("# uda_kit", "# Overview", 1)
        texts[f"{target}.ipynb"] = json.dumps(page(book, name, site), ensure_ascii=False)
    texts |= {f"{folder}/index.md": folder_page(folder, books, site.books) for folder in FOLDERS}
    texts |= {"library.md": library_page(), "commands.md": commands.page()}
    texts |= reference.pages(names, site) | {"recipes.md": records.recipes_page(root / "results")}
    texts |= records.result_pages(root / "results", source) | written_by_hand(HERE / "pages")
    for name, text in texts.items():
        write(source / name, text)
    pictures = {path.name for path in (root / "nbs" / "images").iterdir()}
    for name in pictures:
        target = source / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / "nbs" / "images" / name, target)
    for file in source.rglob("*"):  # pages that are no more
        if file.suffix in (".md", ".ipynb") and file.relative_to(source).as_posix() not in texts:
            file.unlink()


def sphinx(source: Path, out: Path, jobs: int = 2) -> int:
    "Make HTML; its exit status is not 0 where anything is amiss."
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", HERE, "-d", out.with_name("site-cache")]
    strict = ["-n", "-W", "--keep-going", "-q", "-j", jobs]
    return subprocess.run([str(word) for word in (*command, *strict, source, out)]).returncode


MADE_BY_SPHINX = ("genindex", "py-modindex", "search")


def drop_old_pages(source: Path, out: Path) -> None:
    "Delete pages whose source is no more: Sphinx leaves them."
    pages = {file.relative_to(source).with_suffix("").as_posix() for file in source.rglob("*") if file.is_file()}
    for file in out.rglob("*.html"):
        place = file.relative_to(out)
        if place.parts[0] not in ("_modules", "_static") and place.with_suffix("").as_posix() not in (
            *pages,
            *MADE_BY_SPHINX,
        ):
            file.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--fresh", action="store_true", help="forget what earlier builds have read")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder of the site")
    args = parser.parse_args()
    source = args.out.with_name("site-source")
    if args.fresh:
        for folder in (source, args.out, args.out.with_name("site-cache")):
            shutil.rmtree(folder, ignore_errors=True)
    try:
        prepare(ROOT, source)
    except InputError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 2
    status = sphinx(source, args.out)
    if status == 0:
        drop_old_pages(source, args.out)
        print(f"site: {args.out / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
