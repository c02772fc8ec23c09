"""Hands the metadata of settings.ini to setuptools; nothing is stated here."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

settings = ConfigParser()
settings.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
urls = (line.split("=", 1) for line in cfg["urls"].splitlines() if line.strip())

setup(
    version=cfg["version"],
    description=cfg["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license=cfg["license"],
    classifiers=cfg["classifiers"].strip().splitlines(),
    project_urls={name.strip(): address.strip() for name, address in urls},
    packages=find_packages(include=["uda_kit", "uda_kit.*"]),
    package_data={"uda_kit": ["py.typed", "*.pyi", "*.json", "*/*.json", "*/*/*.csv"]},
    install_requires=cfg["requirements"].split(),
    extras_require={
        "pretrained": cfg["pretrained_requirements"].split(),
        "export": cfg["export_requirements"].split(),
        "video": cfg["video_requirements"].split(),
        "notebooks": (cfg["pretrained_requirements"] + " " + cfg["notebook_requirements"]).split(),
        "dev": " ".join(cfg[f"{kind}_requirements"] for kind in ("pretrained", "export", "video", "notebook", "dev")).split(),
    },
    entry_points={"console_scripts": [cfg["console_scripts"]], "nbdev": ["uda_kit=uda_kit._modidx:d"]},
)
