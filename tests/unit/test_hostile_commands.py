"""What strangers hand to the commands: refused in one message, at once, and printed as text."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import PARTS
from hostile import HOSTILE_HEADERS, write_shard
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import RESULTS
from scion.artifacts.store.store import MARK, Store
from scion.cli import main as cli
from scion.common.errors import ScionError
from scion.common.text import printable, printable_json
from tampering import edit_manifest, in_json, in_manifest, reroot

PROJECT = Path(__file__).parents[2]
PICO = PROJECT / "resources/pico"
DEFAULT = str(PROJECT / "config/default.yaml")
STEERING = "\x1b[2J\n::error::forged"
PROMPT = '{"messages": [{"role": "user", "content": "Hi"}]}\n'

Make = Callable[[Path], object]
Said = tuple[int, str, str]
Scion = Callable[..., Said]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def scion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Scion:
    """`scion` in this process: its exit code, and what it prints."""
    # Without one, what publishes would look at nothing.
    monkeypatch.setenv("HF_TOKEN", "hf_none")

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["scion", *map(str, words)])
        status = cli.main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def check_text(text: str) -> None:
    """No terminal is steered, and no line is a command of a workflow's log."""
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text) is None, text
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in text.split("\n"))


def check_refused(said: Said, *texts: str) -> None:
    status, out, errors = said
    assert status in (1, 2), out
    assert "Traceback" not in errors
    assert errors.count("error: ") == 1
    for text in (*PARTS, *texts):
        assert text in errors, errors
    check_text(out + errors)


def check_unjudged(said: Said, *texts: str) -> None:
    """As lint tells it: a finding like others, in its report."""
    status, out, errors = said
    assert (status, errors) == (2, "")
    for text in ("F127", "where:", "expected:", "found:", "repair:", *texts):
        assert text in out, out
    check_text(out)


# Something else than what a command reads


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


KINDS: dict[str, Make] = {
    "nothing": lambda path: None,
    "an empty folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "a binary file": lambda path: path.write_bytes(bytes(range(256))),
    "a pipe": pipe,
    "a socket": bound,
    "a ring of links": lambda path: path.symlink_to(path.name),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
READERS: dict[str, tuple[str, ...]] = {
    "check": ("check", "{}"),
    "lint": ("lint", "{}"),
    "launch": ("launch", "{}"),
    "estimate": ("estimate", "{}", "--gpu", "h100", "--host-gib", "8"),
    "estimate of a config": ("estimate", "{}.yaml", "--gpu", "h100", "--host-gib", "8"),
    "estimate on a disk": ("estimate", str(PICO / "pico-agent"), "--disk", "{}"),
    "simulate": ("simulate", "{}"),
    "simulate by measurements": ("simulate", DEFAULT, "--benchmarks", "{}"),
    "compare": ("compare", "{}", "{}"),
    "audit": ("audit", "{}"),
    "audit of a source": ("audit", str(PICO / "pico-base"), "--source", "{}"),
    "audit of a donor": ("audit", str(PICO / "pico-base"), "--donor", "{}"),
    "diff": ("diff", str(PICO / "pico-base"), "{}"),
    "explain": ("explain", "{}", "x"),
    "sign": ("sign", "{}", "--key", DEFAULT),
    "publish": ("publish", "{}", "owner/name"),
    "reproduce": ("reproduce", "{}"),
    # An empty file is the default's configuration, whose release the checkout may hold.
    "summary": ("summary", "{}", "--results", "{}.results"),
    "summary of results": (
        "summary",
        DEFAULT,
        "--results",
        "{}",
    ),
    "store ls": ("store", "ls", "--store", "{}"),
    "store verify": ("store", "verify", "--store", "{}"),
    "store prune": ("store", "prune", "--store", "{}"),
    "pin": ("pin", "{}"),
    "acceptance": ("acceptance", "{}", "--prompts", "{}.prompts"),
    "heal": ("heal", "{}", "--prompts", "{}.prompts"),
    "heal of prompts": ("heal", str(PICO / "pico-base"), "--prompts", "{}"),
    "acceptance of prompts": ("acceptance", str(PICO / "pico-base"), "--prompts", "{}"),
}
# What is a sound argument there.
_SOUND = {
    ("estimate on a disk", "an empty folder"),
    ("pin", "an empty file"),
    ("estimate of a config", "an empty file"),
    ("simulate", "an empty file"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_thing_is_refused(
    scion: Scion, tmp_path: Path, reader: str, kind: str
) -> None:
    if (reader, kind) in _SOUND:
        pytest.skip("that is a sound argument")
    words = READERS[reader]
    name = next(word for word in words if "{}" in word).replace("{}", "given")
    path = tmp_path / name
    KINDS[kind](path)
    (tmp_path / "given.prompts").write_text(PROMPT)
    said = scion(*(word.replace("{}", str(tmp_path / "given")) for word in words))
    # Of a file the folder that holds it is looked at.
    if reader == "lint":
        check_unjudged(said, str(path.parent))
        return
    of_folder = reader in ("estimate", "audit of a source", "diff")
    check_refused(said, str(path.parent if of_folder else path))
    assert "fetch the checkpoint again" not in said[2] or reader == "launch"


@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_is_too_long_or_steers_is_refused(
    scion: Scion, tmp_path: Path, reader: str
) -> None:
    for name in ("a" * 300, STEERING, "##[error]forged"):
        words = (word.replace("{}", str(tmp_path / name)) for word in READERS[reader])
        (check_unjudged if reader == "lint" else check_refused)(scion(*words))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("name.weight: 5 µs, 3 %", "name.weight: 5 µs, 3 %"),
        ("\x1b[2J\r\n\t\x9b\u202e", "\\x1b[2J\\r\\n\\t\\x9b\\u202e"),
        (" ::error::x", " \\x3a:error::x"),
        ("a::b", "a::b"),
        ("x ##[error]y", "x \\x23#[error]y"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_could_steer_is_spelled_out(text: str, plain: str) -> None:
    assert printable(text) == plain
    told = str(ScionError(text, where=text, expected=text, found=text, hint=text))
    check_text(told)
    assert plain.split("\\n")[0] in told
    check_text(printable_json({text: [text]}))
    assert json.loads(printable_json({text: [text]})) == {text: [text]}


@pytest.mark.parametrize(
    "words", [("config",), ("check", "{}"), ("lint", "--list"), ("compare", "{}", "{}")]
)
def test_whoever_reads_may_have_had_enough(sealed_release: Path, words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    given = [word.replace("{}", str(sealed_release)) for word in words]
    command = [sys.executable, "-m", "scion.cli.main", *given]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


# config.json of a checkpoint

JSON: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "no UTF-8": lambda path: path.write_bytes(b'{"model_type": "\xff"}'),
    "null": lambda path: path.write_text("null"),
    "a list": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text('{"a":' * 100_000),
    "wide": lambda path: path.write_bytes(b'{"a":[' + b"[]," * 3_000_000 + b"1]}"),
    "of gigabytes": lambda path: (path.touch(), os.truncate(path, 1 << 35)),
    "a pipe": lambda path: (path.unlink(), pipe(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link elsewhere": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a model_type that steers": lambda path: path.write_text(json.dumps({"model_type": STEERING})),
    "text_config of null": lambda path: path.write_text(
        json.dumps(json.loads(path.read_text()) | {"text_config": None})
    ),
    "architectures of null": lambda path: path.write_text(
        json.dumps({"architectures": [None], "model_type": None, "text_config": []})
    ),
    "NaN for a size": lambda path: path.write_text(
        re.sub(r'"hidden_size": \d+', '"hidden_size": NaN', path.read_text())
    ),
}


@pytest.mark.parametrize("command", ["launch", "estimate", "acceptance", "audit"])
@pytest.mark.parametrize("made", JSON.values(), ids=JSON)
def test_a_hostile_config_is_refused(
    scion: Scion, tmp_path: Path, command: str, made: Make
) -> None:
    folder = shutil.copytree(PICO / "pico-base", tmp_path / "model")
    (tmp_path / "prompts").write_text(PROMPT)
    made(folder / "config.json")
    further: dict[str, tuple[object, ...]] = {
        "acceptance": ("--prompts", tmp_path / "prompts"),
        "audit": ("--source", PICO / "pico-base"),
    }
    more = further.get(command, ())
    check_refused(scion(command, folder, *more), str(folder))


@pytest.mark.parametrize("made", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_a_hostile_header_is_refused(
    scion: Scion, tmp_path: Path, made: Callable[[], bytes]
) -> None:
    (tmp_path / "config.json").write_bytes((PICO / "pico-base/config.json").read_bytes())
    write_shard(tmp_path / "model.safetensors", made())
    check_refused(scion("audit", tmp_path), str(tmp_path))


# Prompts, and a config to be pinned

PROMPTS = {
    "null": b"null\n",
    "a list": b"[]\n",
    "no messages": b"{}\n",
    "messages of null": b'{"messages": null}\n',
    "a message of null": b'{"messages": [null]}\n',
    "deep": b'{"messages":' + b"[" * 100_000 + b"\n",
    "a key that steers": json.dumps({STEERING: 1}).encode() + b"\n",
    "bytes that steer": b'{"\x1b[2J": }\n',
    "a long line": b'{"messages": "' + b"a" * (1 << 26) + b'"}\n',
}


@pytest.mark.parametrize("content", PROMPTS.values(), ids=PROMPTS)
def test_hostile_prompts_are_refused(scion: Scion, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts").write_bytes(content)
    said = scion("acceptance", PICO / "pico-base", "--prompts", tmp_path / "prompts")
    check_refused(said, str(tmp_path / "prompts"))


PINNED = {
    "deep": b"a: " + b"[" * 100_000,
    "no YAML": b"a: b: c",
    "no UTF-8": b"a: \xff",
    "control characters": b"a: \x1b[2J",
    "no location": b"source: hf://",
    "a location that steers": b'source: "hf://o/\\e[2J\\n::error::x"',
}


@pytest.mark.parametrize("content", PINNED.values(), ids=PINNED)
def test_a_hostile_config_to_pin_is_refused(scion: Scion, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    check_refused(scion("pin", tmp_path / "x.yaml"), str(tmp_path / "x.yaml"))
    assert (tmp_path / "x.yaml").read_bytes() == content


def test_aliases_without_end_are_pinned_in_no_time(scion: Scion, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 20))]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    status, out, _ = scion("pin", tmp_path / "x.yaml")
    assert (status, "pinned already" in out) == (0, True)


# Releases to compare and to sum up, of which every digest is right


def in_result(value: Any) -> Make:
    return lambda folder: (folder / RESULTS / "serving.json").write_text(json.dumps(value))


def named_file(name: str) -> Make:
    return lambda folder: (folder / RESULTS / name).write_text("{}")


RELEASES: dict[str, Make] = {
    "no weights": in_manifest(MANIFEST, lambda made: made["facts"].pop("weights")),
    "weights of null": in_manifest(MANIFEST, lambda made: made["facts"].update(weights=None)),
    "another stage": in_manifest(MANIFEST, lambda made: made.update(stage=STEERING)),
    "no manifest of the weights": lambda folder: (folder / "provenance/graft_mtp.json").unlink(),
    "a manifest of null": lambda folder: (folder / "provenance/fix_keys.json").write_text("null"),
    "a manifest of lists": lambda folder: (folder / "provenance/fix_keys.json").write_text("[]"),
    "an estimate beyond a double": in_json(
        f"{RESULTS}/ifeval.json",
        lambda record: record["scores"]["prompt_strict"].update(value=10**400),
    ),
    "an estimate that is none": in_result({"value": "x", "low": [], "high": {}, "count": None}),
}
RECORDS: dict[str, Make] = {
    "null": in_result(None),
    "a list": in_result([1]),
    "runs of null": in_result({"runs": None}),
    "a run of null": in_result({"runs": [None]}),
    "numbers of text": in_result({"runs": [{"acceptance": "x", "speculative_tokens": "y"}]}),
}


@pytest.fixture
def folder(sealed_release: Path, tmp_path: Path) -> Path:
    """A copy of a release, `release` in a folder of results, as somebody else has it."""
    return shutil.copytree(sealed_release, tmp_path / "pico-agent-nvfp4-text-mtp/release")


@pytest.mark.parametrize("made", RELEASES.values(), ids=RELEASES)
def test_a_release_that_cannot_be_compared_is_refused(
    scion: Scion, folder: Path, sealed_release: Path, made: Make
) -> None:
    made(folder)
    reroot(folder)
    check_refused(scion("compare", folder, sealed_release))
    check_refused(scion("compare", sealed_release, folder))


@pytest.mark.parametrize("made", RECORDS.values(), ids=RECORDS)
def test_a_release_that_cannot_be_summed_up_is_refused(
    scion: Scion, folder: Path, sealed_release: Path, made: Make
) -> None:
    made(folder)
    reroot(folder)
    check_refused(
        scion("summary", DEFAULT, "--results", folder.parents[1]),
        str(folder / RESULTS / "serving.json"),
    )
    status, out, errors = scion("compare", folder, sealed_release)
    assert status in (0, 2)
    check_text(out + errors)


def test_names_of_strangers_are_spelled_out(
    scion: Scion, folder: Path, sealed_release: Path
) -> None:
    path = folder / RESULTS / "serving.json"
    path.write_text(json.dumps({STEERING: STEERING, "\ud800": 1, "##[error]": {STEERING: 1}}))
    reroot(folder)
    for more in ((), ("--json",), ("--all",)):
        status, out, errors = scion("compare", folder, sealed_release, *more)
        assert (status, errors) == (0, "")
        assert "forged" in out
        check_text(out)
    (folder / STEERING).touch()
    (folder / "\udcff").touch()
    check_refused(scion("check", folder), "\\x1b[2J\\n::error::forged", "\\udcff")
    edit_manifest(folder / MANIFEST, lambda made: made["facts"].update(weights=STEERING))
    check_refused(scion("check", folder))
    words = ("summary", DEFAULT, "--results", folder.parents[1])
    check_text("".join(scion(*words)[1:]))


# Stores


def put(name: str, content: bytes) -> Make:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return make


MARKS: dict[str, Make] = {
    "no UTF-8": put(MARK, b"\xff"),
    "null": put(MARK, b"null"),
    "another format": put(MARK, json.dumps({"format": STEERING}).encode()),
    "a format of lists": put(MARK, b'{"format": [1]}'),
    "deep": put(MARK, b"[" * 100_000),
    "a root of null": put(f"roots/{'0' * 16}.json", b"null"),
    "a root of lists": put(f"roots/{'0' * 16}.json", b'{"folder": [], "host": 1, "contents": []}'),
    "a root's contents": put(
        f"roots/{'0' * 16}.json", b'{"folder": "x", "host": "y", "contents": {"a": []}}'
    ),
    "a root without a name": put(
        f"roots/{'0' * 16}.json", b'{"folder": "\\u0000", "host": "y", "contents": {}}'
    ),
}
RECORDED = {
    "null": b"null",
    "a list": b"[]",
    "half a manifest": b'{"format": "scion-manifest/2", "content": "x"}',
    "no UTF-8": b"\xff",
}


@pytest.mark.parametrize("made", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("command", ["ls", "du", "prune"])
def test_a_store_of_another_form_is_refused(
    scion: Scion, tmp_path: Path, command: str, made: Make
) -> None:
    Store.open([str(tmp_path / "store")])
    made(tmp_path / "store")
    said = scion("store", command, "--store", tmp_path / "store")
    check_refused(said, str(tmp_path / "store"))
    assert "fetch" not in said[2]


@pytest.mark.parametrize("content", RECORDED.values(), ids=RECORDED)
def test_a_hostile_record_is_told_by_verify_and_does_not_stop_the_others(
    scion: Scion, tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "store"
    Store.open([str(folder)])
    put(f"records/{'0' * 64}.json", content)(folder)
    put(f"artifacts/{STEERING.replace('/', '')}", b"")(folder)
    for command in ("ls", "du"):
        status, out, errors = scion("store", command, "--store", folder)
        assert (status, errors) == (0, "")
        check_text(out)
    status, out, _ = scion("store", "verify", "--store", folder)
    assert (status, f"records/{'0' * 64}.json" in out) == (1, True)
    check_text(out)
