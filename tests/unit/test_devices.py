"""What is here: the driver's recorded answers, its failures, the host's memory, and the device that a text names."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from vramplan.planner.adapters import devices as adapter
from vramplan.planner.adapters.devices import (
    inspect_devices,
    read_cpu,
    read_devices,
    resolve_device,
    visible_devices,
)
from vramplan.planner.adapters.host import processor_name, read_host_memory
from vramplan.planner.adapters.nvml import Readings
from vramplan.planner.cli.main import main
from vramplan.planner.device import Device, Holder
from vramplan.planner.errors import UnknownDeviceError, UsageError
from vramplan.planner.units import GIB, MIB


class NVMLError(Exception):
    """As pynvml has it: one class, a subclass for each code."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - NVML's own name
    def __init__(self) -> None:
        super().__init__("Not Supported")


class NVMLError_NoPermission(NVMLError):  # noqa: N801, N818 - NVML's own name
    def __init__(self) -> None:
        super().__init__("Insufficient Permissions")


class FakeNvml:
    """NVML's answers from a table of GPUs; an exception in the table is raised where the driver would raise it."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 0x02000028  # noqa: N815 - NVML's own name

    def __init__(self, *gpus: dict[str, Any], init: Exception | None = None, names: dict[int, str] | None = None):
        self.gpus = gpus
        self.init = init
        self.names = names or {}
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        """``nvmlDeviceGetX(handle)`` is the GPU's ``x``."""
        key = name.removeprefix("nvmlDeviceGet")
        return lambda handle, *arguments: self._answer(handle, key)

    def _answer(self, handle: dict[str, Any], key: str) -> Any:
        answer = handle.get(key, NVMLError_NotSupported())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own name
        if self.init is not None:
            raise self.init
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's own name
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802 - NVML's own name
        return "570.133.20"

    def nvmlSystemGetProcessName(self, pid: int) -> str:  # noqa: N802 - NVML's own name
        if pid not in self.names:
            raise NVMLError("Not Found")
        return self.names[pid]

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's own name
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802 - NVML's own name
        return self._answer({"handle": self.gpus[index].get("handle", self.gpus[index])}, "handle")

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:  # noqa: N802 - NVML's own name
        return self._answer(handle, "memory" if version is None else "memory_v2")

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:  # noqa: N802 - NVML's own name
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802 - NVML's own name
        if index >= len(handle["parts"]):
            raise NVMLError("Not Found")
        return handle["parts"][index]


def _memory(total_mib: int, *, used_mib: int = 0, reserved_mib: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        total=total_mib * MIB, reserved=reserved_mib * MIB, free=(total_mib - reserved_mib - used_mib) * MIB
    )


def _process(pid: int, used_mib: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if used_mib is None else used_mib * MIB)


def _gpu(name: str = "NVIDIA GeForce RTX 4090", uuid: str = "GPU-1a2b", **answers: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "UUID": uuid,
        "CudaComputeCapability": (8, 9),
        "memory_v2": _memory(24564, reserved_mib=347),
        "memory": _memory(24564),
        "ComputeRunningProcesses": [],
        "GraphicsRunningProcesses": [],
        **answers,
    }


def test_a_gpu_is_read_with_the_facts_of_its_product() -> None:
    nvml = FakeNvml(_gpu())
    (device,) = read_devices(nvml)
    assert (device.source, device.kind, device.index, device.uuid) == ("reading", "cuda", 0, "GPU-1a2b")
    assert (device.compute_capability, device.driver_version) == ((8, 9), "570.133.20")
    assert (device.profile, device.architecture) == ("NVIDIA GeForce RTX 4090", "Ada")
    assert (device.bf16_native, device.flash_attention_2, device.bnb_4bit) == (True, True, True)
    assert device.read_at is not None
    assert datetime.now(UTC) - device.read_at < timedelta(minutes=5)
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("name", "fitted_mib", "reserved_mib", "cuda_mib"),
    [
        # nvidia-smi -q's FB Memory Usage (Total, Reserved), and the total CUDA reports on the same product.
        ("NVIDIA A100-SXM4-80GB", 81920, 767, 81153),
        ("Tesla T4", 15360, 258, 15102),
        ("NVIDIA GeForce RTX 4090", 24564, 347, 24217),
    ],
)
def test_the_total_is_cuda_s_not_the_memory_fitted(
    name: str, fitted_mib: int, reserved_mib: int, cuda_mib: int
) -> None:
    gpu = _gpu(name, memory_v2=_memory(fitted_mib, used_mib=1000, reserved_mib=reserved_mib))
    (device,) = read_devices(FakeNvml(gpu))
    assert device.total_bytes == cuda_mib * MIB
    assert device.free_bytes == (cuda_mib - 1000) * MIB


def test_an_old_driver_s_total_gives_way_to_what_cuda_reports_on_that_product() -> None:
    gpu = _gpu(memory_v2=NVMLError_NotSupported(), memory=_memory(24564, used_mib=24))
    (device,) = read_devices(FakeNvml(gpu))
    assert device.total_bytes == 24209 * MIB
    assert device.free_bytes == 24209 * MIB


def test_two_gpus_keep_their_order_and_their_uuids() -> None:
    ten = _gpu("NVIDIA GeForce RTX 3080", "GPU-ten", memory_v2=_memory(10240, reserved_mib=231))
    twelve = _gpu("NVIDIA GeForce RTX 3080", "GPU-twelve", memory_v2=_memory(12288, reserved_mib=171))
    found = read_devices(FakeNvml(ten, twelve))
    assert [(device.index, device.uuid) for device in found] == [(0, "GPU-ten"), (1, "GPU-twelve")]
    assert [device.profile for device in found] == ["NVIDIA GeForce RTX 3080", "NVIDIA GeForce RTX 3080 12 GB"]


def test_a_gpu_cut_into_instances_is_read_as_those() -> None:
    parts = [
        _gpu(f"NVIDIA A100-SXM4-40GB MIG {size}g.{size * 5}gb", f"MIG-{size}", memory_v2=_memory(size * 4864))
        for size in (1, 2)
    ]
    gpu = _gpu("NVIDIA A100-SXM4-40GB", CudaComputeCapability=(8, 0), MigMode=[1, 1], parts=parts)
    found = read_devices(FakeNvml(gpu))
    assert [(device.mig, device.uuid, device.total_bytes) for device in found] == [
        (True, "MIG-1", 4864 * MIB),
        (True, "MIG-2", 9728 * MIB),
    ]
    assert {(device.profile, device.compute_capability) for device in found} == {("NVIDIA A100 SXM4 40 GB", (8, 0))}


def test_mig_switched_off_is_a_whole_gpu() -> None:
    gpu = _gpu("NVIDIA H100 80GB HBM3", MigMode=[0, 0], memory_v2=_memory(81559, reserved_mib=477))
    (device,) = read_devices(FakeNvml(gpu))
    assert (device.mig, device.profile) == (False, "NVIDIA H100 SXM5 80 GB")


def test_who_holds_memory_is_named_most_first() -> None:
    gpu = _gpu(
        ComputeRunningProcesses=[_process(11, 1024), _process(12, 6144)],
        GraphicsRunningProcesses=[_process(11, 1024), _process(13, 300)],
    )
    names = {11: "/usr/bin/python3 train.py", 12: "C:\\Program Files\\ollama\\ollama.exe", 13: "/usr/lib/xorg/Xorg"}
    (device,) = read_devices(FakeNvml(gpu, names=names))
    assert device.holders == (
        Holder(pid=12, name="ollama.exe", used_bytes=6144 * MIB),
        Holder(pid=11, name="python3", used_bytes=1024 * MIB),
        Holder(pid=13, name="Xorg", used_bytes=300 * MIB),
    )


def test_windows_lists_processes_without_their_memory() -> None:
    gpu = _gpu(ComputeRunningProcesses=[_process(11, None)], GraphicsRunningProcesses=[_process(12, None)])
    (device,) = read_devices(FakeNvml(gpu))
    assert device.holders == (Holder(pid=11), Holder(pid=12))


def test_without_the_right_to_list_processes_the_gpu_is_still_read() -> None:
    denied = NVMLError_NoPermission()
    gpu = _gpu(ComputeRunningProcesses=denied, GraphicsRunningProcesses=denied, MigMode=denied)
    (device,) = read_devices(FakeNvml(gpu))
    assert device.holders == ()


def test_a_process_name_cannot_speak_to_the_terminal() -> None:
    gpu = _gpu(ComputeRunningProcesses=[_process(11, 1)])
    (device,) = read_devices(FakeNvml(gpu, names={11: "\x1b]0;owned\x07evil\n"}))
    assert device.holders[0].name == "]0;ownedevil"


@pytest.mark.parametrize("answer", ["handle", "Name", "UUID", "memory_v2"])
def test_a_gpu_that_goes_away_is_reported_and_the_other_is_read(answer: str) -> None:
    lost = NVMLError("GPU is lost")
    broken = _gpu(**{answer: lost, "memory": lost})
    nvml = FakeNvml(broken, _gpu(uuid="GPU-well"))
    readings = inspect_devices(nvml)
    assert [device.uuid for device in readings.devices] == ["GPU-well"]
    assert readings.problems == ("GPU 0 could not be read: GPU is lost",)
    assert nvml.open == 0


@pytest.mark.parametrize("error", [NVMLError("Driver Not Loaded"), OSError("cannot open libnvidia-ml.so.1")])
def test_no_driver_is_an_answer_with_a_reason(error: Exception) -> None:
    readings = inspect_devices(FakeNvml(init=error))
    assert readings.devices == ()
    assert readings.problems == (f"no NVIDIA driver answers: {error}",)


def test_a_gpu_with_the_processor_s_memory_has_what_the_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=119 * GIB, available=100 * GIB))
    none = NVMLError_NotSupported()
    gpu = _gpu("NVIDIA GB10", CudaComputeCapability=(12, 1), memory_v2=none, memory=none)
    (device,) = read_devices(FakeNvml(gpu))
    assert device.total_bytes <= 119 * GIB
    assert device.profile == "NVIDIA GB10 (DGX Spark)"


def test_an_unknown_product_has_what_its_compute_capability_implies() -> None:
    """PyTorch calls bf16 supported from compute capability 8.0; FlashAttention 2 needs Ampere."""
    ampere = _gpu("NVIDIA CMP 170HX", CudaComputeCapability=(8, 0))
    turing = _gpu("NVIDIA T1000", CudaComputeCapability=(7, 5))
    new, old = read_devices(FakeNvml(ampere, turing))
    assert (new.profile, new.architecture, new.bf16_native, new.flash_attention_2) == (None, "Ampere", True, True)
    assert (old.profile, old.architecture, old.bf16_native, old.bnb_4bit) == (None, "Turing", False, True)


def _host(root: Path, **contents: str) -> Path:
    for path, text in contents.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def _sixteen_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=12 * GIB))


@pytest.mark.usefixtures("_sixteen_gib")
def test_without_a_limit_the_host_has_its_ram(tmp_path: Path) -> None:
    assert read_host_memory(tmp_path) == (16 * GIB, 12 * GIB, False)


@pytest.mark.usefixtures("_sixteen_gib")
def test_a_container_s_limit_is_the_host_s_memory(tmp_path: Path) -> None:
    files = {
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{3 * GIB}\n",
        "memory.stat": f"anon {GIB}\ninactive_file {GIB}\n",
    }
    _host(tmp_path, proc__self__cgroup="0::/\n", **{f"sys__fs__cgroup__{name}": text for name, text in files.items()})
    assert read_host_memory(tmp_path) == (4 * GIB, 2 * GIB, True)


@pytest.mark.usefixtures("_sixteen_gib")
def test_the_smallest_limit_above_the_process_counts(tmp_path: Path) -> None:
    group = "sys__fs__cgroup__user.slice"
    none = {"memory.max": "max\n", "memory.current": "1\n", "memory.stat": "inactive_file 0\n"}
    eight = {**none, "memory.max": f"{8 * GIB}\n"}
    _host(
        tmp_path,
        proc__self__cgroup="0::/user.slice/job\n",
        **{f"{group}__job__{name}": text for name, text in none.items()},
        **{f"{group}__{name}": text for name, text in eight.items()},
    )
    assert read_host_memory(tmp_path).total_bytes == 8 * GIB


@pytest.mark.usefixtures("_sixteen_gib")
def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    """Without a limit, version 1 says 2^63 rounded down to a page."""
    top = "sys__fs__cgroup__memory"
    usage = {"memory.usage_in_bytes": f"{GIB}\n", "memory.stat": "total_inactive_file 0\n"}
    _host(
        tmp_path,
        proc__self__cgroup="9:memory:/docker/abc\n3:cpu,cpuacct:/\n",
        **{f"{top}__{name}": text for name, text in usage.items()},
        **{f"{top}__memory.limit_in_bytes": "9223372036854771712\n"},
    )
    assert read_host_memory(tmp_path) == (16 * GIB, 12 * GIB, False)
    _host(tmp_path, **{f"{top}__memory.limit_in_bytes": f"{6 * GIB}\n"})
    assert read_host_memory(tmp_path) == (6 * GIB, 5 * GIB, True)


def test_the_processor_has_its_maker_s_name(tmp_path: Path) -> None:
    _host(tmp_path, proc__cpuinfo="processor\t: 0\nmodel name\t: AMD EPYC 7763\nmodel name\t: AMD EPYC 7763\n")
    assert processor_name(tmp_path) == "AMD EPYC 7763"
    assert processor_name(tmp_path / "nowhere")


def test_the_processor_is_a_device() -> None:
    device = read_cpu()
    assert (device.kind, device.route, device.source) == ("cpu", "cpu", "reading")
    assert 0 < (device.free_bytes or 0) <= device.total_bytes


HERE = Readings(
    devices=(
        Device(
            source="reading", kind="cuda", name="A", total_bytes=24 * GIB, free_bytes=20 * GIB, index=0, uuid="GPU-aa"
        ),
        Device(
            source="reading", kind="cuda", name="B", total_bytes=48 * GIB, free_bytes=48 * GIB, index=1, uuid="GPU-ab"
        ),
    )
)
INSTANCES = Readings(
    devices=tuple(
        device.model_copy(update={"mig": True, "index": 0, "uuid": uuid})
        for device, uuid in zip(HERE.devices, ("MIG-aa", "MIG-bb"), strict=True)
    )
)
NOTHING = Readings(problems=("no NVIDIA driver answers: Driver Not Loaded",))


def _resolve(text: str, readings: Readings = HERE) -> Device | None:
    return resolve_device(text, memory_bytes=None, reserve_bytes=0, readings=readings)[0]


@pytest.fixture(autouse=True)
def _every_device_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_auto_is_the_first_accelerator_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _resolve("auto") == HERE.devices[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert _resolve("auto") == HERE.devices[1]


def test_auto_without_an_accelerator_is_no_device_and_says_what_the_figures_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, sentence = resolve_device("auto", memory_bytes=None, reserve_bytes=0, readings=NOTHING)
    assert device is None
    assert sentence == (
        "no accelerator here: figures are for the CUDA route of an Ampere-class card; name one with --device"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device, sentence = resolve_device("auto", memory_bytes=None, reserve_bytes=0, readings=HERE)
    assert device is None
    assert sentence.startswith("CUDA_VISIBLE_DEVICES hides every accelerator here")


@pytest.mark.parametrize("text", ["1", "cuda:1", "GPU-ab", "gpu-AB"])
def test_an_index_or_a_uuid_is_a_device_here(text: str) -> None:
    assert _resolve(text) == HERE.devices[1]


@pytest.mark.parametrize(
    ("text", "readings", "said"),
    [
        ("7", HERE, "no GPU '7' here"),
        ("0", NOTHING, "Driver Not Loaded"),
        ("GPU-a", HERE, "GPU-aa, GPU-ab"),
        ("0", INSTANCES, "MIG-aa, MIG-bb"),
        ("no such card", HERE, "no device profile"),
    ],
)
def test_a_device_that_is_not_here_is_refused(text: str, readings: Readings, said: str) -> None:
    with pytest.raises(UnknownDeviceError, match=said) as refusal:
        _resolve(text, readings)
    assert refusal.value.remedy


def test_a_product_is_its_data_sheet_with_nothing_free_or_used() -> None:
    device = _resolve("rtx 4090")
    assert device is not None
    assert (device.source, device.profile, device.route) == ("profile", "NVIDIA GeForce RTX 4090", "cuda")
    assert (device.total_bytes, device.free_bytes) == (24209 * MIB, None)
    assert (device.compute_capability, device.architecture) == ((8, 9), "Ada")


@pytest.mark.parametrize("text", ["m2 max", "tpu v5e", "arc b580", "gaudi3"])
def test_a_product_of_another_kind_has_no_route(text: str) -> None:
    device = _resolve(text)
    assert device is not None
    assert device.route is None


def test_a_size_stands_in_for_a_device() -> None:
    device, sentence = resolve_device("auto", memory_bytes=12 * GIB, reserve_bytes=GIB)
    assert device is not None
    assert (device.source, device.kind, device.available_bytes) == ("memory", "cuda", 11 * GIB)
    assert "Ampere" in sentence


def test_a_size_and_a_device_together_are_refused() -> None:
    with pytest.raises(UsageError, match="--memory"):
        resolve_device("4090", memory_bytes=12 * GIB, reserve_bytes=0)


@pytest.mark.parametrize("text", ["auto", "0", "4090", "cpu"])
def test_what_is_kept_back_is_kept_back_everywhere(text: str) -> None:
    device, _ = resolve_device(text, memory_bytes=None, reserve_bytes=GIB, readings=HERE)
    assert device is not None
    assert device.reserve_bytes == GIB


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (None, ["GPU-aa", "GPU-ab"]),
        ("", []),
        ("-1", []),
        ("1,0", ["GPU-ab", "GPU-aa"]),
        ("1,9,0", ["GPU-ab"]),
        ("GPU-ab", ["GPU-ab"]),
        ("nonsense", []),
    ],
)
def test_cuda_visible_devices_hides_and_orders(setting: str | None, seen: list[str]) -> None:
    assert [device.uuid for device in visible_devices(HERE.devices, setting)] == seen


def test_an_apple_chip_is_a_device_with_the_machine_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.sys, "platform", "darwin")
    monkeypatch.setattr(adapter.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(adapter, "processor_name", lambda: "Apple M2 Max")
    (device,) = read_devices()
    assert (device.kind, device.route, device.profile) == ("mps", None, "Apple M2 Max (96 GB)")


def test_the_command_shows_readings_holders_and_profiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = _gpu(
        memory_v2=_memory(24564, used_mib=1024, reserved_mib=347), ComputeRunningProcesses=[_process(4242, 1024)]
    )
    readings = inspect_devices(FakeNvml(gpu, names={4242: "/usr/bin/ollama"}))
    monkeypatch.setattr("vramplan.planner.cli.devices.inspect_devices", lambda: readings)
    processor = Device(source="reading", kind="cpu", name="A CPU", total_bytes=64 * GIB, free_bytes=60 * GIB)
    monkeypatch.setattr("vramplan.planner.cli.devices.read_cpu", lambda: processor)
    assert main(["devices", "h100"]) == 0
    assert capsys.readouterr().out == (
        "here\n"
        "       device                   total GiB  free GiB  held by\n"
        "    0  NVIDIA GeForce RTX 4090      23.65     22.65  ollama 4242: 1.00\n"
        "  CPU  A CPU                        64.00     60.00\n"
        "\n"
        "3 products\n"
        "  name                    total GiB  GB/s  bf16 TFLOPS  capability  total is\n"
        "  NVIDIA H100 PCIe 80 GB      79.11  2000        756.5         9.0  reported\n"
        "  NVIDIA H100 SXM5 80 GB      79.18  3350        989.4         9.0  reported\n"
        "  NVIDIA H100 NVL 94 GB       93.12  3940        835.5         9.0  estimated\n"
    )


def test_the_command_s_json_holds_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vramplan.planner.cli.devices.inspect_devices", lambda: NOTHING)
    assert main(["devices", "--json"]) == 0
    out = capsys.readouterr()
    content = json.loads(out.out)
    assert content["devices"] == []
    assert content["problems"] == list(NOTHING.problems)
    assert content["processor"]["kind"] == "cpu"
    assert len(content["profiles"]) == 197
    assert out.err == ""


def test_a_query_that_matches_one_product_shows_its_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vramplan.planner.cli.devices.inspect_devices", lambda: NOTHING)
    assert main(["devices", "tesla", "t4"]) == 0
    out = capsys.readouterr()
    assert "14.56 GiB: lowest of 3 totals reported by CUDA on Linux" in out.out
    assert "source   specification: TechPowerUp" in out.out
    assert "no NVIDIA driver answers" in out.err


def test_a_query_that_matches_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "geforce", "rtx", "4095"]) == 2
    assert "nearest: NVIDIA GeForce RTX 4090" in capsys.readouterr().err
