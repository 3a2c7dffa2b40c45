r"""What does healing an MTP head take, of time, memory and disk, whatever the body's size?

A head shall be trained where its body does not fit. So the body's hidden states are computed a few
layers at a time and kept on disk, and the vocabulary's logits are made for some rows at a time.
Measured is what `heal_mtp` runs, on a random release in NVFP4: the hidden states, then one pass of
training over them. Random weights teach nothing, so its figures are costs alone.

    python bench/healing.py                                     small, on a CPU: some minutes
    python bench/healing.py --shape qwen3.6-27b --device cuda --tokens 2000000 --length 2048 \
        --folder /dev/shm/bench --states DISK --keep --set batch_tokens=4096

Beside the hidden states stand passes of plain bf16 layers over single samples, which is what
calibrating a quantizer does, less its statistics. The floors are the products' operations at the
rate that the device has for a large product, and the states' bytes at the rate of a copy between
device and memory, measured in the same process. With --keep the release and the states stay, and
another run with the same arguments goes on from them: say with other settings of training.
Progress goes to stderr, one line of JSON to stdout.
"""

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from support.measure import machine, unwind_when_ended
from torch import Tensor, nn

_BENCH = Path(__file__).parent
sys.path.insert(0, str(_BENCH.parent / "tools"))
from random_checkpoint import SHAPES, initial, shaped_config  # noqa: E402
from scion.architectures.inventory import Inventory, inventory, with_mtp_layers  # noqa: E402
from scion.architectures.text_only import text_config  # noqa: E402
from scion.checkpoint.shards import CONFIG, Checkpoint, index_headers, shard_name  # noqa: E402
from scion.common.files import write_json  # noqa: E402
from scion.evaluation.offline import target  # noqa: E402
from scion.evaluation.offline.classes import classes_of  # noqa: E402
from scion.evaluation.offline.weights import Weights  # noqa: E402
from scion.healing.body import body_states  # noqa: E402
from scion.healing.config import Training  # noqa: E402
from scion.healing.heal import heal  # noqa: E402
from scion.healing.texts import LearnedText  # noqa: E402
from scion.healing.training import KEPT  # noqa: E402
from scion.quantization.layerwise.recording import Recording  # noqa: E402

SMALL: dict[str, Any] = {
    "text_config": {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 8192},
    "vision_config": {},
}
_SHARD_BYTES = 4e9
# E2M1's codes, all as likely, have a root mean square of 2.93; weights are to have one of 0.02.
_WEIGHT_SCALE = 0.02 / 2.93
_INPUT_SCALE = 10 / (6 * 448)
_PROMPT = 64
_PLAIN_SAMPLES = 8


def make_release(folder: Path, config: dict[str, Any], device: torch.device) -> None:
    """Write a random release in NVFP4, text alone, with its head in bf16."""
    config = with_mtp_layers(text_config(config, text_only=True), 1)
    expected = inventory(config, where="the shape")
    plain = [*expected.language, *expected.mtp]
    ignored = sorted({name.removesuffix(".weight") for name in plain} - set(expected.quantized))
    scheme = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ignored}
    folder.mkdir(parents=True)
    write_json(folder / CONFIG, config | {"quantization_config": scheme})
    shards: list[dict[str, Tensor]] = [{}]
    names: list[str] = []

    def flush() -> None:
        names.append(shard_name(len(names) + 1, 99_999))
        save_file(shards[-1], folder / names[-1], {"format": "pt"})
        print(f"release: {names[-1]}", file=sys.stderr)
        shards[-1] = {}

    size = 0
    for name in plain:
        tensors = random_tensors(name, expected, device)
        size += sum(each.nbytes for each in tensors.values())
        shards[-1] |= {key: each.cpu() for key, each in tensors.items()}
        if size > _SHARD_BYTES:
            flush()
            size = 0
    flush()
    index_headers(folder, names)


def random_tensors(name: str, expected: Inventory, device: torch.device) -> dict[str, Tensor]:
    """What a release has for a tensor of the architecture."""
    shape = expected.storable[name]
    module = name.removesuffix(".weight")
    if module in expected.quantized:
        rows, columns = shape
        scale = torch.ones(rows, columns // 16, device=device).to(torch.float8_e4m3fn)
        packed = torch.randint(256, (rows, columns // 2), dtype=torch.uint8, device=device)
        return {
            f"{module}.weight": packed,
            f"{module}.weight_scale": scale,
            f"{module}.weight_scale_2": torch.tensor(_WEIGHT_SCALE),
            f"{module}.input_scale": torch.tensor(_INPUT_SCALE),
        }
    value = torch.empty(shape, dtype=torch.bfloat16, device=device)
    match initial(name, shape):
        case "normal":
            value.normal_(0, 0.02)
        case "log_uniform":
            value.uniform_(1, 16).log_()
        case "ones":
            value.fill_(1)
        case "zeros":
            value.zero_()
    return {name: value}


def random_texts(tokens: int, length: int, vocabulary: int) -> list[LearnedText]:
    """Texts of one length, each with one reply, so many tokens together."""
    draw = random.Random(0)
    return [
        LearnedText(
            f"text_{number}",
            "sampled",
            tuple(draw.choices(range(vocabulary), k=length)),
            ((_PROMPT, length),),
        )
        for number in range(max(4, tokens // length))
    ]


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that some work takes until the device has done it, and what it gives."""
    synchronize(device)
    begin = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - begin, result


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gigabytes(device: torch.device, *, reset: bool = False) -> float | None:
    """The most that tensors have held on a GPU since it was reset, in 10^9 bytes."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 3)


def ceilings(device: torch.device) -> dict[str, float]:
    """The device's rate for a large product, and that of a copy of a batch's states to it."""
    size, kind = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    host = torch.randn(8192, 5120).to(torch.bfloat16)

    def best(work: Callable[[], Any]) -> float:
        return min(timed(device, work)[0] for _ in range(6))

    return {
        "tflops": round(2 * size**3 / best(lambda: a @ b) / 1e12, 3),
        "host_copy_gb_s": round(host.nbytes / best(lambda: host.to(device, copy=True)) / 1e9, 3),
    }


def plain_rate(weights: Weights, length: int) -> float:
    """Layers times tokens a second of bf16 layers that take one sample after another."""
    config: Any = target.text_config(weights)
    classes, device = classes_of(weights.inventory.family), weights.device
    with torch.device("meta"):
        model: Any = classes.text_model(config)
    model.rotary_emb = classes.rotary(config, device=device)
    recording = Recording(model, model.layers)
    x = torch.randn(1, length, config.hidden_size, device=device, dtype=torch.bfloat16)
    arguments = recording.arguments(x)
    count = config.full_attention_interval
    seconds = 0.0
    for empty, rest in zip(recording.layers[:count], arguments, strict=False):
        layer: nn.Module = empty.to_empty(device=device).to(torch.bfloat16)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.02)

        def work(layer: nn.Module = layer, rest: Any = rest) -> None:
            with torch.no_grad():
                for _ in range(_PLAIN_SAMPLES):
                    layer(x, **rest)

        work()
        seconds += timed(device, work)[0]
    return count * _PLAIN_SAMPLES * length / seconds


def floors(
    weights: Weights, texts: Sequence[LearnedText], settings: Training, rates: dict[str, float]
) -> dict[str, Any]:
    """The least operations and bytes of both parts, and the seconds that they take at the rates."""
    config: Any = target.text_config(weights)
    storable, family = weights.inventory.storable, weights.inventory.family

    def numbers(names: Sequence[str]) -> int:
        return sum(math.prod(storable[n]) for n in names if len(storable[n]) == 2)

    layers = [n for n in weights.inventory.language if n.startswith(f"{family.prefix}layers.")]
    tokens = sum(len(text.ids) for text in texts)
    held = round(settings.held_out_share * len(texts)) / len(texts)
    steps = sum(count for text in texts for _, count in text.chains(settings.draft_tokens))
    learned = steps * (1 - held)
    logits = 2 * config.vocab_size * config.hidden_size
    head = 2 * numbers(list(weights.inventory.mtp))
    # Forward, and to weights and inputs; of the vocabulary: the body's, the draft's, back to it.
    operations = {
        "hidden states": 2 * numbers(layers) * tokens,
        "training": learned * (3 * head + 3 * logits),
    }
    read = {"hidden states": 2 * tokens * config.hidden_size * 2, "training": tokens}
    read["training"] *= config.hidden_size * 2
    return {
        part: {
            "petaflop": round(operations[part] / 1e15, 3),
            "gigabytes": round(read[part] / 1e9, 3),
            "seconds": round(
                max(
                    operations[part] / rates["tflops"] / 1e12,
                    read[part] / rates["host_copy_gb_s"] / 1e9,
                ),
                3,
            ),
        }
        for part in operations
    }


def measure(args: argparse.Namespace, folder: Path, states: Path) -> dict[str, Any]:
    """Make what is missing, run both parts, and tell what they took."""
    device = torch.device(args.device)
    shape = json.loads((SHAPES / f"{args.shape}.json").read_bytes()) if args.shape else SMALL
    release = folder / "release"
    if not release.exists():
        make_release(release, shaped_config(shape, layers=args.layers), device)
    given = dict(pair.split("=", 1) for pair in args.set)
    settings = Training.model_validate(
        {
            "device": args.device,
            "learning_rate": 1e-4,
            "activations": args.activations,
            **{key: yaml.safe_load(value) for key, value in given.items()},
        }
    )
    weights = Weights(
        Checkpoint.open(release),
        device=device,
        activations=settings.activations,
        compiled=device.type == "cuda",
    )
    config: Any = target.text_config(weights)
    texts = random_texts(args.tokens, args.length, config.vocab_size)
    tokens = sum(len(text.ids) for text in texts)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "shape": args.shape or "small",
        "layers": config.num_hidden_layers,
        "tokens": tokens,
        "texts": len(texts),
        "settings": settings.model_dump(mode="json"),
    }
    rates = ceilings(device)
    result |= {"rates": rates, "floors": floors(weights, texts, settings, rates)}
    states_file = states / "hidden_states.bf16"
    if not states_file.exists():
        plain = plain_rate(weights, args.length)
        peak_gigabytes(device, reset=True)
        seconds, _ = timed(
            device,
            lambda: body_states(weights, texts, folder=states, batch_tokens=settings.batch_tokens),
        )
        rate = config.num_hidden_layers * tokens / seconds
        result["hidden states"] = {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "layer_tokens_per_second": round(rate),
            "plain_layer_tokens_per_second": round(plain),
            "beside_plain": round(rate / plain, 3),
            "file_gigabytes": round(states_file.stat().st_size / 1e9, 3),
            "peak_gpu_gigabytes": peak_gigabytes(device),
        }
        print(json.dumps(result["hidden states"]), file=sys.stderr)
    if args.only_states:
        return result
    # One pass over what is learned, whatever comes of it.
    per_pass = math.ceil((1 - settings.held_out_share) * tokens / settings.batch_tokens)
    settings = settings.model_copy(update={"steps": args.steps or per_pass, "patience": 1 << 30})
    (states / KEPT).unlink(missing_ok=True)
    peak_gigabytes(device, reset=True)
    seconds, healed = timed(device, lambda: heal(release, texts, settings, work=states))
    result["training"] = {
        "seconds": round(seconds, 3),
        "steps": settings.steps,
        "steps_of_a_pass": per_pass,
        "looks": len(healed.curve) + 2,
        "peak_gpu_gigabytes": peak_gigabytes(device),
        "curve": healed.curve,
    }
    return result


def main() -> int:
    """Parse arguments, measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", help="a file of tools/shapes (default: a small one)")
    parser.add_argument("--layers", type=int, default=None, help="instead of the shape's")
    parser.add_argument("--tokens", type=int, default=40_000, help="of all texts (40000)")
    parser.add_argument("--length", type=int, default=512, help="of a text (512)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--activations", default="nvfp4", choices=("nvfp4", "bf16"))
    parser.add_argument("--steps", type=int, help="of training (default: those of one pass)")
    parser.add_argument("--only-states", action="store_true", help="no training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="where the release goes (default: temporary)")
    parser.add_argument("--states", type=Path, help="where the states go (default: the same)")
    parser.add_argument("--keep", action="store_true", help="leave both where they are")
    args = parser.parse_args()
    unwind_when_ended()
    if args.keep and args.folder is None:
        parser.error("--keep wants --folder")
    parent = args.folder or Path(tempfile.mkdtemp(prefix="scion-bench-"))
    states = args.states or parent / "states"
    try:
        result = measure(args, parent, states)
        where = machine(parent)
    finally:
        if not args.keep:
            shutil.rmtree(parent, ignore_errors=True)
            shutil.rmtree(states, ignore_errors=True)
    print(json.dumps({"benchmark": "healing", "machine": where, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
