"""confseg study on generated data: the repository's own study over two seeds, continued, extended, refused."""

import json

import pytest
import yaml
from click.testing import CliRunner

from gluon_confseg import cli, config, results, seeds, study
from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.options import parse_seeds
from gluon_confseg.places import CONFIGS

FILE = CONFIGS.parent / "study.yaml"
TINY = [
    "data.built_in={train: 4, val: 2, size: [64, 96]}",
    "augment.crop=[48, 64]",
    "baseline={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0, learning_rate: 0.01}",
    "subnets={epochs: 1, batch_size: 2, max_updates_per_epoch: 1, warmup: 0}",
    "subnet0.channels=8",
    "subnet.channels=8",
    "groups.threshold=0.0001",
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of the repository's study after two seeds, and what was printed."""
    folder, cache = tmp_path_factory.mktemp("study") / "here", tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        settings = [part for setting in TINY for part in ("--set", setting)]

        def start(*options):
            arguments = ["study", "camvid", "--cpu", "--output", str(folder), *settings, *options]
            return CliRunner().invoke(cli.cli, arguments, catch_exceptions=True)

        yield folder, start("--seeds", "0"), start("--seeds", "0-1"), start


def test_every_cell_of_the_study_runs(ran):
    folder, first, second, _ = ran
    assert first.exit_code == second.exit_code == 0, second.output
    keys = {cell["key"] for cell in yaml.safe_load(FILE.read_text(encoding="utf-8"))["cells"]}
    runs = [results.read(folder / f"seed{seed}" / "results.json") for seed in (0, 1)]
    assert {cell.key for cell in runs[1].cells} == keys and len(keys) > 30
    tables = (folder / study.TABLES_FILE).read_text(encoding="utf-8")
    assert "n = 2 seeds (0, 1)" in tables and "loss max-pooling" in tables
    assert tables == "\n\n".join(table.markdown() for table in seeds.tables(runs)) + "\n"


def test_a_seed_that_is_finished_is_not_run_again(ran):
    folder, _, _, _ = ran
    log = (folder / "seed0" / "run.log").read_text(encoding="utf-8")
    assert log.count("baseline: finished in") == 1 and "subnets: finished before" in log


def test_the_plan_and_what_is_left_are_printed(ran):
    _, first, second, _ = ran
    assert "cells; of each seed one baseline, and in one pass 23 heads of subnet 0 and" in first.output
    assert "  seed 0: to do\n" in first.output
    assert "  seed 0: finished in 0." in second.output and "  seed 1: to do\n" in second.output
    assert "seed 0 is finished (0." in second.output and "; 1 left: seed 1\n" in second.output
    assert "; it was the last one\n" in second.output


def test_cells_of_finished_seeds_that_are_others(ran):
    settings = config.load(CONFIGS / "camvid.yaml")
    status = study._status(ran[0] / "seed0", settings)
    assert status.startswith("finished in 0.") and "removed (" in status and "rival_focal" in status
    assert study._status(ran[0] / "seed9", settings) == "to do"


def test_interrupted(ran, monkeypatch):
    folder, _, _, start = ran
    run, seeds_run = study.pipeline.run, []

    def stop(*arguments, **options):
        seeds_run.append(options["output"])
        if len(seeds_run) == 2:
            raise KeyboardInterrupt
        return run(*arguments, **options)

    monkeypatch.setattr(study.pipeline, "run", stop)
    result = start("--seeds", "0,1")
    assert "study interrupted in seed 1: seed 0 finished; the same command continues" in result.output
    assert result.exit_code != 0


def test_heads_of_the_controls(ran):
    """As many as there are groups, of all classes or of drawn groups; losses have their own stride and counts."""
    folder, _, _, _ = ran
    files = {file.name for file in (folder / "seed0").glob("*.params")}
    number = len(yaml.safe_load((folder / "seed0" / "groups.yaml").read_text(encoding="utf-8")))
    for end in ("ce.params", "recall.all.params", "new_unit.random.params", "recall.focused.params"):
        assert {f"subnet{m}.{end}" for m in range(1, number + 1)} <= files
    shapes = ["near", "far", "stages"][:number]
    assert {f"subnet{m}.new_unit.{shape}.params" for m, shape in enumerate(shapes, 1)} <= files
    assert "subnet1.new_unit.far.params" not in files
    weights = mx.nd.load(str(folder / "seed0" / f"subnet{number}.recall.all.{shapes[-1]}.params"))
    assert weights["body.0.weight"].shape[:2] == (128, {"near": 128, "far": 128, "stages": 192}[shapes[-1]])
    assert (folder / "seed0" / "confusion-val.npz").is_file()
    made_from = json.loads((folder / "seed0" / "stages" / "confusion.json").read_text())["made_from"]
    assert made_from["counted_on"] == ["val"]


def test_other_settings_are_refused(ran):
    result = ran[3]("--seeds", "0-1", "--set", "baseline.learning_rate=0.5")
    assert isinstance(result.exception, ConfsegError) and "was finished with other settings" in str(result.exception)


def test_a_control_can_be_exported_and_used(ran, tmp_path):
    from gluon_confseg import export

    folder = ran[0] / "seed0"
    made = export.export(str(folder), "control_ensemble_ce", str(tmp_path / "graph"), export.Options("symbol"))
    assert json.loads((made / "network.json").read_text())["groups"] == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed: [0]", "unknown key 'seed'"),
        ("cells: []", "seeds: wants"),
        ("seeds: [0, 0]", "seeds: wants"),
        ("seeds: [-1]", "seeds: wants"),
        ("seeds: 3", "seeds: wants"),
        ("seeds: [true]", "seeds: wants"),
    ],
)
def test_a_study_that_is_none(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfsegError, match=message):
        study.read(path)


def test_seeds_of_the_option_replace_those_of_the_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("seeds: [3]\nlosses: {}")
    assert study.read(path) == ((3,), {"losses": {}})
    assert study.read(path, [0, 5]) == ((0, 5), {"losses": {}})


def test_cells_of_the_option_are_kept_with_the_baseline_and_their_comparisons():
    whole, chosen = study.read(FILE), study.read(FILE, keys=["rival_ohem", "subnets_new"])
    assert [cell["key"] for cell in chosen.settings["cells"]] == ["subnet0_ce", "subnets_new", "rival_ohem"]
    assert chosen.settings["comparisons"] == []
    chosen = study.read(FILE, keys=["control_subnet0_ce", "subnets_new"])
    assert chosen.settings["comparisons"] == [["subnets_new", "control_subnet0_ce"]]
    rest = ("cells", "comparisons")
    assert {k: v for k, v in chosen.settings.items() if k not in rest} == {
        k: v for k, v in whole.settings.items() if k not in rest
    }


def test_comparisons_may_be_pairs_as_in_a_run_s_own_config(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("seeds: [0]\ncells: [{key: a}, {key: b}, {key: c}]\ncomparisons: [[b, a], [c, b]]")
    assert study.read(path, keys=["b"]).settings["comparisons"] == [["b", "a"]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("seeds: [0]", "--cells wants lists"),
        ("seeds: [0]\ncells: [a]", "--cells wants lists"),
        ("seeds: [0]\ncells: [{key: a}]\ncomparisons: 3", "--cells wants lists"),
        ("seeds: [0]\ncells: [{key: a}]\ncomparisons: {a: b}", "study.yaml: comparisons: a: wants the list of cells"),
        ("seeds: [0]\ncells: [{key: a}, {}]", "has no cell 'b'; it has a, None"),
    ],
)
def test_cells_that_the_file_does_not_have(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfsegError, match=message):
        study.read(path, keys=["b"])


@pytest.mark.parametrize("option", ["--cells", "--seeds"])
def test_an_empty_option_is_a_mistake_and_not_the_default(option):
    result = CliRunner().invoke(cli.cli, ["study", "camvid", option, ""])
    assert isinstance(result.exception, ConfsegError) and str(result.exception).startswith(option)


@pytest.mark.parametrize("text, seeds", [("0", [0]), ("0-2,7", [0, 1, 2, 7]), (" 3 , 4 ", [3, 4])])
def test_parse_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "0-99999", "1,,2", "1-2-3"])
def test_seeds_that_are_none(text):
    with pytest.raises(ConfsegError, match="--seeds"):
        parse_seeds(text)


def test_a_cell_is_compared_with_each_of_a_list():
    overlay = {"comparisons": {"subnets_new": ["subnets_ce", "subnet0_new"], "subnets_ce": ["subnet0_ce"]}}
    made = config.load(CONFIGS / "camvid.yaml", overlay=overlay)
    pairs = (("subnets_new", "subnets_ce"), ("subnets_new", "subnet0_new"), ("subnets_ce", "subnet0_ce"))
    assert made.comparisons == pairs
    assert config.parse(config.to_tree(made), "config.json") == made


@pytest.mark.parametrize(
    "comparisons, message",
    [
        ({"subnets_new": ["nowhere"]}, "no cell 'nowhere'"),
        ({"nowhere": ["subnets_new"]}, "no cell 'nowhere'"),
        ({"subnets_new": "subnets_ce"}, "comparisons: subnets_new: wants the list of cells .*, got 'subnets_ce'"),
        (3, "comparisons: .*tuple"),
    ],
)
def test_what_a_study_lays_over_a_config_is_checked_with_it(comparisons, message):
    with pytest.raises(ConfsegError, match=message):
        config.load(CONFIGS / "camvid.yaml", overlay={"comparisons": comparisons})
