"""The configurations of many jobs, quickly: files are read and put together once for each choice of options."""

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes as Hydra's loader does.

    Hydra takes a tenth of a second for each job. Most jobs of a sweep differ from others by a seed or another value alone, and
    the same values put into a copy make the same configuration.

    Args:
        hydra: as it is while the command line is checked.
        master: the configuration without swept values.
    """

    def __init__(self, hydra: Hydra, master: DictConfig) -> None:
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        self.loader = hydra.config_loader
        self.master = master
        self.parser = OverridesParser.create()
        self.known: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of the job with these overrides."""
        parsed = self.parser.parse_overrides(list(overrides))
        if any(each.type is not OverrideType.CHANGE for each in parsed):  # their order among the others matters
            return self.loader.load_sweep_config(self.master, list(overrides))
        values = [each for each in parsed if self._is_value(each)]
        try:
            return self._filled(self._base([each for each in parsed if each not in values]), values, parsed)
        except (HydraException, OmegaConfBaseException):  # Hydra's own words for it
            return self.loader.load_sweep_config(self.master, list(overrides))

    def _is_value(self, each: Override) -> bool:
        return each.package is None and not self.loader.repository.group_exists(each.key_or_group)

    def _base(self, chosen: Sequence[Override]) -> DictConfig:
        key = tuple(str(each.input_line) for each in chosen)
        if key not in self.known:
            self.known[key] = self.loader.load_sweep_config(self.master, list(key))
        return copy.deepcopy(self.known[key])

    def _filled(self, config: DictConfig, values: list[Override], parsed: Sequence[Override]) -> DictConfig:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        ours = [each for each in parsed if not each.is_hydra_override()]
        words = config.hydra.job.config.override_dirname
        config.hydra.overrides.task = [each.input_line for each in ours]
        config.hydra.overrides.hydra += [each.input_line for each in values if each.is_hydra_override()]
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=ours, kv_sep=words.kv_sep, item_sep=words.item_sep, exclude_keys=words.exclude_keys
        )
        OmegaConf.copy_cache(from_config=self.master, to_config=config)
        return config


class SweepLoader(ConfigLoaderImpl):
    """Hydra's loader for launchers: what was composed to check the jobs is not composed once more to run them."""

    def __init__(self, compose: Composer) -> None:
        super().__init__(compose.loader.config_search_path)
        self.compose = compose

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """As Hydra's does, for the one ``master_config`` that there is."""
        return self.compose(sweep_overrides)
