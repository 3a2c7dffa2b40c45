"""What rules ask a scheduler for: by the size of the release."""

from pathlib import Path

import pytest

from scion.checkpoint.shards import Checkpoint
from scion.config import Config
from scion.config.resources import ReleaseSize, stage_resources
from scion.quantization.estimate.estimate import Machine, estimate
from scion.quantization.estimate.memory import total
from scion.quantization.estimate.source_headers import source_headers

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def config() -> Config:
    return Config().model_copy(update={"source": str(PROJECT / "resources/pico/pico-agent")})


def on_gpu(config: Config) -> Config:
    quantization = config.quantization.model_copy(update={"device": "cuda"})
    serving = config.serving.model_copy(update={"environment": "serve-cuda"})
    launches = tuple(launch.model_copy(update={"tensor_parallel": 2}) for launch in config.launches)
    changed = {"quantization": quantization, "serving": serving, "launches": launches}
    return config.model_copy(update=changed)


def test_disk_and_memory_are_those_of_the_estimate(config: Config) -> None:
    size = ReleaseSize.of(config)
    headers = source_headers(config.source)
    source = Checkpoint.open(Path(config.source))
    assert size.source == headers.bytes == sum(source.tensor(each).size for each in source.shard_of)
    checkpoint = headers.text
    lengths = [
        [each.max_tokens]
        for each in config.quantization.calibration.sets
        for _ in range(each.samples)
    ]
    machine = Machine("any", None, 1 << 50)
    expected = estimate(checkpoint, config.quantization, lengths, machine)
    asked = stage_resources("quantize_nvfp4", config, size)
    assert asked["mem_mb"] >= total(expected.host) / 1e6
    assert asked["disk_mb"] >= total(expected.disk) // 10**6
    assert "gpu" not in asked


def test_a_gpu_is_asked_for_where_the_configuration_names_one(config: Config) -> None:
    config = on_gpu(config)
    size = ReleaseSize.of(config)
    quantized = stage_resources("quantize_nvfp4", config, size)
    assert quantized["gpu"] == 1
    assert quantized["gpu_mem_mb"] > 0
    served = stage_resources("measure_serving", config, size)
    assert served["gpu"] == 2
    assert "gpu" not in stage_resources("fix_keys", config, size)


def test_a_larger_source_asks_for_more(config: Config) -> None:
    small, large = (ReleaseSize(size, None) for size in (10**9, 54 * 10**9))
    for stage in ("fetch_source", "extract_text", "graft_mtp"):
        asked = [stage_resources(stage, config, size) for size in (small, large)]
        assert asked[1]["disk_mb"] > 50 * asked[0]["disk_mb"] - 10_000
        assert asked[1]["runtime"] > asked[0]["runtime"]
    # A slow network takes longer than a slow disk.
    assert (
        stage_resources("fetch_source", config, large)["runtime"]
        > stage_resources("fix_keys", config, large)["runtime"]
    )


def test_a_source_that_nobody_can_read_yet_is_taken_for_a_large_one(config: Config) -> None:
    size = ReleaseSize.of(config.model_copy(update={"source": "nowhere"}))
    assert size == ReleaseSize(None, None)
    for stage in ("fetch_source", "quantize_nvfp4"):
        assert stage_resources(stage, config, size)["disk_mb"] > 50_000
    assert stage_resources("quantize_nvfp4", config, size)["runtime"] >= 60
    assert stage_resources("fetch_donor", config, size)["disk_mb"] >= 1_000
    assert stage_resources("render_card", config, size).keys() == {"mem_mb", "disk_mb", "runtime"}


def test_a_second_try_asks_for_more_memory_and_time_and_no_more_of_the_rest(
    config: Config,
) -> None:
    config = on_gpu(config)
    size = ReleaseSize.of(config)
    for stage in ("quantize_nvfp4", "measure_serving", "fix_keys", "lint_source"):
        first, third = (stage_resources(stage, config, size, attempt=n) for n in (1, 3))
        more = {name: value for name, value in third.items() if value != first[name]}
        assert more == {name: 3 * first[name] for name in ("mem_mb", "runtime")}
