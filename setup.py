"""Hands the metadata of settings.ini to setuptools; nothing is stated here."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
settings = ConfigParser()
settings.read(HERE / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
DEVELOPMENT = ("pretrained", "export", "video", "notebook", "docs", "dev")
urls = (line.split("=", 1) for line in cfg["urls"].splitlines() if line.strip())


def front_page():
    "README.md for readers who have no checkout: without pictures from it; links into it are plain text."
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)[ \t]*", "", text)
    text = re.sub(r"\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)
    return re.sub(r"\n[ \t]*(?:\n[ \t]*)+\n", "\n\n", text)


setup(
    version=cfg["version"],
    description=cfg["description"],
    long_description=front_page(),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license_expression=cfg["license"],
    classifiers=cfg["classifiers"].strip().splitlines(),
    project_urls={name.strip(): address.strip() for name, address in urls},
    packages=find_packages(include=["uda_kit", "uda_kit.*"]),
    include_package_data=False,  # only what the next line names
    package_data={"uda_kit": ["py.typed", "*.pyi", "*.json", "*/*.json", "*/*/*.csv"]},
    install_requires=cfg["requirements"].split(),
    extras_require={
        "pretrained": cfg["pretrained_requirements"].split(),
        "export": cfg["export_requirements"].split(),
        "video": cfg["video_requirements"].split(),
        "trackers": cfg["tracker_requirements"].split(),
        "notebooks": (cfg["pretrained_requirements"] + " " + cfg["notebook_requirements"]).split(),
        "docs": " ".join(cfg[f"{kind}_requirements"] for kind in ("pretrained", "notebook", "docs")).split(),
        "dev": " ".join(cfg[f"{kind}_requirements"] for kind in DEVELOPMENT).split(),
    },
    entry_points={"console_scripts": [cfg["console_scripts"]], "nbdev": ["uda_kit=uda_kit._modidx:d"]},
)
