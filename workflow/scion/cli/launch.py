"""`scion launch`: the command that serves a release, and whether it fits."""

import argparse
import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scion.checkpoint.shards import Checkpoint
    from scion.engines.config import Launch
    from scion.engines.flag import Flag
    from scion.engines.loading.engine import Launcher
    from scion.engines.releases import EngineRelease
    from scion.engines.served_model import ServedModel
    from scion.engines.vllm.memory import Prediction
    from scion.lint.rule import Rule


def launch(args: argparse.Namespace) -> int:
    """Run `scion launch`.

    Returns:
        The exit code.

    Raises:
        ScionError: No checkpoint, launch, engine or GPU of that name, or one that is not modelled.
    """
    from scion.checkpoint.shards import Checkpoint
    from scion.cli.launch_report import (
        environment_lines,
        flag_lines,
        gpu_lines,
        lint_lines,
        memory_lines,
        reported_lines,
        unpredicted_lines,
    )
    from scion.engines.served_model import ServedModel
    from scion.engines.vllm.engine import VLLM

    if args.list_gpus:
        print("\n".join(gpu_lines()))
        return 0
    checkpoint = Checkpoint.open(args.folder)
    chosen = _launch(args, checkpoint)
    engine, launcher = _engine(args.engine)
    model = ServedModel.read(args.folder)
    command, options = _command(args, chosen, model, launcher)
    # Memory is modelled for vLLM on GPUs alone.
    predicted = None
    if engine.name == VLLM.name and not args.cpu:
        predicted = _predict(args, checkpoint, chosen, engine, text_only=model.lost_tower)
    else:
        _check_context(args, checkpoint, chosen)
    record = predicted.record() if predicted else {"engine": str(engine), "verdict": None}
    beside = _beside(args.server_log, predicted, engine)
    if args.json:
        print(json.dumps({"command": command, **record, **beside}, indent=1))
        return _code(predicted)
    memory = memory_lines(predicted) if predicted else unpredicted_lines(engine, cpu=args.cpu)
    lines = [*(environment_lines() if args.cpu else ()), command, "", *flag_lines(options), ""]
    lines += [*memory, *lint_lines(_errors(args.folder, chosen, engine)), *reported_lines(beside)]
    print("\n".join(lines))
    return _code(predicted)


def _code(predicted: "Prediction | None") -> int:
    return 1 if predicted is not None and predicted.verdict == "does not fit" else 0


def _errors(folder: Path, chosen: "Launch", engine: "EngineRelease") -> "list[Rule]":
    """The rules by which lint finds that the engine does not serve what the checkpoint means."""
    from scion.checkpoint.folder_source import open_source
    from scion.lint.all_rules import RULES
    from scion.lint.rule import Severity, run, select_rules
    from scion.lint.subject import Subject

    subject = Subject.open(
        open_source(str(folder)), engines=[engine], tensor_parallel=[chosen.tensor_parallel]
    )
    errors = [rule for rule in select_rules(RULES) if rule.severity is Severity.ERROR]
    return list(dict.fromkeys(result.rule for result in run(subject, errors)))


def _command(
    args: argparse.Namespace, chosen: "Launch", model: "ServedModel", launcher: "Launcher"
) -> "tuple[str, Sequence[Flag]]":
    """The command as one types it, and its flags."""
    from scion.engines.config import Serving
    from scion.engines.vllm.command import server_command

    if args.cpu:
        written = server_command(chosen, model, Serving(), measuring=False)
        return written.text(str(args.folder), name=args.folder.resolve().name), written.flags
    options = launcher.flags(chosen, model)
    start = f"{launcher.start} {shlex.quote(str(args.folder))}"
    return " \\\n    ".join([start, *(flag.text for flag in options)]), options


def _beside(
    log: Path | None, predicted: "Prediction | None", engine: "EngineRelease"
) -> dict[str, Any]:
    """The prediction beside a server's log, as `beside_server`; empty if none is named."""
    from scion.common.errors import ScionError
    from scion.engines.registry.engines import engine_of
    from scion.engines.vllm.log import capacity
    from scion.engines.vllm.memory import compare_with_server

    if log is None:
        return {}
    if not log.is_file():
        raise ScionError(
            "the server's log is not there",
            where=log,
            expected="what a vLLM server printed",
            found="no such file",
            hint="name a log below logs/, or save the output of vllm serve",
        )
    pairs = compare_with_server(predicted.record(), capacity(log)) if predicted else {}
    if not pairs:
        raise ScionError(
            "there is nothing to compare",
            where=log,
            expected="a vLLM launch, and a log with a line such as `GPU KV cache size: … tokens`",
            found="neither cache nor memory"
            if predicted
            else f"a launch of {engine_of(engine).title}",
            hint="name the log of a server that became ready",
        )
    return {"beside_server": pairs}


def _launch(args: argparse.Namespace, checkpoint: "Checkpoint") -> "Launch":
    """The launch that is named, or the plain one, with the options' changes."""
    from scion.architectures.families import head_prefixes
    from scion.common.errors import ScionError
    from scion.engines.config import Launch

    has_head = any(name.startswith(head_prefixes()) for name in checkpoint.shard_of)
    if args.config is not None:
        from scion.config import read_config

        chosen = _named(read_config(args.config).launches, args.launch, args.config)
    else:
        from scion.architectures.inventory import inventory, language_keys

        where = args.folder / "config.json"
        family = inventory(checkpoint.config, where=where).family
        text = language_keys(checkpoint.config, family, where=where)
        chosen = Launch(
            name="plain",
            title="Plain",
            max_model_len=text.size("max_position_embeddings"),
            speculative_tokens=3 if has_head else 0,
        )
    changed = {
        name: getattr(args, name)
        for name in (
            *("max_model_len", "max_num_seqs", "tensor_parallel", "kv_cache_dtype"),
            "gpu_memory_utilization",
        )
        if getattr(args, name) is not None
    }
    if args.speculative_tokens is not None:
        changed["speculative_tokens"] = args.speculative_tokens
    chosen = chosen.model_copy(update=changed)
    if chosen.speculative_tokens and not has_head:
        raise ScionError(
            "the launch drafts with an MTP head that the checkpoint does not have",
            where=args.folder,
            expected=f"{' or '.join(f'{prefix}*' for prefix in head_prefixes())} tensors",
            found="none",
            hint="add --speculative-tokens 0, or graft the head: see `scion lint --explain M301`",
        )
    return chosen


def _named(known: Iterable["Launch"], name: str | None, where: Path) -> "Launch":
    from scion.common.errors import ScionError

    by_name = {launch.name: launch for launch in known}
    if name is None:
        return next(iter(by_name.values()))
    if name not in by_name:
        raise ScionError(
            "the configuration has no such launch",
            where=where,
            expected=f"one of {', '.join(by_name)}",
            found=repr(name),
            hint="name one of them with --launch",
        )
    return by_name[name]


def _engine(text: str) -> "tuple[EngineRelease, Launcher]":
    """The newest release that is named, and how its server is started."""
    from scion.common.errors import ScionError
    from scion.engines.registry.engines import ENGINES, engine_of, parse_engine

    release = parse_engine(text)[-1]
    launcher = engine_of(release).launcher
    if launcher is None:
        written = (engine.name for engine in ENGINES.values() if engine.launcher is not None)
        raise ScionError(
            "launches are not written for this engine",
            where="--engine",
            expected=" or ".join(written),
            found=release,
            hint="leave --engine out for the newest known vLLM",
        )
    return release, launcher


def _check_context(args: argparse.Namespace, checkpoint: "Checkpoint", chosen: "Launch") -> None:
    """Refuse a context beyond the model's, where no prediction says so."""
    from scion.architectures.inventory import inventory, language_keys
    from scion.engines.vllm.cache_layout import require_context

    where = args.folder / "config.json"
    family = inventory(checkpoint.config, where=where).family
    text = language_keys(checkpoint.config, family, where=where)
    require_context(chosen, text, hint="add --max-model-len {longest}, or change the launch")


def _predict(
    args: argparse.Namespace,
    checkpoint: "Checkpoint",
    chosen: "Launch",
    engine: "EngineRelease",
    *,
    text_only: bool,
) -> "Prediction":
    from scion.common.errors import ScionError
    from scion.engines.gpus import GIB, GPUS, find_gpu
    from scion.engines.vllm.memory import predict

    name: str | None = args.gpu or chosen.gpu
    note = ""
    if args.memory_gib is not None:
        total = int(args.memory_gib * GIB)
    elif name is not None:
        gpu = find_gpu(name)
        total, note = gpu.total_bytes, gpu.note
    else:
        raise ScionError(
            "neither the launch nor an option says on which GPU it shall run",
            where="--gpu",
            expected=f"one of {', '.join(gpu.name for gpu in GPUS)}",
            found="nothing",
            hint="add --gpu NAME, or --memory-gib X for another",
        )
    return predict(
        {tensor: checkpoint.tensor(tensor) for tensor in checkpoint.shard_of},
        checkpoint.config,
        chosen,
        total=total,
        engine=engine,
        where=args.folder / "config.json",
        text_only=text_only,
        note=note,
        prefix_caching=args.prefix_caching,
    )
