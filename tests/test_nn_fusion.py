import numpy as np
import pytest

from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.groups import ClassGroup
from gluon_confseg.nn import Fusion

RULES = ("sum", "product")
OTHERS = ("copy", "divide", "proportional")
SETTINGS = [(rule, others) for rule in RULES for others in OTHERS]

# K = 4, one group of classes 1 and 3: the subnet's outputs are others, 1, 3
GROUP = ClassGroup((1, 3))
FIRST = np.array([0.4, 0.3, 0.2, 0.1])
SECOND = np.array([0.5, 0.3, 0.2])
CARRIED = {
    "copy": [0.5, 0.3, 0.5, 0.2],
    "divide": [0.25, 0.3, 0.25, 0.2],
    "proportional": [0.5 * 4 / 6, 0.3, 0.5 * 2 / 6, 0.2],  # FIRST has 0.4 and 0.2 outside the group
}


def fuse(fusion, *logits):
    fusion.initialize(force_reinit=True)
    return fusion(*[mx.nd.array(x) for x in logits]).asnumpy()


def pixel(probabilities, shift=0.0):
    """(1, C, 1, 1) logits with this softmax."""
    return np.log(np.reshape(probabilities, (1, -1, 1, 1))) + shift


def random_case(seed, num_classes=7, groups=((1, 2, 4), (5, 6)), scale=2.0):
    rng = np.random.default_rng(seed)
    groups = [ClassGroup(group) for group in groups]
    outputs = [num_classes] + [len(group.classes) + 1 for group in groups]
    return groups, [scale * rng.normal(size=(2, n, 3, 4)) for n in outputs]


def log_softmax(x):
    x = np.asarray(x, float) - np.max(x, axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("others", OTHERS)
def test_sum_rule_by_hand(others):
    scores = fuse(Fusion([GROUP], 4, rule="sum", others=others), pixel(FIRST, 3), pixel(SECOND, -2))
    assert scores.shape == (1, 4, 1, 1)
    np.testing.assert_allclose(np.exp(scores.ravel()), (FIRST + CARRIED[others]) / 2, rtol=1e-5)


@pytest.mark.parametrize("others", OTHERS)
def test_product_rule_by_hand(others):
    scores = fuse(Fusion([GROUP], 4, rule="product", others=others), pixel(FIRST, 3), pixel(SECOND, -2))
    np.testing.assert_allclose(scores.ravel(), (np.log(FIRST) + np.log(CARRIED[others])) / 2, rtol=1e-5)


def test_the_default_is_the_papers():
    scores = fuse(Fusion([GROUP], 4), pixel(FIRST), pixel(SECOND))
    np.testing.assert_allclose(np.exp(scores.ravel()), [0.45, 0.3, 0.35, 0.15], rtol=1e-5)


def test_others_is_copied_not_divided():
    # certain that it is none of its classes, the subnet leaves the order of the outside classes alone, and with
    # all of "others" for each they win over its own: divided among 3 they would have 0.3
    scores = np.exp(fuse(Fusion([GROUP], 5), pixel(np.full(5, 0.2)), pixel([0.9, 0.06, 0.04]))).ravel()
    np.testing.assert_allclose(scores, (0.2 + np.array([0.9, 0.06, 0.9, 0.04, 0.9])) / 2, rtol=1e-5)


def test_two_groups_by_hand():
    groups = [ClassGroup((0, 2)), ClassGroup((1, 3))]
    logits = [pixel(FIRST), pixel([0.2, 0.5, 0.3]), pixel([0.6, 0.1, 0.3])]
    carried = np.array([FIRST, [0.5, 0.2, 0.3, 0.2], [0.6, 0.1, 0.6, 0.3]])
    np.testing.assert_allclose(np.exp(fuse(Fusion(groups, 4), *logits)).ravel(), carried.mean(axis=0), rtol=1e-5)
    product = fuse(Fusion(groups, 4, rule="product"), *logits).ravel()
    np.testing.assert_allclose(product, np.log(carried).mean(axis=0), rtol=1e-5)


def test_a_subnet_can_change_the_winner():
    first, second = [0.1, 0.5, 0.0001, 0.3999], [0.02, 0.08, 0.9]  # subnet 0: class 1; the subnet: class 3
    for rule in RULES:
        assert fuse(Fusion([GROUP], 4, rule=rule), pixel(first), pixel(second)).argmax() == 3


def test_classes_of_a_group_are_in_label_order_whatever_order_it_was_given_in():
    scores = [fuse(Fusion([ClassGroup(c)], 4), pixel(FIRST), pixel(SECOND)) for c in ((1, 3), (3, 1))]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("rule, others", SETTINGS)
def test_no_groups_is_subnet_0(rule, others):
    _, (logits, *_) = random_case(0)
    scores = fuse(Fusion([], 7, rule=rule, others=others), logits)
    np.testing.assert_allclose(scores, log_softmax(logits), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores.argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.parametrize("others", ["divide", "proportional"])
def test_a_shared_others_keeps_each_distribution_a_distribution(others):
    groups, logits = random_case(1)
    for m, group in enumerate(groups, 1):  # one at a time: mean of subnet 0's and the carried one
        scores = np.exp(fuse(Fusion([group], 7, others=others), logits[0], logits[m]))
        carried = 2 * scores - np.exp(log_softmax(logits[0]))
        np.testing.assert_allclose(carried.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(carried[:, group.classes], np.exp(log_softmax(logits[m]))[:, 1:], atol=1e-5)
    together = np.exp(fuse(Fusion(groups, 7, others=others), *logits))
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


def test_a_copied_others_counts_once_per_outside_class():
    groups, logits = random_case(2, groups=((1, 2, 4),))  # 4 classes outside
    scores = np.exp(fuse(Fusion(groups, 7), *logits))
    others = np.exp(log_softmax(logits[1]))[:, 0]
    np.testing.assert_allclose(2 * scores.sum(axis=1), 2 + 3 * others, rtol=1e-5)


@pytest.mark.parametrize("others", ["divide", "proportional"])
def test_a_group_with_one_class_outside_shares_nothing(others):
    groups, logits = random_case(3, num_classes=4, groups=((0, 1, 3),))
    for rule in RULES:
        copied = fuse(Fusion(groups, 4, rule=rule), *logits)
        shared = fuse(Fusion(groups, 4, rule=rule, others=others), *logits)
        np.testing.assert_allclose(shared, copied, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule, others", SETTINGS)
def test_permuting_the_classes_permutes_the_scores(rule, others):
    groups, logits = random_case(4)
    frequency = np.arange(1, 8) / 28
    order = np.random.default_rng(4).permutation(7)  # new class n is old class order[n]
    new = np.argsort(order)  # old class c is new class new[c]
    new_groups = [ClassGroup(tuple(new[list(group.classes)])) for group in groups]
    new_logits = [logits[0][:, order]]
    for group, x in zip(groups, logits[1:]):
        inside = np.argsort(new[list(group.classes)])
        new_logits.append(x[:, [0, *(inside + 1)]])
    options = {"rule": rule, "others": others, "adjustment": 0.5}
    scores = fuse(Fusion(groups, 7, class_frequency=frequency, **options), *logits)
    new_scores = fuse(Fusion(new_groups, 7, class_frequency=frequency[order], **options), *new_logits)
    np.testing.assert_allclose(new_scores, scores[:, order], rtol=1e-5, atol=1e-5)
    assert not np.allclose(new_scores, scores, atol=1e-2)


@pytest.mark.parametrize("rule, others", SETTINGS)
def test_a_constant_added_to_a_subnets_logits_changes_nothing(rule, others):
    groups, logits = random_case(5)
    moved = [x + c for x, c in zip(logits, (10, -20, 5))]
    fusion = Fusion(groups, 7, rule=rule, others=others)
    np.testing.assert_allclose(fuse(fusion, *moved), fuse(fusion, *logits), atol=2e-5)


# logit adjustment


def test_logit_adjustment_by_hand():
    frequency = [0.5, 0.25, 0.125, 0.125]  # seen by the subnet: 0.625, 0.25, 0.125
    first = np.array([0.8, 1.2, 1.6, 0.8]) / 4.4  # FIRST / frequency
    second = np.array([0.8, 1.2, 1.6]) / 3.6
    carried = second[[0, 1, 0, 2]]
    logits = pixel(FIRST, 2), pixel(SECOND, -1)
    scores = fuse(Fusion([GROUP], 4, class_frequency=frequency, adjustment=1), *logits)
    np.testing.assert_allclose(np.exp(scores.ravel()), (first + carried) / 2, rtol=1e-5)
    scores = fuse(Fusion([GROUP], 4, rule="product", class_frequency=frequency, adjustment=1), *logits)
    np.testing.assert_allclose(scores.ravel(), np.log(first * carried) / 2, rtol=1e-5)


def test_logit_adjustment_of_one_quarter_without_groups():
    frequency = np.array([0.9, 0.05, 0.04, 0.01])
    adjusted = FIRST / frequency**0.25
    scores = fuse(Fusion([], 4, class_frequency=frequency, adjustment=0.25), pixel(FIRST))
    np.testing.assert_allclose(np.exp(scores.ravel()), adjusted / adjusted.sum(), rtol=1e-5)
    assert scores.argmax() == 1 and FIRST.argmax() == 0


def test_no_adjustment_and_uniform_frequencies_change_nothing():
    plain = fuse(Fusion([], 4), pixel(FIRST))
    np.testing.assert_array_equal(fuse(Fusion([], 4, class_frequency=[0.7, 0.1, 0.1, 0.1]), pixel(FIRST)), plain)
    uniform = fuse(Fusion([], 4, class_frequency=[0.25] * 4, adjustment=1), pixel(FIRST))
    np.testing.assert_allclose(uniform, plain, rtol=1e-5)


def test_a_class_that_never_occurs_leaves_the_scores_finite():
    scores = fuse(Fusion([GROUP], 4, class_frequency=[0.5, 0.5, 0, 0], adjustment=1), pixel(FIRST), pixel(SECOND))
    assert np.isfinite(scores).all()


# numbers, graphs, errors


@pytest.mark.parametrize("rule, others", SETTINGS)
@pytest.mark.parametrize("scale", [100, 1e4])
def test_underflow_of_the_softmax_leaves_the_scores_finite(rule, others, scale):
    groups, logits = random_case(6)
    logits = [scale * np.sign(x) for x in logits]
    logits[0][0, :, 0, 0] = scale * np.eye(7)[1]  # all of its outside classes underflow to 0
    logits[1][0, :, 0, 0] = scale * np.eye(4)[0]
    scores = fuse(Fusion(groups, 7, rule=rule, others=others), *logits)
    assert np.isfinite(scores).all()
    assert (scores <= 1e-6).all()


def test_the_papers_product_rule_is_exact_at_any_logits():
    groups, logits = random_case(7, scale=1000)
    mapping = [group.mapping(7) for group in groups]
    carried = [log_softmax(logits[0])] + [log_softmax(x)[:, m] for x, m in zip(logits[1:], mapping)]
    scores = fuse(Fusion(groups, 7, rule="product"), *logits)
    np.testing.assert_allclose(scores, np.mean(carried, axis=0), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rule, others", SETTINGS)
@pytest.mark.parametrize("adjustment", [0, 0.25])
def test_hybridized_is_the_same(rule, others, adjustment):
    frequency = np.arange(1, 8) / 28
    groups, logits = random_case(8)
    fusion = Fusion(groups, 7, rule=rule, others=others, class_frequency=frequency, adjustment=adjustment)
    expected = fuse(fusion, *logits)
    fusion.hybridize()
    np.testing.assert_allclose(fusion(*[mx.nd.array(x) for x in logits]).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    cropped = [mx.nd.array(x[:1, :, :2, :3]) for x in logits]  # the same graph at another size
    np.testing.assert_allclose(fusion(*cropped).asnumpy(), expected[:1, :, :2, :3], rtol=1e-5, atol=1e-6)


def test_nothing_of_it_is_trained():
    fusion = Fusion([GROUP], 4, others="divide", class_frequency=[0.25] * 4, adjustment=1)
    assert fusion.collect_params()
    assert all(parameter.grad_req == "null" for parameter in fusion.collect_params().values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rule": "mean"}, "fusion rule: 'mean' is none of sum, product"),
        ({"others": "halve"}, "fusion others: 'halve' is none of copy, divide, proportional"),
        ({"adjustment": 0.25}, "fusion adjustment: wants class_frequency"),
    ],
)
def test_unknown_settings(options, message):
    with pytest.raises(ConfsegError, match=message):
        Fusion([GROUP], 4, **options)


def test_a_group_with_a_class_that_is_not_there():
    with pytest.raises(ConfsegError, match=r"group \[1, 4\] must hold .* in 0..3"):
        Fusion([ClassGroup((1, 4))], 4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("hybridize", [False, True])
def test_wrong_number_of_subnets(count, hybridize):
    fusion = Fusion([GROUP], 4)
    if hybridize:
        fusion.hybridize()
    with pytest.raises(ConfsegError, match=f"fusion: wants the logits of 2 subnets, got {count}"):
        fuse(fusion, *[pixel(FIRST)] * count)


@pytest.mark.parametrize("rule", ["sum", "product"])
@pytest.mark.parametrize("others", ["copy", "divide", "proportional"])
def test_a_head_of_all_classes_is_averaged_as_it_is(rule, others):
    """Beside a group's subnet: what stands in for the group is the identity, without a share."""
    rng = np.random.default_rng(3)
    logits = [rng.normal(size=(2, n, 3, 4)).astype("float32") for n in (5, 5, 3)]
    group = ClassGroup((1, 3))
    both = Fusion([None, group], 5, rule=rule, others=others)
    both.initialize()
    alone = Fusion([group], 5, rule=rule, others=others)
    alone.initialize()
    found = both(*map(mx.nd.array, logits)).asnumpy()
    half = alone(*map(mx.nd.array, (logits[0], logits[2]))).asnumpy()
    p = np.exp(logits[1] - logits[1].max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    wanted = np.log((2 * np.exp(half) + p) / 3) if rule == "sum" else (2 * half + np.log(p)) / 3
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
