"Everything is said once, in settings.ini; this file hands it to setuptools."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
minor, newest = int(cfg["min_python"].split(".")[1]), 13
tail = "_requirements"
readme = here / "README.md"
data = ["py.typed", "weights/**/*.safetensors", "weights/**/*.json", "measured/*.json"]  # ** also matches no folder

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license=cfg["license"],
    url=cfg["git_url"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
    ]
    + [f"Programming Language :: Python :: 3.{m}" for m in range(minor, newest + 1)],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={k[: -len(tail)]: v.split() for k, v in cfg.items() if k.endswith(tail)},
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"] + ".*"]),
    package_data={cfg["lib_name"]: data},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
