"""Run notebooks from top to bottom and keep their (small) outputs: `make notebooks`, or `make notebooks NB=nbs/data/10_labels.ipynb`.

Cells marked `#| slow` are run too. Execution counts, metadata, warnings and widget state are not kept."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def progress_bar(output):
    "Is it a widget without a picture that could stand for it?"
    kinds = output.get("data", {})
    return any("widget" in k for k in kinds) and not any(k.startswith("image/") for k in kinds)


def run(file):
    book = nbformat.read(file, 4)
    NotebookClient(
        book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}
    ).execute()
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
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


for file in map(Path, sys.argv[1:] or sorted(ROOT.glob("nbs/**/*.ipynb"))):
    print(file, flush=True)
    run(file.resolve())
