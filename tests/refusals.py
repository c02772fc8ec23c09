"""How tests ask for a refusal, of a call or of a command: one line, where it is, what is wrong and what to do."""

import io
import math
from contextlib import redirect_stderr, redirect_stdout

from uda_kit.cli import main
from uda_kit.core.errors import InputError


def one_line(message, *parts, most=600):
    "The message: one line of printable letters, fewer than `most`, with every one of `parts`."
    text = str(message)
    assert "\n" not in text and "\x1b" not in text and len(text) < most, text
    for part in parts:
        assert str(part) in text, f"{part!r} not in {text!r}"
    return text


def refused(function, *parts, **kwargs):
    "The line of the `InputError` that `function(**kwargs)` raises; it has three parts, and holds every one of `parts`."
    try:
        function(**kwargs)
    except InputError as error:
        assert error.where and error.problem and error.remedy, error
        return one_line(error, *parts, most=math.inf)  # names may be long
    raise AssertionError(f"{function} with {kwargs} was accepted")


def run_command(*argv):
    "Run a command in this process: exit status, standard output, standard error."
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(a) for a in argv])
    return status, out.getvalue(), err.getvalue()


def refused_command(argv, *parts, status=2, untouched=None):
    """The one line that a command is refused in, with its exit status; it holds every one of `parts`.

    `untouched`: a folder that the command must leave as it is."""
    before = untouched and sorted(untouched.rglob("*"))
    got, _, err = run_command(*argv)
    assert got == status and err.startswith("uda-kit: ") and err.endswith("\n"), (argv, got, err)
    assert "Traceback" not in err, err
    one_line(err[:-1], *parts, most=1200)
    assert not untouched or sorted(untouched.rglob("*")) == before, (argv, "something was written")
    return err
