"""``mtl-run --help``: the template ``conf/hydra/help/mtl.yaml``, filled in as Hydra does it.

Hydra itself is asked only where the command line adds to what there is (``--help -cd DIR``): it copies all that it knows
for each of a hundred questions after groups and options, which takes more than a second.
"""

from string import Template

from omegaconf import OmegaConf

from mtl_runner.config import config_dir


def usage() -> str:
    """The text that Hydra prints for ``--help`` alone."""
    own = OmegaConf.load(config_dir() / "hydra" / "help" / "mtl.yaml")
    template = OmegaConf.create({"hydra": {"help": own}}).hydra.help.template
    return Template(template).substitute(APP_CONFIG_GROUPS=_groups())


def _groups() -> str:
    """A line a group, with the names of its options; Hydra's own lie a folder deeper."""
    folders = sorted(path for path in config_dir().iterdir() if path.is_dir())
    options = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}
    return "".join(f"{group}: {', '.join(names)}\n" for group, names in options.items() if names)
