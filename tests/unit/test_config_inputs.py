"""Config files as strangers, slips and enemies write them, through `scion config --check`."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import tiny_config, write_checkpoint
from own_release import OWN
from scion.artifacts.environments import VARIABLE
from scion.cli.main import main
from scion.config import read_config

ALIASES = "\n".join(
    [f"a0: &a0 [{', '.join('x' * 9)}]"]
    + [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]
)


def check(
    path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["scion", "config", "--check", str(path)])
    code = main()
    return code, capsys.readouterr().err


# What the file holds, and a word of what must be said to it.
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "no UTF-8": (b"release: \xff\xfe", "utf-8"),
    "UTF-16": ("release: x".encode("utf-16"), "utf-8"),
    "a NUL": (b"release: a\0b", "special characters are not allowed"),
    "an escape": ('card: {title: "a\\e[2Jb"}', "can't be printed"),
    "a NUL in a path": ('source: "a\\0b"', "can't be printed"),
    "an open list": ("a: [", "line 1, column 5"),
    "a tab": ("a:\n\t- b", "line 2"),
    "a list": ("- release", "a list instead of keys"),
    "a word": ("release", "a str instead of keys"),
    "a number": ("7", "a int instead of keys"),
    "two documents": ("release: a\n---\nrelease: b", "single document"),
    "a tag of Python": ("release: !!python/object/apply:os.system [id]", "could not determine"),
    "an unknown anchor": ("release: *x", "undefined alias"),
    "an anchor in itself": ("a: &a [*a]", "an alias of itself"),
    "two anchors in each other": ("a: &a {b: &b {c: *a, d: *b}}", "an alias of itself"),
    "a bomb of nine times nine": (ALIASES, "aliases written out"),
    "a long flat list": (f"a: [{'1,' * 30_000}]", "more than 20000 values"),
    "a large file": ("#" * (1 << 19), "more than the 262144"),
    "deep lists": ("a: " + "[" * 20_000, "nested too deeply"),
    "deep objects": ("a: " + "{a: " * 20_000, "nested too deeply"),
    "a key twice": ("text_only: true\ntext_only: false", "line 2, column 1"),
    "a key twice below": ("card: {title: a, title: b}", "'title' a second time"),
    "a key twice in a list": ("launches: [{name: a, name: b}]", "'name' a second time"),
    "a key that is a list": ("? [a, b]\n: c", "unhashable"),
    "a key that is a number": ("7: x", "7"),
    "an unknown key": ("sources: x", "sources"),
    "an unknown key below": ("card: {titel: x}", "card.titel"),
    "many unknown keys": ("\n".join(f"k{n}: 1" for n in range(5000)), "k19"),
    "null for a section": ("card:", "card"),
    "a list for a section": ("card: [a]", "card"),
    "a number for a text": ("card: {title: 7}", "card.title"),
    "yes for a number": ("quality: {samples: yes}", "true and false are no value of it"),
    "yes in a list": ("measurement: {repeats: true}", "true and false"),
    "a text for a number": ("quality: {samples: many}", "quality.samples"),
    "a fraction for a number": ("quality: {samples: 2.5}", "quality.samples"),
    "a number beyond sense": ("quality: {samples: 1000000000000}", "no setting is as large"),
    "a number of 5000 digits": (f"quality: {{samples: {'9' * 5000}}}", "4300 digits"),
    "infinity": ("launches: [{name: a, title: b, max_model_len: .inf}]", "as large"),
    "not a number": ("agent_tasks: {minimum_rate: .nan}", "as large"),
    "a negative number": ("quality: {max_tokens: -1}", "greater than 1"),
    "a context beyond sense": ("launches: [{name: a, title: b, max_model_len: 99999999}]", "less"),
    "too many drafts": ("measurement: {speculative_tokens: [500]}", "less than or equal to 32"),
    "a negative draft": ("measurement: {speculative_tokens: [-1]}", "speculative_tokens.0"),
    "no request at a time": ("measurement: {parallel_requests: [0]}", "greater than 0"),
    "split over no GPU": ("lint: {tensor_parallel: [0]}", "lint.tensor_parallel.0"),
    "split over a million": ("lint: {tensor_parallel: [1000000]}", "less than or equal"),
    "no engine": ("lint: {engines: []}", "lint.engines"),
    "an unknown engine": ("lint: {engines: [vlm]}", "lint.engines: 'vlm'"),
    "an unknown release of an engine": ("lint: {engines: [vllm==9]}", "no known release lies"),
    "an unknown rule": ("lint: {ignore: [ZZ]}", "lint.ignore: 'ZZ': no rule has that name"),
    "a text for a boolean": ("text_only: 'yes'", "text_only: Input should be a valid boolean"),
    "a number for a boolean": ("ifeval: {enabled: 1}", "ifeval.enabled: Input should be a valid"),
    "a port beyond all": ("serving: {port: 70000}", "serving.port"),
    "a server of no address": ("serving: {server_url: 'ftp://x'}", "serving.server_url"),
    "memory beyond all": ("launches: [{name: a, title: b, max_model_len: 9, "
                          "gpu_memory_utilization: 1.5}]", "gpu_memory_utilization"),
    "a name of 300 letters": (f"release: {'a' * 300}", "at most 96"),
    "a launch of 300 letters": (f"launches: [{{name: {'a' * 300}, title: b, max_model_len: 9}}]",
                                "launches.0.name"),
    "a title of 9000 letters": (f"card: {{title: {'a' * 9000}}}", "9000 characters"),
    "a name that leaves": ("release: ../x", "release"),
    "a hidden name": ("release: .x", "release"),
    "two launches of one name": ("launches: [{name: a, title: b, max_model_len: 9}, "
                                 "{name: a, title: b, max_model_len: 9}]", "one name"),
    "an unknown launch": ("serving: {launch: fast}", "no launch fast"),
    "no launch": ("launches: []", "launches"),
    "no store": ("store: []", "store"),
    "a store of no name": ("store: ['']", "store: a location is empty"),
    "an empty source": ("source: ''", "source: no location"),
    "a source over http": ("source: http://huggingface.co/a/b", "begins with http://"),
    "a source over https": ("source: https://huggingface.co/a/b", "begins with https://"),
    "a data set as source": (f"source: hf://datasets/a/b@{'0' * 40}", "is a data set"),
    "a model as data": (f"measurement: {{prompts: 'hf://a/b@{'0' * 40}'}}", "is a model"),
    "an owner too much": ("donor: hf://a/b/c", "3 parts"),
    "a donor of no name": ("donor: hf://", "donor"),
    "a repository without owner": ("card: {repository: name}", "card.repository"),
    "a licence in prose": ("card: {license: 'Apache 2.0, I think'}", "card.license"),
    "an unknown recipe": ("quantization: {recipe: best}", "four_over_six"),
    "scales and a search": ("quantization: {input_scales: x}", "needs samples"),
    "a variant twice": ("comparison: {variants: [{recipe: gptq}, {recipe: gptq}]}", "twice"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_a_file_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | bytes,
    said: str,
) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, error = check(path, monkeypatch, capsys)
    assert code == 1
    assert error.startswith("error: ")
    assert said in error
    assert str(path) in error
    assert len(error) < 6000
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "no regular file, but a folder"),
        (os.mkfifo, "no regular file, but a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file, but a device"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["missing", "folder", "pipe", "device", "ring"],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], object],
    said: str,
) -> None:
    make(tmp_path / "my.yaml")
    code, error = check(tmp_path / "my.yaml", monkeypatch, capsys)
    assert (code, said in error) == (1, True), error


def own(folder: Path, **values: object) -> str:
    """A release of one's own, whose source, donor and data lie in a folder."""
    for name in ("source", "donor"):
        if not (folder / name).exists():
            write_checkpoint(folder / name, tiny_config(), mtp=name == "donor")
    (folder / "data.jsonl").write_text("{}\n" * 20)
    places = {"source": folder / "source", "donor": folder / "donor", "data": folder / "data.jsonl"}
    return OWN.format(**{**places, **values})


def test_a_release_of_ones_own_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text(own(tmp_path))
    # Outside of a checkout nothing is known of environments.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert check(tmp_path / "my.yaml", monkeypatch, capsys) == (0, "")


@pytest.mark.parametrize(
    ("serving", "python", "warned"),
    [
        ("environment: serve-cuda", None, True),
        ("environment: serve-cuda", "envs/serve-cuda/.venv/bin/python", False),
        ("environment: serve-cuda, server_url: 'http://host:8000/v1'", None, False),
    ],
)
def test_an_environment_that_is_not_installed_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    serving: str,
    python: str | None,
    warned: bool,
) -> None:
    text = own(tmp_path).replace("launch: production", f"launch: production, {serving}")
    (tmp_path / "my.yaml").write_text(text)
    (tmp_path / "envs/serve-cuda").mkdir(parents=True)
    if python is not None:
        (tmp_path / python).parent.mkdir(parents=True)
        (tmp_path / python).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    code, error = check(tmp_path / "my.yaml", monkeypatch, capsys)
    assert (code, bool(error)) == (0, warned)
    if warned:
        assert error.startswith("warning: serving.environment: the environment serve-cuda is not")
        assert "make SERVING=serve-cuda setup" in error


def other_architecture(folder: Path) -> None:
    (folder / "source/config.json").write_text('{"model_type": "bert"}')


def licensed(folder: Path) -> None:
    (folder / "source/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Mine\n")


def short(folder: Path) -> None:
    (folder / "data.jsonl").write_text("{}\n\n" * 19)


def few_chats(folder: Path) -> None:
    text = (folder / "my.yaml").read_text()
    text = text.replace("sets: [{dataset", "sets: [{samples: 5, dataset")
    (folder / "my.yaml").write_text(text.replace("{chats:", "{samples: 21, chats:"))


def few_prompts(folder: Path) -> None:
    data = folder / "data.jsonl"
    ifeval = f"ifeval: {{dataset: {data}, limit: 21}}"
    text = (folder / "my.yaml").read_text()
    (folder / "my.yaml").write_text(text.replace("ifeval: {enabled: false}", ifeval))


def short_context(folder: Path) -> None:
    config = tiny_config(max_position_embeddings=4095)
    (folder / "source/config.json").write_text(json.dumps(config))


def headless(folder: Path) -> None:
    shutil.rmtree(folder / "donor")
    write_checkpoint(folder / "donor", tiny_config(), mtp=False)


def linked(folder: Path) -> None:
    (folder / "secret").write_text("x")
    (folder / "source/LICENSE").symlink_to(folder / "secret")


@pytest.mark.parametrize(
    ("values", "change", "said"),
    [
        ({"source": "nowhere"}, None, "source: the checkpoint's folder is not there"),
        ({"donor": "/dev/null"}, None, "donor: the checkpoint's folder is not there"),
        ({"source": "hf://me/mine"}, None, "source: a hub repository is not pinned"),
        ({"source": "hf://me/mine@main"}, None, "found:    revision 'main'"),
        ({"data": "hf://datasets/me/mine"}, None, "a hub repository is not pinned"),
        ({"data": "nowhere.jsonl"}, None, "the data are not there"),
        ({"data": "/dev/null"}, None, "found:    no regular file"),
        ({}, lambda folder: (folder / "data.jsonl").write_text(""), "an empty file"),
        ({}, lambda folder: (folder / "source/config.json").unlink(), "not a checkpoint"),
        ({}, lambda folder: (folder / "donor/config.json").write_text("{"), "config.json"),
        ({}, other_architecture, "bert"),
        ({}, licensed, "license: cc-by-nc-4.0"),
        ({}, short, "found:    19 rows"),
        ({}, short, "20 rows, as quantization.calibration.sets.0.samples says"),
        ({}, few_chats, "quality.chats: the data have fewer rows than are asked for"),
        ({}, few_prompts, "21 rows, as ifeval.limit says"),
        ({}, short_context, "launches.0.max_model_len: the launch's context is beyond the model's"),
        ({}, short_context, "max_model_len 4095 at most"),
        ({}, headless, "donor: the donor has no whole MTP head"),
        ({}, linked, "a link leaves the checkpoint's folder"),
    ],
)
def test_a_place_that_is_not_there_or_can_not_be_used_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    values: dict[str, str],
    change: Callable[[Path], object] | None,
    said: str,
) -> None:
    (tmp_path / "my.yaml").write_text(own(tmp_path, **values))
    if change is not None:
        change(tmp_path)
    code, error = check(tmp_path / "my.yaml", monkeypatch, capsys)
    assert (code, said in error) == (1, True), error


def stretched(text: str) -> str:
    words = """arguments: ['--hf-overrides={"max_position_embeddings": 8192}']"""
    return text.replace("launch: production", f"launch: production, {words}")


def elsewhere(text: str) -> str:
    return text.replace("launch: production", "launch: production, server_url: 'http://host/v1'")


def all_texts(text: str) -> str:
    # Of texts a sample's number is the most that are taken, and shares the chats' here.
    chats = text.partition("chats: ")[2].partition(",")[0]
    return text.replace("texts: null", f"samples: 20, texts: {chats}.few")


@pytest.mark.parametrize("change", [stretched, elsewhere, all_texts])
def test_what_a_stage_takes_is_not_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
) -> None:
    (tmp_path / "my.yaml").write_text(change(own(tmp_path)))
    (tmp_path / "data.jsonl.few").write_text("{}\n")
    if change is not all_texts:
        short_context(tmp_path)
    assert check(tmp_path / "my.yaml", monkeypatch, capsys)[0] == 0


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("release: own\n", "release"),
        ("  title: Own\n", "card.title"),
        ("  repository: me/Own\n", "card.repository"),
        ("  summary: Mine.\n", "card.summary"),
        ("  parent: me/parent\n", "card.parent"),
        ("  base: me/base\n", "card.base"),
        ("  hardware_target: Any.\n", "card.hardware_target"),
        ("  harness_only_note: null\n", "card.harness_only_note"),
        ("donor: here\n", "donor"),
        ("quality: {chats: data, texts: null, base: null}\n", "quality.chats"),
        ("quantization: {calibration: {sets: [{dataset: data}]}}\n", "calibration.sets.0"),
        ("ifeval: {enabled: false}\n", "ifeval.dataset"),
    ],
)
def test_what_is_said_of_the_embedded_pair_is_no_default_of_another_release(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    key: str,
) -> None:
    text = OWN.format(source="here", donor="here", data="data")
    assert line in text
    (tmp_path / "my.yaml").write_text(text.replace(line, ""))
    code, error = check(tmp_path / "my.yaml", monkeypatch, capsys)
    assert code == 1
    assert f"{key}" in error
    assert "those of the embedded pair" in error


def test_data_of_the_embedded_pair_serve_where_scores_prove_only_the_harness(
    tmp_path: Path,
) -> None:
    text = OWN.format(source="here", donor="here", data="resources/pico/prompts.jsonl")
    (tmp_path / "my.yaml").write_text(text.replace("note: null", "note: Random weights."))
    assert read_config(tmp_path / "my.yaml").card.harness_only_note == "Random weights."


def test_an_alias_may_be_used(tmp_path: Path) -> None:
    text = "launches: [&a {name: pico, title: b, max_model_len: 9}]\ncard: {title: T}\n"
    (tmp_path / "my.yaml").write_text(text)
    assert read_config(tmp_path / "my.yaml").launches[0].max_model_len == 9
