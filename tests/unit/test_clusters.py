"""What is said of several machines, and which of the GPUs here decides."""

import pytest

from tests.fakes import make_cpu, make_device
from vramplan.planner.adapters import clusters
from vramplan.planner.adapters.clusters import least_free, make_cluster
from vramplan.planner.errors import UsageError
from vramplan.planner.units import GIB


def test_links_are_named_one_within_a_node_and_one_between() -> None:
    cluster = make_cluster("nvlink4, InfiniBand-NDR", 512 * GIB)
    assert cluster.within_node is not None
    assert cluster.between_nodes is not None
    assert (cluster.within_node.between_nodes, cluster.between_nodes.between_nodes) == (False, True)
    # NDR is 400 Gb/s a port (InfiniBand Trade Association's roadmap)
    assert cluster.between_nodes.bytes_per_second == 50 * 10**9
    assert cluster.host_memory_bytes == 512 * GIB
    assert make_cluster(None, None).within_node is None


@pytest.mark.parametrize(
    ("text", "said"), [("token-ring", "no such link is known"), ("nvlink4,nvlink3", "two links within a node")]
)
def test_links_that_are_unknown_or_two_of_a_kind_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_cluster(text, None)


def test_of_several_gpus_here_the_one_with_the_least_free_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [make_device(source="reading", free_bytes=free * GIB) for free in (23, 11, 20)]
    monkeypatch.setattr(clusters, "read_devices", lambda: [*here, make_device(source="reading", name="another")])
    asked = make_device(source="reading", reserve_bytes=GIB)
    least = least_free(asked, 3)
    assert least is not None
    assert (least.free_bytes, least.reserve_bytes) == (11 * GIB, GIB)
    with pytest.raises(UsageError, match=f"--gpus 4, and 3 {asked.name} are here"):
        least_free(asked, 4)


def test_a_product_by_name_and_a_processor_are_what_they_are() -> None:
    for device in (make_device(source="profile"), make_cpu(), None):
        assert least_free(device, 2) is device
