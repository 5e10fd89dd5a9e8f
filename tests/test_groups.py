"""Confusing groups: found in matrices like the paper's and by hand, each with its reason; and given by name."""

import numpy as np
import pytest

from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.errors import ConfsegError
from gluon_confseg.groups import ClassGroup, named, output_spaces, partition

CITYSCAPES = (
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,"
    "person,rider,car,truck,bus,train,motorcycle,bicycle"
).split(",")
TABLE_1 = [
    ["building", "wall", "fence", "pole", "traffic light", "traffic sign"],
    ["car", "truck", "bus", "train"],
    ["person", "rider", "motorcycle", "bicycle"],
]
# rough shares of Cityscapes' pixels
SHARES = [36.9, 6.1, 22.8, 0.66, 0.88, 1.2, 0.21, 0.55, 15.9, 1.2, 4, 1.2, 0.14, 7, 0.27, 0.24, 0.23, 0.1, 0.41]

# errors in percent: truth -> prediction. Invented, in the pattern of the paper's Figure 2 and of what networks do on
# Cityscapes: strong inside Table 1's groups, and moderate between road and sidewalk, vegetation and terrain
STREET = """
wall: building 18, fence 7, vegetation 5, pole 2, sidewalk 3
fence: building 10, wall 7, vegetation 5, pole 3, person 1
pole: building 13, vegetation 7, traffic sign 2, traffic light 1, fence 2
traffic light: building 7, pole 4, traffic sign 3, vegetation 3
traffic sign: building 8, pole 3, traffic light 2, vegetation 2.5, fence 1
building: vegetation 1.5, wall .5, fence .4, pole .5, traffic sign .3
road: sidewalk .8, car .3
sidewalk: road 7, building 1.5, terrain 2, vegetation 1, fence 1
vegetation: building 1.5, terrain .8, pole .4
terrain: vegetation 14, sidewalk 6, road 4, fence 2
sky: vegetation 1, building .8
person: building 2.5, rider 2.5, bicycle 1, car 1
rider: person 18, bicycle 9, motorcycle 3, vegetation 1, building 1.5
car: road .7, truck .6, building .7, bus .3
truck: car 14, bus 5, train 3, building 4, wall 1
bus: train 7, truck 4, car 4, building 2
train: bus 14, truck 7, car 2, building 5, wall 1
motorcycle: bicycle 12, rider 8, car 3.5, person 4, building 1
bicycle: person 3, rider 3, motorcycle 2, sidewalk 1, building 2, vegetation 2, fence 1.5
"""
CAMVID = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist".split(",")
CAMVID_SHARES = [16, 24, 1, 30, 5, 11, 1.1, 1.3, 6, 0.7, 0.3]
# measured on CamVid (the largest errors; the rest filled in)
CAMVID_ERRORS = """
pole: building 41, tree 17, sky 12, road 4, pavement 5, sign 3, car 4, pedestrian 3, fence 2
sign: building 43, tree 14, pole 2, car 3, sky 2, pedestrian 2
pedestrian: building 35, pavement 11, car 7, bicyclist 3, tree 3, fence 3, road 3
pavement: road 19, building 3, car 1
bicyclist: pedestrian 14, road 13, car 10, building 9, pavement 6
fence: building 13, tree 8, car 4, pavement 4
tree: building 7, sky 2, pole .5
building: tree 3, sky 1, pole .3, car .5, fence .7
sky: tree 2, building 1.5
car: building 5, road 3
road: pavement 2, car 1
"""


def counts_of(fraction, shares):
    """int64 counts of 10^10 pixels, from off-diagonal fractions and the classes' shares of the pixels."""
    fraction = np.array(fraction, float)
    np.fill_diagonal(fraction, 0)
    np.fill_diagonal(fraction, 1 - fraction.sum(axis=1))
    assert (fraction >= 0).all()
    return np.rint(1e10 * fraction * np.array(shares)[:, None] / np.sum(shares)).astype(np.int64)


def counts_from_text(text, names, shares, weak):
    fraction = np.full((len(names), len(names)), weak)
    for line in text.strip().splitlines():
        truth, errors = line.split(": ")
        for error in errors.split(", "):
            prediction, percent = error.rsplit(" ", 1)
            fraction[names.index(truth), names.index(prediction)] = float(percent) / 100
    return counts_of(fraction, shares)


def figure_2(strong, weak, shares):
    """Every pair inside a group of Table 1 is confused equally strongly, every other pair weakly."""
    fraction = np.full((19, 19), weak)
    for group in TABLE_1:
        index = [CITYSCAPES.index(name) for name in group]
        fraction[np.ix_(index, index)] = strong
    return counts_of(fraction, shares)


def groups_of(counts, names, **options):
    found = partition(ConfusionMatrix.from_counts(counts), names, **options)
    return [[names[index] for index in group.classes] for group in found]


STREET_COUNTS = counts_from_text(STREET, CITYSCAPES, SHARES, weak=0.002)
CAMVID_COUNTS = counts_from_text(CAMVID_ERRORS, CAMVID, CAMVID_SHARES, weak=0.003)


@pytest.mark.parametrize("shares", [SHARES, [1] * 19])
@pytest.mark.parametrize("strong, weak", [(0.15, 0.002), (0.1, 0.01), (0.1, 0.02), (0.05, 0.005), (0.03, 0.001)])
@pytest.mark.parametrize("max_groups", [3, None])
def test_table_1_comes_out_of_the_pattern_of_figure_2(strong, weak, shares, max_groups):
    found = groups_of(figure_2(strong, weak, shares), CITYSCAPES, max_groups=max_groups)
    assert sorted(found) == sorted(TABLE_1)
    assert found[0] == TABLE_1[0]  # six classes confuse more than four do


@pytest.mark.parametrize("seed", range(8))
def test_table_1_comes_out_when_each_rare_class_is_confused_with_one_other(seed):
    rng = np.random.default_rng(seed)
    pairs = "wall building,fence building,pole building,traffic light building,traffic sign building,truck car,bus car"
    pairs += ",train bus,rider person,person rider,motorcycle bicycle,bicycle rider"
    fraction = rng.uniform(0.001, 0.005, (19, 19))
    for pair in pairs.split(","):
        truth, prediction = pair.rsplit(" ", 1)
        fraction[CITYSCAPES.index(truth), CITYSCAPES.index(prediction)] = rng.uniform(0.08, 0.18)
    assert sorted(groups_of(counts_of(fraction, SHARES), CITYSCAPES)) == sorted(TABLE_1)


def test_realistic_street_scenes():
    assert groups_of(STREET_COUNTS, CITYSCAPES) == [TABLE_1[0], TABLE_1[2], TABLE_1[1]]
    # the moderate confusions of ground and plants come fourth
    everything = groups_of(STREET_COUNTS, CITYSCAPES, max_groups=None)
    assert everything[3:] == [["road", "sidewalk", "vegetation", "terrain"]]


@pytest.mark.parametrize("max_group_size", [6, 11])
def test_camvid_does_not_collapse_into_one_group(max_group_size):
    assert groups_of(CAMVID_COUNTS, CAMVID, max_group_size=max_group_size, max_groups=None) == [
        ["building", "pole", "tree", "sign"],
        ["car", "pedestrian", "bicyclist"],
        ["road", "pavement"],
    ]


def test_voc_like_background_joins_the_group_that_it_confuses():
    fraction = np.full((21, 21), 0.001)
    fraction[:, 0] = 0.02  # every object loses a little to the background
    group = [0, 9, 11, 16, 18]
    fraction[group, 0] = 0.2
    fraction[np.ix_(group[1:], group[1:])] = 0.03
    fraction[0] = 0.001
    assert groups_of(counts_of(fraction, [73] + [1.3] * 20), list(range(21)))[0] == group


def test_reasons_explain_the_group():
    reasons = [group.reason for group in partition(ConfusionMatrix.from_counts(STREET_COUNTS), CITYSCAPES)]
    assert reasons[0] == (
        "wall -> building 18.0 %, pole -> building 13.0 %, fence -> building 10.0 %; "
        "70 % of its classes' errors stay inside, largest error out of it: pole -> vegetation 7.0 %"
    )
    # 1 -> 2: 20 of 100; 2 -> 1: 10 of 100; 2 -> 3: 5 of 100; errors of the group: 0.2 + 0.1 + 0.05
    counts = [[100, 0, 0, 0], [0, 80, 20, 0], [0, 10, 85, 5], [0, 0, 0, 100]]
    (group,) = partition(ConfusionMatrix.from_counts(counts))
    assert group == ClassGroup(
        (1, 2),
        "class 1 -> class 2 20.0 %, class 2 -> class 1 10.0 %; "
        "86 % of its classes' errors stay inside, largest error out of it: class 2 -> class 3 5.0 %",
    )
    counts[2] = [0, 10, 90, 0]
    assert partition(ConfusionMatrix.from_counts(counts))[0].reason.endswith(
        "100 % of its classes' errors stay inside, none leave it"
    )


def test_a_rare_class_weighs_as_much_as_a_large_one():
    # 4 -> 5 is 1,000 times rarer than 0 -> 1, and more confusing
    counts = np.diag([900_000, 10**6, 10**6, 10**6, 60, 100])
    counts[0, 1], counts[4, 5] = 100_000, 40
    assert groups_of(counts, list("abcdef")) == [["e", "f"], ["a", "b"]]
    assert groups_of(counts, list("abcdef"), max_groups=1) == [["e", "f"]]


def test_a_class_confused_with_nobody_is_in_no_group():
    assert groups_of(np.diag([5, 6, 7, 8]), list("abcd")) == []
    assert groups_of(np.zeros((4, 4), int), list("abcd")) == []
    assert groups_of([[1]], ["a"]) == []
    used = sum(groups_of(STREET_COUNTS, CITYSCAPES), [])
    assert "sky" not in used and len(set(used)) == len(used)


def test_a_pair_is_negligible_up_to_and_including_the_threshold():
    counts = [[95, 5, 0, 0], [2, 98, 0, 0], [0, 0, 97, 3], [0, 0, 0, 100]]
    assert groups_of(counts, list("abcd"), threshold=0.0) == [["a", "b"], ["c", "d"]]
    assert groups_of(counts, list("abcd"), threshold=0.03) == [["a", "b"]]
    assert groups_of(counts, list("abcd"), threshold=0.05) == []


@pytest.mark.parametrize("counts, names", [(STREET_COUNTS, CITYSCAPES), (CAMVID_COUNTS, CAMVID)])
def test_a_higher_threshold_leaves_fewer_groups(counts, names):
    numbers = [
        len(groups_of(counts, names, threshold=threshold, max_groups=None)) for threshold in np.linspace(0, 0.5, 51)
    ]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] >= 3 and numbers[-1] == 0


def test_ties_are_merged_together_or_not_at_all():
    # the classes 0..5 and the classes 6..9 are each confused evenly among themselves
    fraction = np.zeros((12, 12))
    fraction[:6, :6] = fraction[6:10, 6:10] = 0.05
    counts = counts_of(fraction, [1] * 12)
    names = list("abcdefghijkl")
    assert groups_of(counts, names) == [list("abcdef"), list("ghij")]
    assert groups_of(counts, names, max_group_size=5) == [list("ghij")]  # no five of six are special
    assert groups_of(np.full((5, 5), 7), names[:5]) == []  # everything confused evenly: no structure


def test_equal_groups_across_the_cut_are_left_out():
    fraction = np.zeros((8, 8))
    fraction[0, 1] = 0.2
    fraction[2, 3] = fraction[4, 5] = 0.1
    counts = counts_of(fraction, [1] * 8)
    assert groups_of(counts, list("abcdefgh")) == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert groups_of(counts, list("abcdefgh"), max_groups=2) == [["a", "b"]]
    shares = [1, 1, 1, 1, 2, 1, 1, 1]  # more pixels decide between equal fractions
    assert groups_of(counts_of(fraction, shares), list("abcdefgh"), max_groups=2) == [["a", "b"], ["e", "f"]]


@pytest.mark.parametrize("seed", range(5))
def test_renumbering_keeps_the_sequence_and_the_reasons_where_nothing_is_equal(seed):
    rng = np.random.default_rng(seed)
    counts = STREET_COUNTS + rng.integers(0, 10**4, STREET_COUNTS.shape)
    order = rng.permutation(19)
    expected = partition(ConfusionMatrix.from_counts(counts), CITYSCAPES)
    found = partition(ConfusionMatrix.from_counts(counts[np.ix_(order, order)]), [CITYSCAPES[i] for i in order])
    assert [(sorted(order[list(group.classes)]), group.reason) for group in found] == [
        (list(group.classes), group.reason) for group in expected
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"max_group_size": 1}, "max_group_size"),
        ({"max_groups": 0}, "max_groups"),
        ({"class_names": ["road"]}, "1 class names for a confusion matrix of 11 classes"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ConfsegError, match=message):
        partition(ConfusionMatrix.from_counts(CAMVID_COUNTS), **options)


def test_class_group():
    group = ClassGroup((5, 2, 3), "why")
    assert group.classes == (2, 3, 5)
    assert group.mapping(7).tolist() == [0, 0, 1, 2, 0, 3, 0]
    for classes in ((), (1,), (1, 1, 2)):
        with pytest.raises(ConfsegError, match="at least two different classes"):
            ClassGroup(classes)


def test_named_groups_keep_their_order():
    groups = named(CITYSCAPES, [TABLE_1[1], TABLE_1[0][::-1]])
    assert [group.classes for group in groups] == [(13, 14, 15, 16), (2, 3, 4, 5, 6, 7)]
    assert groups[0].reason == "chosen by name"


def test_the_papers_groups_by_name():
    from gluon_confseg import labels

    groups = named(labels.CITYSCAPES, labels.CITYSCAPES.named_groups["paper"])
    assert [[CITYSCAPES[index] for index in group.classes] for group in groups] == TABLE_1
    (group,) = named(labels.VOC, labels.VOC.named_groups["paper"])
    assert group.classes == (0, 9, 11, 16, 18)


@pytest.mark.parametrize(
    "groups, message",
    [
        ([["car", "bulding"]], "group 1: unknown class 'bulding'; did you mean 'building'?"),
        ([["car", "zeppelin"]], "group 1: unknown class 'zeppelin'; the classes are road, sidewalk, "),
        ([["car", 14]], "group 1: unknown class 14; the classes are"),
        ([["car", "bus"], ["bus", "train"]], "class 'bus' is in group 1 and again in group 2"),
        ([["car", "bus", "car"]], "class 'car' is in group 1 and again in group 1"),
        ([["car"]], "group 1 has 1 of the 19 classes; a group needs at least 2 and fewer than all 19 classes"),
        ([["car", "bus"], []], "group 2 has 0 of the 19 classes"),
        ([CITYSCAPES], "group 1 has 19 of the 19 classes"),
        (["car"], "group 1 must be a list of class names, not the text 'car'"),
    ],
)
def test_wrong_named_groups(groups, message):
    with pytest.raises(ConfsegError) as error:
        named(CITYSCAPES, groups)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_controls_of_the_groups_have_their_sizes():
    found = [ClassGroup((0, 3, 5)), ClassGroup((1, 2))]
    spaces = output_spaces(found, 9, seed=4)
    assert spaces["groups"] == found and spaces["all"] == spaces["focused"] == [None, None]
    drawn = [group.classes for group in spaces["random"]]
    assert [len(classes) for classes in drawn] == [3, 2] and len(set(sum(drawn, ()))) == 5
    assert output_spaces(found, 9, seed=4) == spaces
    several = {tuple(group.classes for group in output_spaces(found, 9, seed)["random"]) for seed in range(9)}
    assert len(several) > 5
    assert output_spaces([], 9, seed=4) == {"groups": [], "random": [], "all": [], "focused": []}
