"""``mtl tune``: searches for good values by the validation part, and writes the best as a configuration."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from mtl_runner.commands.flags import Flags

USAGE = """\
Tries values of keys and options until the study has its trials; the same command goes on with it.

  mtl tune 'search.space={optimizer.lr:{low:1e-4,high:1e-2,log:true},sharing:{choices:[hard,soft]}}'
  mtl tune -cd experiments -cn tune_digits                 a study of one's own, whose defaults name tune
  mtl tune -cd experiments -cn tune_digits search=random search.trials=100 search.processes=2
  mtl-run -cd runs/tune/tune_digits -cn best -m 'seed=range(5)'    what was found, with several seeds

`mtl options search` lists the samplers, conf/search/tpe.yaml has all keys of a search, docs/tune.md explains them."""


def tune(arguments: Sequence[str]) -> int:
    """Does what ``mtl tune ARGUMENTS`` asks for; returns the exit code."""
    args = _parser().read(arguments)
    from mtl_runner.commands.searching.running import search

    return search(args.config_name, args.config_dir, args.overrides)


def _parser() -> Flags:
    parser = Flags(
        "mtl tune --help",
        prog="mtl tune",
        usage="mtl tune [group=option ...] [key=value ...] [-cd DIR] [-cn NAME]",
        description=USAGE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="as for mtl-run; search.KEY=VALUE changes the search")
    parser.add_argument("-cn", "--config-name", metavar="NAME", default="tune", help="another primary configuration")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="add a folder of your own configurations")
    return parser
