"""JupyterLab in a headless browser: start the server, open a notebook as a person does, run it, and see what is drawn.

Chromium comes from the system (`make browser` installs Debian's), Playwright drives it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
FLAGS = [
    "--no-sandbox",
    "--use-gl=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
# All cells are kept in the page, so that outputs can be found; nothing asks or updates.
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False,
        "fetchNews": "false",
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}


def chromium():
    "Path of the browser, or None."
    return next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@contextmanager
def lab(folder, environment=None):
    "A JupyterLab server on a free port of this machine, on `folder`; yields its address."
    folder = Path(folder)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config = folder / ".lab"
    (config / "settings").mkdir(parents=True, exist_ok=True)
    (config / "settings" / "overrides.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    home = {
        "JUPYTER_CONFIG_DIR": config / "config",
        "JUPYTER_RUNTIME_DIR": config / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": config / "user",
        "JUPYTERLAB_WORKSPACES_DIR": config / "workspaces",
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    log = open(config / "server.log", "w", encoding="utf-8")
    command = [
        BIN / "jupyter",
        "lab",
        "--no-browser",
        f"--port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.app_settings_dir={config / 'settings'}",
        "--ServerApp.allow_root=True",
        "--LabApp.extension_manager=readonly",
    ]
    server = subprocess.Popen(
        list(map(str, command)),
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **{k: str(v) for k, v in home.items()}, **(environment or {})},
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=5).read()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(
                        "JupyterLab did not start:\n" + (config / "server.log").read_text(encoding="utf-8")[-3000:]
                    ) from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


@contextmanager
def page(width=1400, height=1600):
    "An empty page of a new browser; errors of its scripts are collected in `page.said`."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        view = browser.new_page(viewport={"width": width, "height": height})
        view.said = []
        view.on("pageerror", lambda e: view.said.append(str(e)))
        try:
            yield view
        finally:
            browser.close()


def open_notebook(view, address, path):
    "Open a notebook alone in the window, with its kernel ready."
    view.goto(f"{address}/doc/tree/{path}?reset", wait_until="load", timeout=120_000)
    view.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    view.wait_for_selector(
        '.jp-NotebookPanel-toolbar [data-jp-item-name="executionProgress"], .jp-NotebookPanel-toolbar .jp-Notebook-ExecutionIndicator',
        timeout=60_000,
    )
    view.wait_for_function(
        "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'", timeout=120_000
    )


def run_all(view, seconds=900):
    "Run all cells, and wait until the last has run. Raises with the error a cell ended in."
    began = time.time()
    while not started(view):  # the first click may come before the page listens
        if time.time() - began > 60:
            raise AssertionError("no cell starts")
        view.locator(".jp-Notebook .jp-Cell").first.click()
        view.keyboard.press("Escape")
        view.click('li.lm-MenuBar-item:has-text("Run")')
        view.click('li.lm-Menu-item:has-text("Run All Cells")')
        for _ in range(20):
            started(view) or time.sleep(0.25)
    busy = time.time()
    while waiting(view):
        if text := error(view):
            raise AssertionError(f"a cell failed: {text}")
        busy = time.time() if runs(view) else busy
        if time.time() - busy > 30:  # the error's output may be out of sight, where JupyterLab does not draw it
            raise AssertionError(f"nothing runs, and {waiting(view)} cells have not ended: one before them failed")
        if time.time() - began > seconds:
            raise AssertionError(f"{waiting(view)} cells have not ended after {seconds} s")
        time.sleep(0.5)
    if text := error(view):
        raise AssertionError(f"a cell failed: {text}")


def started(view):
    "Has any cell been run, or is it waiting to?"
    return view.evaluate(
        "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].some(p => /\\[[\\d*]+\\]/.test(p.innerText))"
    )


def runs(view):
    "Is a cell running or queued, or the kernel busy?"
    return view.evaluate("""() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status !== 'idle' ||
        [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].some(p => p.innerText.includes('[*]'))""")


def waiting(view):
    "Number of code cells that are not empty and have not ended."
    return view.evaluate("""() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].filter(c =>
        c.querySelector('.jp-InputArea-editor')?.innerText.trim() && !/\\[\\d+\\]/.test(c.querySelector('.jp-InputArea-prompt')?.innerText ?? '')).length""")


def error(view):
    "What an error in an output says, or ''."
    found = view.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]')
    return re.sub(r"\x1b\[[0-9;]*m", "", found.first.inner_text())[-1500:] if found.count() else ""


def broken_widgets(view):
    "Texts that JupyterLab shows instead of a widget."
    text = view.evaluate("document.querySelector('.jp-Notebook').innerText")
    return [
        t
        for t in ("model not found", "Error displaying widget", "Loading widget...", "Error rendering output")
        if t.lower() in text.lower()
    ]


# What an explorer shows, as text that differs when anything drawn differs: pictures by their bytes, the rest by its markup.
DRAWN = """async (box) => {
    const parts = []
    for (const i of box.querySelectorAll('img')) parts.push(i.src.startsWith('blob:') ? await (await fetch(i.src)).arrayBuffer().then(b => crypto.subtle.digest('SHA-1', b)).then(d => [...new Uint8Array(d)].join()) : i.src)
    for (const h of box.querySelectorAll('.widget-html-content')) parts.push(h.innerHTML)
    return parts.join('|')
}"""


def told(explorer):
    "Pictures and texts of an explorer, as one text."
    from playwright.sync_api import Error

    for _ in range(50):
        try:
            return explorer.evaluate(DRAWN)
        except Error as e:  # a picture gave way to the next one just then
            if "Failed to fetch" not in str(e):
                raise
            time.sleep(0.1)
    raise AssertionError("the explorer's pictures change without end")


def drawn(explorer):
    "What an explorer shows now: its pictures and texts, and its maps as the screen has them."
    return told(explorer), still(explorer.locator(".uda-map"))


def still(map, seconds=5):
    "A map as the screen has it, once it has come to rest; nothing where there is none."
    if not map.count():
        return b""
    began, now = time.time(), map.screenshot()
    while time.time() - began < seconds:
        time.sleep(0.15)
        last, now = now, map.screenshot()
        if now == last:
            break
    return now


def hover_a_point(explorer, view):
    "Move the pointer over the first map until the explorer tells of another point. Was there one?"
    box, before = explorer.locator(".uda-map canvas").first.bounding_box(), told(explorer)
    for row in range(1, 12):
        for column in range(1, 24):
            view.mouse.move(box["x"] + box["width"] * column / 24, box["y"] + box["height"] * row / 12)
            view.wait_for_timeout(30)
        view.wait_for_timeout(300)
        if told(explorer) != before:
            return True
    return False


def changes(explorer, before, seconds=5):
    "Does what is drawn differ from `before` within some seconds?"
    began = time.time()
    while time.time() - began < seconds:
        if told(explorer) != before[0]:
            return True
        if still(explorer.locator(".uda-map")) != before[1]:
            return True
        time.sleep(0.1)
    return False


def controls(explorer):
    "The explorer's controls: (label, kind, element)."
    found = []
    for kind, css in (
        ("slider", ".widget-slider, .widget-selectionslider"),
        ("menu", ".widget-dropdown"),
        ("switch", ".widget-checkbox"),
    ):
        every = explorer.locator(css)
        found += [
            (every.nth(k).inner_text().strip().split("\n")[0], kind, every.nth(k))
            for k in range(every.count())
            if every.nth(k).is_visible()
        ]
    return found


def moves(kind, element):
    "Functions that move a control, one way after another; none where there is nowhere to go."
    if kind == "slider":
        handle = element.locator(".noUi-handle").first
        return [
            lambda key=key, times=times: (handle.focus(), [handle.press(key) for _ in range(times)])
            for key, times in (("ArrowRight", 3), ("ArrowLeft", 6), ("End", 1), ("Home", 1), ("PageUp", 2))
        ]
    if kind == "menu":
        menu = element.locator("select")
        count = menu.locator("option").count()
        return [lambda k=k: menu.select_option(index=k) for k in range(count)][-8:] if count > 1 else []
    return [lambda: element.locator("input").click()]


def messages(explorer):
    "What the explorer says in red."
    return [t for t in explorer.locator(".uda-message").all_inner_texts() if t.strip()]
