"""Every mistake on the command line: exit code 2, one or two lines that name what was typed and what is near, nothing left."""

from pathlib import Path

import pytest
from standins import Command, Jobs

from mtl_runner.errors import UserError

EXPERIMENTS = str(Path(__file__).resolve().parents[2] / "experiments")
MISTAKES = {
    "sharing=sofft": ["sharing=sofft", "adapters, cgc", "did you mean 'soft'?"],
    "sharin=soft": ["sharin=soft", "did you mean 'sharing'?"],
    "trainer.epoch=3": ["trainer.epoch=3", "batch_size", "did you mean 'epochs'?"],
    "+trainer.epoch=3": ["trainer.epoch", "batch_size", "did you mean 'epochs'?"],
    "encoder.hiden=[3]": ["encoder.hiden=[3]", "did you mean 'hidden'?"],
    "+encoder.hiden=[3]": ["encoder.hiden", "MLP", "did you mean 'hidden'?"],
    "+sede=1": ["sede", "did you mean 'seed'?"],
    "~sharing": ["sharing", "is missing"],
    "~foo": ["foo"],
    "trainer.epochs=many": ["trainer.epochs=many", "whole number"],
    "trainer.epochs=0": ["trainer.epochs=0", "greater than or equal to 1"],
    "trainer.epochs=1.5": ["trainer.epochs=1.5", "whole number"],
    "trainer.precision=fp15": ["trainer.precision=fp15", "fp32, bf16", "did you mean 'fp32'?"],
    "trainer.device=gpu": ["trainer.device=gpu", "auto, cpu, cuda, cuda:N, mps"],
    "trainer.deterministic=maybe": ["trainer.deterministic=maybe", "boolean"],
    "trainer.early_stopping.patience=-1": ["trainer.early_stopping.patience=-1"],
    "trainer.early_stopping=5": ["trainer.early_stopping=5"],
    "trainer=5": ["trainer=5", "mtl options"],
    "encoder=[3]": ["encoder=[3]", "mtl options"],
    "trainer.early_stopping=[3]": ["trainer.early_stopping=[3]", "{key:value}"],
    "dataset.tasks=[digit]": ["dataset.tasks=[digit]", "dataset.only=[digit]"],
    "encoder.hidden=wide": ["encoder.hidden=wide", "list"],
    "encoder.hidden=[128,none]": ["encoder.hidden.1=none", "whole number"],
    "encoder.dropout=1.5": ["encoder.dropout=1.5", "less than 1"],
    "encoder.activation=rellu": ["encoder.activation=rellu", "did you mean 'relu'?"],
    "optimizer.lr=fast": ["optimizer.lr=fast", "number"],
    "seed=": ["seed", "whole number"],
    "seed=1,2": ["seed=1,2", "-m", "seed=[1,2]"],
    "seed=[1": ["seed=[1", "key=value"],
    "optoins": ["optoins", "did you mean 'options'?"],
    "trainer.epochs=${trainer.epoch}": ["trainer.epochs", "trainer.epoch"],
    "trainer.epochs=???": ["trainer.epochs", "is missing"],
    "imbalance.focal.gamma=3": ["imbalance.focal.gamma=3", "mtl options imbalance"],
    "imbalance=[focal,class_weight]": ["class_weight", "did you mean 'class_weights'?"],
    "hydra.job.chdir=maybe": ["hydra.job.chdir=maybe"],
    "hydra/job_logging=loud": ["hydra/job_logging=loud", "stdout"],
    "hydra/launcher=ray": ["hydra/launcher=ray", "pip install 'mtl-runner[ray]'"],
    "hydra/launcher=jobib": ["hydra/launcher=jobib", "basic", "did you mean 'joblib'?"],
    "init_from={run:3}": ["init_from.run=3", "string"],
    "init_from={run:a,frozn:true}": ["init_from.frozn", "did you mean 'frozen'?"],
    "init_from={frozen:true}": ["init_from.run", "is missing"],
    "++resume.x=1": ["resume"],
    "weighting=[mgda,pcgrad]": ["weighting=[mgda,pcgrad]", "one option", "-m weighting="],
    "search.trials=3": ["search.trials=3", "belongs to `mtl tune`", "mtl tune search.trials=3"],
    "search=tpe": ["search=tpe", "mtl tune search=tpe"],
    "+search=tpe": ["`mtl tune` takes the same arguments"],
    "space={seed:{low:0,high:3}}": ["`mtl tune` has search.space={seed:{low:0,high:3}}"],
    "by=sharing": ["by=sharing: is no key of a run; an option of `mtl compare`: --by"],
    "step_size=1": ["step_size=1", "`mtl affinity`: --step-size"],
    "weighting=MGDA": ["weighting=MGDA", "upgrad", "did you mean 'mgda'?"],
    'dataset.tasks={"fr.aud":{type:binary},"a, 1":{type:count}}': [
        "no key in quotes, and no 'a, 1' without",
        "a YAML file (-cd, -cn)",
    ],
    "dataset.tasks={τμήμα:{type:binary}}": ["no key in quotes, and no 'τμήμα' without; such a name needs a YAML file"],
    'dataset.tasks={"fr.aud":{type:binary}}': ["Hydra takes no key in quotes; write fr.aud without them"],
    'name={a:"b:c"': ["cannot be read as key=value; quote a value"],
    "dataset.tasks={digit:multiclass}": ["dataset.tasks.digit=multiclass: must be a mapping: {digit:{type:multiclass}}"],
    "init_from=runs/x": ["init_from=runs/x: must be a mapping: {run:runs/x}"],
    "--sharing=hard": ["--sharing=hard: there is no such flag; keys and groups have no dashes: sharing=hard"],
    "--trainer.epochs=3": ["no dashes: trainer.epochs=3"],
    "--sharin=hard": ["--sharin=hard: there is no such flag (did you mean 'sharing=hard'?)"],
    "--multirum": ["--multirum: there is no such flag (did you mean '--multirun'?)"],
    "--batch-size=3": ["--batch-size=3: is no key of a run; an option of `mtl predict`: --batch-size"],
    "--trials=9": ["--trials=9", "`mtl tune` has search.trials=9"],
    "--multi": ["--multi: there is no such flag (did you mean '--multirun'?)"],
    "-x": ["-x: there is no such flag; `mtl-run --hydra-help` lists them"],
    "--cfg=jobb": ["--cfg", "jobb", "all"],
}


def _said(result: object, *parts: str) -> None:
    code, err = result.code, result.err  # type: ignore[attr-defined]
    assert code == 2, err
    assert 1 <= len(err.strip().splitlines()) <= 2, err
    for part in parts:
        assert part in err


def test_an_option_of_a_type_that_is_not_typed(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    """The data set knows the type later; no type that has such an option takes this value."""
    _said(
        mtl_run("dataset=conll", "dataset.path=t.tsv", "+dataset.tasks={pos:{output:crff}}"),
        "dataset.tasks.pos.output=crff",
        "softmax, crf",
        "did you mean 'crf'?",
    )
    assert not jobs.calls and not jobs.prepared and not list(folder.iterdir())


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_named_and_leaves_nothing(mtl_run: Command, jobs: Jobs, folder: Path, typed: str) -> None:
    _said(mtl_run(typed), *MISTAKES[typed])
    assert not jobs.calls and not jobs.prepared and not list(folder.iterdir())


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (["-cn", "confg"], ["--config-name confg", "did you mean 'config'?"]),
        (["-cd", EXPERIMENTS, "-cn", "recomendation"], ["--config-name recomendation", "did you mean 'recommendation'?"]),
        (["-cd", "nowhere"], ["--config-dir nowhere"]),
        (["-cd"], ["--config-dir/-cd: expected one argument"]),
        (["--dataset", "table"], ["--dataset table: there is no such flag", "no dashes: dataset=table"]),
        (["-cd", "a", "-m", "--config-dir=b"], ["--config-dir is given more than once: a, b", "'hydra.searchpath=[file://b]'"]),
        (["-cn", "a", "-cn=b"], ["--config-name is given more than once: a, b; one is read"]),
        (["-cn", "tune"], ["`mtl tune` takes the same arguments"]),
        (["-m", "search=tpe,random"], ["search=tpe,random", "belongs to `mtl tune`"]),
        (["-m", "--cfg", "job"], ["only one of"]),
        (["--resolve"], ["--resolve"]),
        (["--cfg", "job", "sharing=sofft"], ["did you mean 'soft'?"]),
        (["--cfg", "job", "--resolve", "seed=${nothing}"], ["nothing"]),
        (["--help", "sharing=sofft"], ["did you mean 'soft'?"]),
        (["--info", "config", "sharing=sofft"], ["did you mean 'soft'?"]),
        (["-m", "sharing=hard,sofft"], ["did you mean 'soft'?"]),
        (["-m", "trainer.epochs=1,2,0"], ["trainer.epochs=0"]),
        (["-m", "seed=interval(0,1)"], ["sweep"]),
        (["-m", "hydra.job.chdir=true,false"], ["hydra.job.chdir"]),
        (["hydra.mode=MULTIRUN", "trainer.l1=0,-1"], ["trainer.l1=-1"]),
    ],
)
def test_a_mistake_with_flags(mtl_run: Command, jobs: Jobs, folder: Path, typed: list[str], parts: list[str]) -> None:
    _said(mtl_run(*typed), *parts)
    assert not jobs.calls and not jobs.prepared and not list(folder.iterdir())


LISTED = ("dataset=table", "dataset.path=my.csv", "dataset.tasks=[fraud,spend]")


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ((*LISTED, "dataset.tasks.spend.type=regression"), ["a list", "dataset.tasks={fraud:{},spend:{type:regression}}"]),
        ((*LISTED, "dataset.tasks.spend={role: main}"), ["a list", "dataset.tasks={fraud:{},spend:{role: main}}"]),
        ((*LISTED, "+dataset.tasks.speed.loss.x=3"), ["a list", "dataset.tasks={fraud:{},spend:{},speed:{loss:{x:3}}}"]),
        (("encoder.hidden.first=3",), ["encoder.hidden.first=3: encoder.hidden is a list, which has no key 'first'"]),
        (("dataset=table", "encoder=[3]"), ["error: encoder=[3]: the name of an option"]),
    ],
)
def test_a_key_below_a_list(mtl_run: Command, typed: tuple[str, ...], parts: list[str]) -> None:
    _said(mtl_run(*typed), *parts)


def test_a_value_that_is_wrong_inside_is_not_said_to_be_of_another_kind(mtl_run: Command) -> None:
    assert "must be a list" not in mtl_run("dataset.tasks={digit:multiclass}").err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: [1\nname: x\n", ["study.yaml", "line 2"]),
        ("defaults: [config, _self_]\nhydra: {job: {chdir: maybe}}\n", ["study", "maybe"]),
        ("defaults: [config, _self_]\nsed: 3\n", ["sed", "did you mean 'seed'?"]),
        ("defaults: [config, _self_, {sharing: sofft}]\n", ["sharing"]),
        ("defaults: [config, _self_]\nresume: runs/x\n", ["resume=runs/x"]),
    ],
)
def test_a_mistake_in_a_file(mtl_run: Command, jobs: Jobs, folder: Path, text: str, parts: list[str]) -> None:
    (folder / "study.yaml").write_text(text)
    _said(mtl_run("-cd", ".", "-cn", "study"), *parts)
    assert not jobs.calls and [path.name for path in folder.iterdir()] == ["study.yaml"]


def test_all_mistakes_are_said_at_once(mtl_run: Command, jobs: Jobs) -> None:
    result = mtl_run("trainer.epochs=0", "encoder.dropout=2", "optimizer.lr=fast")
    assert result.code == 2 and len(result.err.splitlines()) == 3
    for part in ("trainer.epochs=0", "encoder.dropout=2", "optimizer.lr=fast"):
        assert part in result.err


def test_the_traceback_is_there_when_asked_for(mtl_run: Command, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match="sofft"):
        mtl_run("sharing=sofft")
    jobs.act = lambda call: (_ for _ in ()).throw(UserError("wrong data"))
    with pytest.raises(UserError, match="wrong data"):
        mtl_run()


def test_a_wrong_value_is_found_before_any_data_is_read(mtl_run: Command, folder: Path) -> None:
    """With the real program: neither a run folder nor a tracking database comes into being."""
    assert mtl_run("trainer.epochs=0").code == 2
    assert not list(folder.iterdir())
