"""Which results report and notebook show by default, and what the page says of seeds, rivals and what nobody ran."""

import os

import pytest
from test_results import BETTER, WORSE, cell
from test_results import tree as bare_tree

from gluon_confseg import page, paper_tables, results


def tree(**options):
    made = bare_tree(**options)
    made["config"]["encoder"] = {"name": "small"}
    return made


def write(path, made, *, age=0):
    results.write(path, made)
    os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))


@pytest.fixture
def folders(tmp_path):
    committed, local = tmp_path / "results", tmp_path / "runs"
    for seed in (0, 1):
        write(committed / f"voc-seed{seed}.json", tree(seed=seed))
    return committed, local


def shown(folders):
    return [str(source.path.relative_to(folders[0].parent)) for source in page.default_sources(*folders)]


def test_default_is_what_is_committed(folders):
    assert shown(folders) == ["results/voc-seed0.json", "results/voc-seed1.json"]


def test_default_adds_the_newest_run_which_replaces_the_same_seed(folders):
    write(folders[1] / "old" / "results.json", tree(seed=5), age=100)
    write(folders[1] / "new" / "results.json", tree(seed=1, better=WORSE))
    assert shown(folders) == ["results/voc-seed0.json", "runs/new/results.json"]
    assert len(paper_tables.run_sets([source.results for source in page.default_sources(*folders)])) == 1


def test_default_adds_all_seeds_of_the_newest_study(folders):
    write(folders[1] / "old" / "results.json", tree(seed=5), age=100)
    for seed in (2, 3):
        write(folders[1] / "voc-study" / f"seed{seed}" / "results.json", tree(seed=seed), age=seed)
    assert shown(folders)[2:] == ["runs/voc-study/seed2/results.json", "runs/voc-study/seed3/results.json"]


def test_the_page(folders, tmp_path):
    page.write(tmp_path / "page.html", page.default_sources(*folders))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Figures 2, 5, 6, 8 and 9 of the paper (ResNet-101 on Cityscapes): not run" in text
    assert "Figure 7 of the paper (ResNet-38 on Cityscapes): not run" in text
    assert "3 cells, seeds 0, 1" in text  # the same groups: one row for both
    assert text.count('<div class="box"') == text.count("<table>") + text.count("<figure>")


def test_built_in_images_are_no_reproduction(tmp_path):
    made = tree(table="table3_resnet101_cityscapes")
    made["dataset"]["source"] = "built-in"
    sets = paper_tables.run_sets([results.parse(made, "x")])
    assert len(paper_tables.figures_not_run(sets)) == 2
    assert any("no reproduction" in note for note in paper_tables.table_of_cells(3, sets).notes)


def test_loss_max_pooling_is_drawn_beside_the_method():
    made = tree()
    made["cells"] += [cell("lmp", "LMP", "control", WORSE), cell("best", "best", "control", BETTER)]
    made["config"]["losses"] = {"lmp": {"kind": "loss_max_pooling"}, "ce": {"kind": "cross_entropy"}}
    made["config"]["cells"] = [{"key": "lmp", "subnet0": "lmp", "subnets": None}]
    (each,) = paper_tables.run_sets([results.parse(made, "x")])
    assert each.rivals() == {"lmp": "LMP", "best": "best"}
