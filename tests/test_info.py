"""confseg info: parts add up to the whole, groups known or not, no weights are asked for or allocated."""

import pytest

from gluon_confseg import info
from gluon_confseg.backend import mx
from gluon_confseg.errors import ConfsegError
from gluon_confseg.places import CONFIGS, config_path

SIZE = (64, 96)


def described(name, *settings, **options):
    return info.describe(config_path(name), is_run=False, overrides=settings, **options)


@pytest.fixture
def confseg(command_line):
    return lambda *arguments: command_line("info", *arguments)


def test_parts_of_the_papers_network():
    rows = info.parts(described("cityscapes"), SIZE)
    titles = ["encoder", *(f"subnet {m} ({n} outputs)" for m, n in enumerate((19, 7, 5, 5)))]
    assert [row.title for row in rows] == [*titles, "fusion and upsampling", "all"]
    assert [row.stride for row in rows] == [8, 8, 8, 8, 8, 1, 1]
    # ResNet-101 less its classifier, then Subnet: 512 filters of 3x3 on 2048 channels, twice for subnet 0
    hidden, again = 512 * (2048 * 9 + 1), 512 * (512 * 9 + 1)
    counts = [row.cost.parameters for row in rows]
    assert counts[0] == 44549160 - 2049000
    assert counts[1] == hidden + again + 19 * (512 * 9 + 1)
    assert counts[2:5] == [hidden + n * (512 * 9 + 1) for n in (7, 5, 5)]
    assert counts[5] == 0 and counts[6] == sum(counts[:5])
    pixels = 8 * 12
    assert rows[2].cost.multiply_adds == pixels * 9 * (2048 * 512 + 512 * 7)
    # of the fusion: the depthwise transposed convolution, 16 x 16, on edge-padded scores
    assert rows[5].cost.multiply_adds == 19 * (8 + 2) * (12 + 2) * 16 * 16
    assert rows[6].cost.multiply_adds == sum(row.cost.multiply_adds for row in rows[:6])
    assert rows[6].cost.parameter_bytes == sum(row.cost.parameter_bytes for row in rows[:6])


def test_a_cell_without_subnets():
    rows = info.parts(described("cityscapes", cell="subnet0_ce"), SIZE)
    assert [row.title for row in rows] == ["encoder", "subnet 0 (19 outputs)", "fusion and upsampling", "all"]


def test_a_size_that_the_stride_does_not_divide():
    odd, even = (info.parts(described("camvid"), size)[1].cost for size in ((57, 89), (64, 96)))
    assert odd.multiply_adds == even.multiply_adds  # as many features


def test_groups_that_are_not_known_before_the_run():
    network = described("camvid", "groups.source=auto", "groups.max_group_size=4", "groups.max_groups=2")
    text = info.table(network, SIZE)
    assert "subnet 1 (5 outputs)" in text and "subnet 2" not in text
    assert "groups are not known before the run" in text and "up to 2" in text


def test_a_gluoncv_models_head_is_subnet_0_and_weights_are_not_asked_for():
    change = "encoder={name: gluoncv, model: deeplab_resnet50_citys, weights: absent.params}"
    rows = info.parts(described("cityscapes", change), SIZE)
    # ASPP's three dilated convolutions alone
    assert rows[1].cost.parameters > 3 * 2048 * 256 * 9
    assert rows[-1].cost.parameters == sum(row.cost.parameters for row in rows[:-1])


def test_nothing_is_allocated(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("weights were initialised")

    monkeypatch.setattr(mx.gluon.Parameter, "_init_impl", refuse)
    monkeypatch.setattr(mx.gluon.Parameter, "_finish_deferred_init", refuse)
    wide = "encoder={name: gluoncv, model: deeplab_v3b_plus_wideresnet_citys, weights: null}"
    for network in (described("cityscapes_resnet38"), described("cityscapes", wide)):
        rows = info.parts(network, (1024, 2048))
        assert rows[-1].cost.multiply_adds > 4e12


def test_a_config_of_folders_takes_its_classes_from_the_data(tmp_path):
    (tmp_path / "x.yaml").write_text(
        f"_base_: {CONFIGS.resolve()}/camvid.yaml\ndata: {{name: folders}}\ngroups: {{source: auto}}\n"
    )
    with pytest.raises(ConfsegError, match="needs --data-root"):
        described(str(tmp_path / "x.yaml"))


def test_from_the_command_line(confseg):
    code, output, errors = confseg("cityscapes", "--size", "64x96")
    assert code == 0 and errors == ""
    assert "resnet101_v1b, cell subnets_new (subnets, new loss), one image of 64x96" in output
    assert "42,500,160" in output
    for arguments, message in (
        (("cityscapes", "--size", "64"), "--size 64: wants height x width"),
        (("cityscapes", "--size", "64x96", "--cell", "x"), "has no cell 'x'; its cells: subnet0_ce"),
        (("nothing", "--size", "64x96"), "there is no config 'nothing'"),
        ((".", "--size", "64x96"), "is not a finished run"),
        ((".", "--size", "64x96", "--set", "seed=1"), "is a finished run, whose settings stay"),
    ):
        code, _, errors = confseg(*arguments)
        assert code == 2 and message in errors and errors.count("\n") == 1
