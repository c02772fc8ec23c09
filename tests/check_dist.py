"""What `make dist` builds, checked before anyone installs it: contents, metadata, size. One line for each thing that is wrong.

    python tests/check_dist.py [FOLDER]     # default: dist

The wheel has to hold the package and nothing else; the source archive what the wheel is built from."""

import base64
import email.parser
import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LIMITS = {"wheel": 2_000_000, "source archive": 2_000_000}  # bytes; no picture or notebook belongs in them
KINDS = (".py", ".pyi", ".json", ".csv")  # of the package's files, beside py.typed
ARCHIVED = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CITATIONS.bib",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "constraints.txt",
    "pyproject.toml",
    "settings.ini",
    "setup.py",
)
WRITTEN = ("PKG-INFO", "setup.cfg")  # by setuptools, into the source archive
DIST_INFO = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")


def settings(root):
    "The section of settings.ini that holds the metadata."
    config = ConfigParser()
    config.read(root / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def package_files(root):
    "Paths in the package -> contents."
    files = [f for f in (root / "uda_kit").rglob("*") if f.is_file() and (f.suffix in KINDS or f.name == "py.typed")]
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in files}


def differences(where, contents, expected):
    "What is missing in an archive, too much in it, or not as in the checkout. `expected` None: any content."
    missing = [f"{where}: {name} is missing" for name in sorted(expected.keys() - contents.keys())]
    surplus = [f"{where}: {name} does not belong in it" for name in sorted(contents.keys() - expected.keys())]
    shared = sorted(contents.keys() & expected.keys())
    other = [n for n in shared if expected[n] is not None and contents[n] != expected[n]]
    return missing + surplus + [f"{where}: {name} is not the checkout's: build again" for name in other]


def check_wheel(file, root):
    "Files, record and tags of a wheel."
    version = settings(root)["version"]
    info = f"uda_kit-{version}.dist-info"
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    expected = package_files(root) | {f"{info}/{name}": None for name in DIST_INFO}
    expected[f"{info}/licenses/LICENSE"] = (root / "LICENSE").read_bytes()
    wrong = differences(file.name, contents, expected)
    if f"{info}/RECORD" in contents:
        wrong += check_record(file.name, contents, contents[f"{info}/RECORD"].decode())
    tags = contents.get(f"{info}/WHEEL", b"").decode()
    if "Tag: py3-none-any" not in tags or "Root-Is-Purelib: true" not in tags:
        wrong.append(f"{file.name}: is not for every Python 3 and system")
    if f"{info}/METADATA" in contents:
        wrong += check_metadata(file.name, contents[f"{info}/METADATA"], root)
    return wrong + check_entry_points(file.name, contents.get(f"{info}/entry_points.txt", b"").decode(), root)


def check_record(where, contents, record):
    "Every file of a wheel is listed in it with its digest."
    listed = dict(line.rsplit(",", 2)[:2] for line in record.splitlines())
    wrong = []
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        if not name.endswith("RECORD") and listed.get(name) != f"sha256={digest}":
            wrong.append(f"{where}: RECORD has another digest for {name}")
    return wrong


def check_entry_points(where, text, root):
    "The command and the list of names for nbdev."
    name, _, function = settings(root)["console_scripts"].partition("=")
    config = ConfigParser()
    config.read_string(text)
    scripts = dict(config["console_scripts"]) if config.has_section("console_scripts") else {}
    wrong = [] if scripts == {name: function} else [f"{where}: its commands are {scripts}, not {name} = {function}"]
    return wrong + ([] if config.has_section("nbdev") else [f"{where}: has no entry point for nbdev"])


def check_sdist(file, root):
    "Files of a source archive: all that the wheel is built from."
    top = f"uda_kit-{settings(root)['version']}/"
    with tarfile.open(file) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        odd = [
            m.name for m in archive.getmembers() if not (m.isfile() or m.isdir()) or not (m.name + "/").startswith(top)
        ]
        contents = {m.name.removeprefix(top): archive.extractfile(m).read() for m in members if m.name not in odd}
    contents = {name: content for name, content in contents.items() if not name.startswith("uda_kit.egg-info/")}
    expected = package_files(root) | {name: (root / name).read_bytes() for name in ARCHIVED}
    wrong = [f"{file.name}: {name} is no plain file below {top}" for name in odd]
    wrong += differences(file.name, contents, expected | dict.fromkeys(WRITTEN))
    return wrong + (check_metadata(file.name, contents["PKG-INFO"], root) if "PKG-INFO" in contents else [])


def check_metadata(where, content, root):
    "Name, version, requirements, extras, licence and description, against settings.ini."
    config = settings(root)
    try:
        data = Metadata.from_email(content, validate=True)
    except Exception as error:  # a group of errors
        reasons = "; ".join(map(str, getattr(error, "exceptions", [error])))
        return [f"{where}: its metadata are not valid: {reasons}"]
    expected = {
        "name": config["lib_name"],
        "version": config["version"],
        "summary": config["description"],
        "license_expression": config["license"],
        "requires_python": ">=3.11",
        "description_content_type": "text/markdown",
    }
    wrong = [
        f"{where}: {field} is {getattr(data, field)}, not {value}"
        for field, value in expected.items()
        if str(getattr(data, field)) != value
    ]
    wrong += [f"{where}: {line}" for line in requirement_faults(data, config)]
    urls = len([line for line in config["urls"].splitlines() if line.strip()])
    if len(data.project_urls or {}) != urls:
        wrong.append(f"{where}: has {len(data.project_urls or {})} addresses, settings.ini has {urls}")
    return wrong + [f"{where}: {line}" for line in description_faults(body_of(content), root)]


def requirement_faults(data, config):
    "Requirements and extras that are not those of settings.ini."
    kinds = {extra: f"{extra}_" for extra in ("pretrained", "export", "video", "docs", "dev")}
    kinds |= {"": "", "notebooks": "notebook_", "trackers": "tracker_"}
    stated = {extra: set(map(Requirement, config[f"{kind}requirements"].split())) for extra, kind in kinds.items()}
    stated["notebooks"] |= stated["pretrained"]
    stated["docs"] |= stated["notebooks"]
    stated["dev"] |= stated["docs"] | stated["export"] | stated["video"]
    wrong = []
    for extra, requirements in stated.items():
        have = {str(strip_marker(r)) for r in data.requires_dist or [] if extra == extra_of(r)}
        want = set(map(str, requirements))
        name = f"extra {extra}" if extra else "base install"
        wrong += [f"{name} does not require {r}" for r in sorted(want - have)]
        wrong += [f"{name} requires {r}, and settings.ini does not" for r in sorted(have - want)]
    base = {canonicalize_name(r.name) for r in stated[""]}
    heavy = {canonicalize_name(r.name) for extra in ("notebooks", "dev") for r in stated[extra]} & base
    return wrong + [f"base install requires {name}, which an extra requires, too" for name in sorted(heavy)]


def extra_of(requirement):
    "The extra a requirement belongs to; '' for the base install."
    match = re.search(r"extra == ['\"](\w+)['\"]", str(requirement.marker or ""))
    return match[1] if match else ""


def strip_marker(requirement):
    "A requirement without what follows its semicolon."
    return Requirement(str(requirement).partition(";")[0].strip())


def body_of(content):
    "The description: what follows the headers."
    message = email.parser.BytesParser().parsebytes(content)
    return message.get_payload(decode=True).decode("utf-8")


def description_faults(text, root):
    "A page that an index shows: whole, with no link or picture that leads into a checkout."
    wrong = []
    if not text.startswith("# uda_kit\n") or "## Licence" not in text:
        wrong.append("the description is not README.md")
    if text.count("```") % 2:
        wrong.append("the description opens a block of code that it does not close")
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if not target.startswith(("https:", "http:", "#")):
            wrong.append(f"the description links to {target}, which is in the checkout alone")
    if str(root.resolve()) in text:
        wrong.append("the description names a folder of this machine")
    return wrong


def check_folder(folder, root=ROOT):
    "All complaints about a folder of distributions."
    version = settings(root)["version"]
    names = {"wheel": f"uda_kit-{version}-py3-none-any.whl", "source archive": f"uda_kit-{version}.tar.gz"}
    wrong = [
        f"{file.name}: is not of version {version}; remove it, or nobody knows which file to install"
        for file in sorted(folder.iterdir())
        if file.name not in names.values()
    ]
    for kind, check in (("wheel", check_wheel), ("source archive", check_sdist)):
        file = folder / names[kind]
        if not file.is_file():
            wrong.append(f"{file.name}: the {kind} is missing: make dist")
            continue
        if file.stat().st_size > LIMITS[kind]:
            wrong.append(f"{file.name}: has {file.stat().st_size:,} bytes, more than {LIMITS[kind]:,}")
        try:
            wrong += check(file, root)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            wrong.append(f"{file.name}: cannot be read ({error}): build again")
    return wrong


def untracked():
    "Files in the package that are in no commit: a release would carry them."
    command = ["git", "ls-files", "--others", "--exclude-standard", "uda_kit"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:  # no git
        return []
    return [f"{name}: is in the package, but in no commit: add or delete it" for name in listed]


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")
    wrong = untracked() + check_folder(folder) if folder.is_dir() else [f"{folder}: is no folder: make dist"]
    if wrong:
        print("\n".join(wrong))
        return 1
    for file in sorted(folder.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB, as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
