"""Pictures for README.md and the front page: `make screenshots`, after the lessons have been run once at full length.

Opens the tutorials in JupyterLab, runs them (networks are found in runs/lessons) and writes nbs/images/explorer_*.jpg; lays figures out of notebooks on one sheet, nbs/images/figures.jpg."""

import base64
import io
import json
import shutil
import tempfile
from pathlib import Path

import browser
from PIL import Image

ROOT = Path(__file__).parent.parent
# tutorial -> explorer, controls to set beforehand (label -> option or times a key is pressed), file
PICTURES = [
    ("10_gap", "SceneExplorer", {"fog, per m": ("PageUp", 1), "palette, game to camera": ("PageUp", 7)}, "scenes"),
    ("20_output_space", "TrainingExplorer", {"curves": "discriminator"}, "training"),
    ("20_output_space", "AlignmentExplorer", {"point": ("PageUp", 3)}, "alignment"),
    ("30_patches", "PatchClusterExplorer", {}, "patch_clusters"),
    ("40_translation_attention", "AttentionExplorer", {}, "attention"),
    ("50_contrast_expansion", "LabelExpansionExplorer", {}, "label_expansion"),
    ("70_mixed_images", "MixExplorer", {"draw": ("ArrowRight", 5)}, "mix"),
]


def take(view, explorer, settings, file):
    explorer.scroll_into_view_if_needed()
    for label, kind, element in browser.controls(explorer):
        wish = settings.get(label)
        if wish is None:
            continue
        if kind == "menu":
            element.locator("select").select_option(label=wish)
        else:
            handle = element.locator(".noUi-handle").first
            handle.focus()
            for _ in range(wish[1]):
                handle.press(wish[0])
    view.wait_for_timeout(3000)
    picture = Image.open(io.BytesIO(explorer.screenshot())).convert("RGB")
    picture = picture.resize((800, picture.height * 800 // picture.width), Image.LANCZOS)
    picture.save(file, quality=75, optimize=True)
    print(file.relative_to(ROOT), picture.size, f"{file.stat().st_size // 1000} kB")


FIGURES = [
    ("tutorials/20_output_space", 1),
    ("tutorials/50_contrast_expansion", 3),
    ("tutorials/30_patches", 0),
    ("tutorials/40_translation_attention", 3),
    ("tutorials/50_contrast_expansion", 1),
    ("tutorials/50_contrast_expansion", 2),
    ("papers/output_space", 2),
]  # measured ones, not the examples in visual/


def outputs(notebook):
    "Pictures that a notebook holds, in order."
    book = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    found = [
        d
        for c in book["cells"]
        for o in c.get("outputs", [])
        if (d := next((v for k, v in o.get("data", {}).items() if k in ("image/png", "image/jpeg")), None))
    ]
    return [Image.open(io.BytesIO(base64.b64decode(d))).convert("RGB") for d in found]


def sheet(file, width=560, columns=2, gap=14):
    "Some figures of the notebooks, on one sheet."
    pictures = [(p := outputs(n)[k]).resize((width, p.height * width // p.width), Image.LANCZOS) for n, k in FIGURES]
    heights, places = [gap] * columns, []
    for p in pictures:
        column = heights.index(min(heights))
        places.append((gap + column * (width + gap), heights[column]))
        heights[column] += p.height + gap
    paper = Image.new("RGB", (gap + columns * (width + gap), max(heights)), "white")
    for p, place in zip(pictures, places):
        paper.paste(p, place)
    paper.save(file, quality=72, optimize=True)
    print(file.relative_to(ROOT), paper.size, f"{file.stat().st_size // 1000} kB")


def main():
    sheet(ROOT / "nbs" / "images" / "figures.jpg")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copytree(ROOT / "nbs", folder / "nbs")
        for name in ("settings.ini",):
            shutil.copy(ROOT / name, folder)
        if not (ROOT / "runs" / "lessons").is_dir():
            raise SystemExit("runs/lessons: there are no networks; run the tutorials first")
        (folder / "runs").mkdir()
        (folder / "runs" / "lessons").symlink_to((ROOT / "runs" / "lessons").resolve())
        with browser.lab(folder) as address:
            for book in dict.fromkeys(p[0] for p in PICTURES):
                with browser.page(1180, 1900) as view:
                    browser.open_notebook(view, address, f"nbs/tutorials/{book}.ipynb")
                    browser.run_all(view)
                    for _, name, settings, short in (p for p in PICTURES if p[0] == book):
                        take(
                            view,
                            view.locator(f".uda-{name}").first,
                            settings,
                            ROOT / "nbs" / "images" / f"explorer_{short}.jpg",
                        )
                    view.goto("about:blank")


if __name__ == "__main__":
    main()
