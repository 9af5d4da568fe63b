"""Where the configuration files lie."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def config_dir() -> Path:
    """The absolute path of ``conf/``: inside the installed package, or beside it in a checkout and an editable install."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"conf/config.yaml is neither in {PACKAGE} nor beside it; the installation is incomplete")
