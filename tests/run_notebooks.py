"""Run notebooks from top to bottom and keep their (small) outputs: `make notebooks`, or `make notebooks NB=nbs/data/10_labels.ipynb`.

Cells marked `#| slow` are run too; after `--keep-slow` they are not, and their outputs stay. Execution counts, metadata,
warnings and widget state are not kept."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def progress_bar(output):
    "Is it a widget without a picture that could stand for it?"
    kinds = output.get("data", {})
    return any("widget" in k for k in kinds) and not any(k.startswith("image/") for k in kinds)


def is_slow(cell):
    "A cell that trains, or that needs what such a cell makes?"
    return cell.cell_type == "code" and "#| slow" in cell.source.splitlines()


def run(file, keep_slow):
    book = nbformat.read(file, 4)
    skipped = [cell for cell in book.cells if keep_slow and is_slow(cell)]
    for cell in skipped:
        cell.cell_type = "raw"
    NotebookClient(
        book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}
    ).execute()
    for cell in skipped:
        cell.cell_type = "code"
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type != "code" or cell in skipped:
            continue
        cell.execution_count = None
        cell.outputs = [
            o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr") and not progress_bar(o)
        ]
        for o in cell.outputs:
            if "execution_count" in o:
                o["execution_count"] = None
            if "data" in o:
                o["metadata"], o["data"] = {}, {k: v for k, v in o["data"].items() if "widget" not in k}
    book.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(book, file)


options = [word for word in sys.argv[1:] if word.startswith("--")]
files = [Path(word) for word in sys.argv[1:] if word not in options]
for file in files or sorted(ROOT.glob("nbs/**/*.ipynb")):
    print(file, flush=True)
    run(file.resolve(), keep_slow="--keep-slow" in options)
