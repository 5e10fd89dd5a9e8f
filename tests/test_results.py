"""results.json and the tables made from it: exact cells for hand-made runs."""

import copy
import json

import numpy as np
import pytest

from gluon_confseg import paper, results, seeds
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError

CLASSES = ["road", "pole", "sky"]
# IoU 60/70, 30/40, absent: mean 0.803571..., accuracy 0.9, recall (60/60 + 30/40) / 2
BASELINE = [[60, 0, 0], [10, 30, 0], [0, 0, 0]]
# IoU 60/65, 35/40: mean 0.899038..., accuracy 0.95
BETTER = [[60, 0, 0], [5, 35, 0], [0, 0, 0]]
# IoU 60/75, 25/40: mean 0.7125, accuracy 0.85
WORSE = [[60, 0, 0], [15, 25, 0], [0, 0, 0]]


def cell(key, title, role, counts, paper_table=None):
    matrix = ConfusionMatrix.from_counts(np.array(counts))
    return results.make_cell(matrix, key=key, title=title, role=role, paper_table=paper_table).model_dump()


def tree(seed=0, table="table5_resnet101_voc", better=BETTER):
    return {
        "format": 1,
        "name": "voc",
        "seed": seed,
        "dataset": {
            "name": "voc",
            "source": "option",
            "train": {"split": "trainaug", "images": 8, "fingerprint": "a"},
            "val": {"split": "val", "images": 4, "fingerprint": "b"},
            "confusion_images": "train",
        },
        "classes": CLASSES,
        "groups": [{"classes": ["road", "pole"], "reason": "pole is taken for [ road  ]"}],
        "paper_table": table,
        "cells": [
            cell("subnet0_ce", "subnet 0, CE (baseline)", "baseline", BASELINE, table),
            cell("subnets_ce", "subnets 0-1, CE", "paper", better, table),
            cell("control_subnet0_ce", "subnet 0, CE, longer", "control", WORSE, table),
        ],
        "subnets": [
            {"group": 1, "loss": "ce", "miou_group": 0.5, "baseline_miou_group": 0.525},
            {"group": 1, "loss": "new", "miou_group": 0.55, "baseline_miou_group": 0.525},
        ],
        "seconds": {"baseline": 1.0},
        "versions": {"mxnet": "1.9.1"},
        "config": {"seed": seed, "devices": "auto", "baseline": {"epochs": 3}},
    }


def run(**options):
    return results.parse(tree(**options), "here.json")


def line_with(text, start):
    return next(line for line in text.splitlines() if line.lstrip("| ").startswith(start))


def columns(line):
    """Cells of a plain table line: at least two spaces lie between them."""
    return [part.strip() for part in line.split("  ") if part.strip()]


def markdown(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_cell_scores_are_those_of_its_counts():
    made = run().cell("subnets_ce")
    assert made.iou == [60 / 65, 35 / 40, None]
    assert made.miou == pytest.approx((60 / 65 + 35 / 40) / 2, abs=1e-15)
    assert made.pixel_accuracy == 0.95
    assert made.mean_recall == (1 + 35 / 40) / 2
    assert made.paper == 76.51
    assert run().cell("control_subnet0_ce").paper is None


def test_run_table_cells():
    text = results.run_table(run())
    assert text.splitlines()[0] == "voc, seed 0: voc val, 4 images, 3 classes (data root: option)"
    assert columns(line_with(text, "subnet 0, CE (baseline)")) == [
        *("subnet 0, CE (baseline)", "baseline", "80.36", "-", "87.50", "90.00", "75.43", "-"),
    ]
    assert columns(line_with(text, "subnets 0-1, CE")) == [
        *("subnets 0-1, CE", "paper", "89.90", "+9.55", "93.75", "95.00", "76.51", "+1.08"),
    ]
    assert columns(line_with(text, "subnet 0, CE, longer")) == [
        *("subnet 0, CE, longer *", "control", "71.25", "-9.11", "81.25", "85.00", "-", "-"),
    ]


def test_run_table_subnets_and_warning():
    text = results.run_table(run())
    assert columns(line_with(text, "1  ce")) == ["1", "ce", "50.00", "52.50", "-2.50", "road, pole"]
    assert columns(line_with(text, "1  new")) == ["1", "new", "55.00", "52.50", "+2.50", "road, pole"]
    warnings = [line for line in text.splitlines() if line.startswith("warning: subnet")]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: subnet 1 (ce) is 2.50 points worse than the baseline in its own group")


def test_slips_stand_under_the_table_that_has_them_only():
    assert "slip: the paper's text (section 4.2) gives 75.51" in results.run_table(run())
    assert "74.70 - 73.63 is 1.07" in results.run_table(run(table="table3_resnet101_cityscapes"))
    assert "slip" not in results.run_table(run(table="table4_resnet38_cityscapes"))


def test_no_paper_no_paper_columns():
    text = results.run_table(run(table=None))
    assert columns(line_with(text, "subnets 0-1, CE")) == [
        "subnets 0-1, CE",
        "paper",
        "89.90",
        "+9.55",
        "93.75",
        "95.00",
    ]
    assert "paper mIoU" not in text and "76.51" not in text


def test_notes_on_leak_and_built_in_images():
    plain = results.run_table(run())
    assert "leak" not in plain and "synthetic" not in plain
    changed = tree()
    changed["dataset"].update(confusion_images="val", source="built-in")
    text = results.run_table(results.parse(changed, "here.json"))
    assert "warning: the confusion matrix for the groups and the loss was counted on val" in text
    assert "built-in synthetic images" in text


def test_class_table():
    lines = results.class_table(run()).markdown().splitlines()
    assert markdown(lines[0]) == ["cell", "road", "pole", "sky", "mean"]
    assert [markdown(line) for line in lines[2:]] == [
        ["group", "1", "1", "-", ""],
        ["pixels %", "60.00", "40.00", "0.00", ""],
        ["subnet 0, CE (baseline)", "85.71", "75.00", "-", "80.36"],
        ["subnets 0-1, CE", "92.31", "87.50", "-", "89.90"],
        [r"subnet 0, CE, longer \*", "80.00", "62.50", "-", "71.25"],
    ]


def test_seeds_table():
    runs = [
        run(seed=0, better=[[60, 0, 0], [5, 35, 0], [0, 0, 0]]),  # 60/65, 35/40: mean 89.9038
        run(seed=1, better=[[60, 0, 0], [8, 32, 0], [0, 0, 0]]),  # 60/68, 32/40: mean 84.1176
        run(seed=2, better=[[60, 0, 0], [6, 34, 0], [0, 0, 0]]),  # 60/66, 34/40: mean 87.9545
    ]
    lines = seeds.seeds_table(runs).markdown().splitlines()
    # mean 87.3253, sd 2.9440; baseline 80.3571; t = 6.9682 / (2.9440 / sqrt(3)) = 4.0996, 2 degrees of freedom
    assert markdown(lines[3])[:5] == ["subnets 0-1, CE", "paper", "87.3 ± 2.9", "+7.0 ± 2.9", "0.055"]
    assert markdown(lines[3])[-2:] == ["76.51", "+1.08"]
    assert markdown(lines[2])[:5] == ["subnet 0, CE (baseline)", "baseline", "80.36 ± 0.00", "-", "-"]
    # the same in every seed: no variation, so no test
    assert markdown(lines[4])[:5] == [r"subnet 0, CE, longer \*", "control", "71.25 ± 0.00", "-9.11 ± 0.00", "-"]
    assert any("n = 3 seeds (0, 1, 2)" in line for line in lines)


def test_seeds_table_of_one_and_two():
    assert markdown(seeds.seeds_table([run()]).markdown().splitlines()[3])[2:5] == ["89.90", "+9.55", "-"]
    two = seeds.seeds_table([run(seed=0), run(seed=1, better=[[60, 0, 0], [8, 32, 0], [0, 0, 0]])]).markdown()
    assert markdown(two.splitlines()[3])[2:5] == ["87.0 ± 4.1", "+6.7 ± 4.1", "-"]
    assert "t-test" not in two


def test_small_deviation_keeps_two_decimals():
    assert seeds.spread([0.5, 0.5034, 0.5068]) == "50.34 ± 0.34"
    assert seeds.spread([0.10, 0.30]) == "20.0 ± 14.1"
    assert seeds.spread([-0.001, 0.001], sign=True) == "0.00 ± 0.14"


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda t: t["config"]["baseline"].update(epochs=4), "config.baseline.epochs is 3 and 4"),
        (lambda t: t["dataset"]["val"].update(fingerprint="z"), "dataset.val.fingerprint is 'b' and 'z'"),
        (lambda t: t["config"].update(extra=1), "config.extra is None and 1"),
        (lambda t: t["cells"][0].update(key="other", paper=None), "no baseline in common"),
        (lambda t: t.update(classes=["road", "pole", "tree"]), "classes is"),
    ],
)
def test_seeds_table_refuses_other_runs(change, named):
    other = tree(seed=1)
    change(other)
    with pytest.raises(ConfsegError, match="cannot be averaged|in common") as caught:
        seeds.seeds_table([run(), results.parse(other, "b.json")])
    assert named in str(caught.value)


def test_seeds_table_accepts_other_devices_and_refuses_repetition():
    other = tree(seed=1)
    other["config"]["devices"] = ["gpu(0)"]
    assert "n = 2" in seeds.seeds_table([run(), results.parse(other, "b.json")]).markdown()
    assert "groups differ" not in seeds.seeds_table([run(), results.parse(other, "b.json")]).markdown()
    other["groups"][0]["classes"] = ["road", "sky"]
    assert "groups differ" in seeds.seeds_table([run(), results.parse(other, "b.json")]).markdown()
    with pytest.raises(ConfsegError, match="seed 0 occurs twice"):
        seeds.seeds_table([run(), run()])
    with pytest.raises(ConfsegError, match="at least one"):
        seeds.seeds_table([])


def test_write_and_read_back(tmp_path):
    path = tmp_path / "out" / "results.json"
    results.write(path, tree())
    assert results.read(path) == run()
    assert json.loads(path.read_text(encoding="utf-8")) == tree()
    assert "    [10, 30, 0]" in path.read_text(encoding="utf-8")


DAMAGE = {
    "scores edited": (lambda t: t["cells"][1].update(miou=0.99), "cell subnets_ce: miou is not that of its confusion"),
    "iou edited": (lambda t: t["cells"][1]["iou"].__setitem__(2, 0.5), "cell subnets_ce: iou is not that"),
    "percent": (lambda t: t["cells"][0].update(miou=80.36), "cells.0.miou"),
    "paper edited": (lambda t: t["cells"][1].update(paper=75.51), "paper is 75.51"),
    "unknown table": (lambda t: t.update(paper_table="table9"), "no table 'table9'"),
    "missing": (lambda t: t.pop("classes"), "classes: Field required"),
    "unknown key": (lambda t: t.update(sead=1), "sead: Extra inputs"),
    "small matrix": (lambda t: t["cells"][0]["confusion"].pop(), "cell subnet0_ce: its confusion matrix is not 3x3"),
    "other images": (
        lambda t: t["cells"].__setitem__(1, cell("subnets_ce", "x", "paper", [[9, 0, 0]] * 3, t["paper_table"])),
        "cell subnets_ce: its truth is not the baseline's",
    ),
    "negative": (lambda t: t["cells"][0]["confusion"][0].__setitem__(0, -1), "cells.0.confusion.0.0"),
    "empty": (lambda t: t["cells"][0].update(confusion=[[0] * 3] * 3), "no pixel"),
    "no baseline": (lambda t: t["cells"][0].update(role="control"), "exactly one cell has the role baseline"),
    "same key": (lambda t: t["cells"][2].update(key="subnets_ce"), "two cells have the same key"),
    "no such group": (lambda t: t["subnets"][0].update(group=2), "there is no group 2"),
    "no such class": (lambda t: t["groups"][0].update(classes=["tram"]), "'tram' is not one of the classes"),
    "other format": (lambda t: t.update(format=2), "format"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_results(tmp_path, name):
    change, message = DAMAGE[name]
    damaged = copy.deepcopy(tree())
    change(damaged)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(damaged), encoding="utf-8")
    with pytest.raises(ConfsegError) as caught:
        results.read(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_file_and_refused_write(tmp_path):
    path = tmp_path / "results.json"
    results.write(path, tree())
    whole = path.read_text(encoding="utf-8")
    with pytest.raises(ConfsegError, match="subnets_ce"):
        results.write(path, {**tree(), "cells": [tree()["cells"][0], {**tree()["cells"][1], "miou": 0.5}]})
    assert path.read_text(encoding="utf-8") == whole
    path.write_text(whole[:200], encoding="utf-8")
    with pytest.raises(ConfsegError, match="not valid JSON"):
        results.read(path)


def test_unknown_cell_names_the_keys():
    with pytest.raises(ConfsegError, match="no cell 'subnet_ce'; use one of subnet0_ce, subnets_ce"):
        run().cell("subnet_ce")


def test_paper_numbers():
    assert paper.table("table3_resnet101_cityscapes").cells == {
        **{"subnet0_ce": 74.70, "subnets_ce": 75.55, "subnet0_new": 76.21, "subnets_new": 77.75}
    }
    # the column `gain` of Table 2, as printed
    printed = [1.43, 2.58, 1.82, 4.4, 4.8, None, None, None, 3.16, 0.91, 3.05]
    assert [row.gain for row in paper.TABLE2] == printed


def test_cells_against_each_other():
    pairs = {"comparisons": [["subnets_ce", "subnet0_ce"]]}
    runs = []
    for seed, better in enumerate(([[60, 0, 0], [4, 36, 0], [0, 0, 0]], [[60, 0, 0], [8, 32, 0], [0, 0, 0]])):
        changed = tree(seed=seed, better=better)
        changed["config"].update(pairs)
        runs.append(results.parse(changed, "x"))
    assert len(seeds.tables([run()])) == 1
    whole, pairs = seeds.tables(runs)
    lines = pairs.markdown().splitlines()
    assert markdown(lines[3 - 1])[:2] != markdown(whole.markdown().splitlines()[3])[:2]
    gain = [each.cell("subnets_ce").miou - each.baseline.miou for each in runs]
    assert seeds.spread(gain, sign=True) in lines[2] and "n = 2" in lines[-1] and "t-test" not in lines[-1]


def study_tree(seed, keys, **losses):
    """Results with settings of their cells; "new" is a cell whose loss the others do not have."""
    made = tree(seed=seed)
    made["cells"].append(cell("new", "new loss", "variant", BETTER))
    made["cells"] = [each for each in made["cells"] if each["key"] in keys]
    subnets = {"subnet0_ce": None, "subnets_ce": "ce", "new": "new"}
    made["config"]["cells"] = [
        {"key": key, "title": "", "subnet0": "baseline", "subnets": subnets[key]} for key in keys
    ]
    made["config"]["losses"] = {"ce": {"kind": "cross_entropy"}, "new": {"kind": "confusion"}, **losses}
    made["config"]["comparisons"] = [[keys[-1], "subnet0_ce"]]
    return made


def test_runs_of_different_cells_are_averaged_over_those_that_all_have():
    trees = [study_tree(0, ["subnet0_ce", "subnets_ce"]), study_tree(1, ["subnet0_ce", "subnets_ce", "new"])]
    trees.append(study_tree(2, ["subnet0_ce", "subnets_ce", "new"], new={"kind": "focal"}))  # matters to no shared cell
    runs = [results.parse(each, "x") for each in trees]
    whole, pairs = seeds.tables(runs)
    lines = whole.markdown().splitlines()
    assert [markdown(line)[0] for line in lines[2:5]] == ["subnet 0, CE (baseline)", "subnets 0-1, CE", ""]
    assert "n = 3 seeds (0, 1, 2)" in whole.markdown()
    assert lines[-1] == "- left out, because run with seeds 1, 2 only: new loss"
    assert [row[:2] for row in pairs.rows] == [["subnets 0-1, CE", "subnet 0, CE (baseline)"]]
    assert not seeds.comparable(runs[0], runs[1])


def test_settings_of_shared_cells_must_agree():
    keys = ["subnet0_ce", "subnets_ce"]
    first = results.parse(study_tree(0, keys), "x")
    other = study_tree(1, [*keys, "new"], ce={"kind": "focal"})
    with pytest.raises(ConfsegError, match="config.losses.ce.kind is 'cross_entropy' and 'focal'"):
        seeds.tables([first, results.parse(other, "x")])
    other = study_tree(1, [*keys, "new"])
    other["config"]["cells"][1]["rule"] = "product"
    with pytest.raises(ConfsegError, match="config.cells.subnets_ce.rule is None and 'product'"):
        seeds.tables([first, results.parse(other, "x")])
