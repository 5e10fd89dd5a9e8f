"""What holds of the groups of every confusion matrix, on matrices that hypothesis makes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.groups import partition


@st.composite
def matrices(draw):
    """Few different values, so that ties are the rule; absent classes included."""
    size = draw(st.integers(2, 9))
    values = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, 20]), min_size=size**2, max_size=size**2))
    return np.array(values).reshape(size, size) + np.diag(draw(st.sampled_from([0, 10, 100])) * np.ones(size, int))


OPTIONS = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([0, 0.01, 0.05, 0.2]),
        "max_group_size": st.integers(2, 7),
        "max_groups": st.sampled_from([None, 1, 2, 3]),
    }
)


def index_sets(counts, **options):
    return [group.classes for group in partition(ConfusionMatrix.from_counts(counts), **options)]


@settings(max_examples=150, deadline=None)
@given(matrices(), OPTIONS, st.randoms(use_true_random=False))
def test_renumbering_the_classes_renumbers_the_groups(counts, options, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    found = index_sets(counts, **options)
    shuffled = index_sets(counts[np.ix_(order, order)], **options)
    assert sorted(tuple(sorted(order[i] for i in group)) for group in shuffled) == sorted(found)


@settings(max_examples=100, deadline=None)
@given(matrices(), OPTIONS)
def test_groups_are_disjoint_and_within_their_limits(counts, options):
    found = index_sets(counts, **options)
    used = sum(found, ())
    assert len(set(used)) == len(used)
    assert all(2 <= len(group) <= min(options["max_group_size"], len(counts) - 1) for group in found)
    assert len(found) <= (options["max_groups"] or len(counts))
    assert index_sets(counts, **{**options, "threshold": 1}) == []


@settings(max_examples=100, deadline=None)
@given(matrices(), st.integers(2, 7))
def test_raising_the_threshold_only_shrinks_and_removes_groups(counts, size):
    below = None
    for threshold in (0, 0.01, 0.03, 0.1, 0.3, 0.6, 1):
        found = index_sets(counts, threshold=threshold, max_group_size=size, max_groups=None)
        if below is not None:
            assert len(found) <= len(below)
            assert all(any(set(group) <= set(larger) for larger in below) for group in found)
        below = found
