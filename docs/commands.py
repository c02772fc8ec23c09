"""The command line on the site: the help text of every command."""

import contextlib
import io
import os
import re

from notebooks import CONTROL

from uda_kit.core.errors import InputError

LISTED = re.compile(r"^ +• ([\w-]+) ", re.M)


def help_text(*words: str) -> str:
    "What `uda-kit WORDS --help` prints."
    from uda_kit.cli import main

    os.environ["COLUMNS"], text = "96", io.StringIO()
    with contextlib.redirect_stdout(text):
        status = main([*words, "--help"])
    if status != 0 or not text.getvalue().strip():
        raise InputError(f"uda-kit {' '.join(words)} --help", f"ended with {status}", "see nbs/cli/80_parsing.ipynb")
    return re.sub(r" +$", "", CONTROL.sub("", text.getvalue()), flags=re.M).strip()


def page() -> str:
    "Every command and its options."
    first = help_text()
    lines = [
        "# Commands: `uda-kit`",
        "",
        "Bad input gets one line and exit status 2. Commands that measure end with one line of JSON.",
        "The [notebooks of the command line](/cli/00_cli.ipynb) show each of them at work.",
        "",
    ]
    for command in LISTED.findall(first):
        text = help_text(command)
        lines += [f"## `{command}`", "", "```text", text, "```", ""]
        for part in LISTED.findall(text):
            lines += [f"### `{command} {part}`", "", "```text", help_text(command, part), "```", ""]
    return "\n".join(lines)
