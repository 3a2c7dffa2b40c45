import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from checkpoints import edit_json
from commands import check_refusal
from conversion import Pico
from lint_checkpoints import llama, sound
from scion.checkpoint.source import EmptySource
from scion.cli.main import main
from scion.lint import command
from scion.lint.all_rules import RULES
from scion.lint.command import checkpoints

HEAVY = {
    *("datasets", "huggingface_hub", "httpx", "modelopt", "numpy", "openai", "pydantic"),
    *("requests", "safetensors", "torch", "tqdm", "transformers", "urllib3", "yaml"),
}


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def scion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command `scion` in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["scion", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sys.exit(main())
        status = ended.value.code
        assert isinstance(status, int)
        told = capsys.readouterr()
        return Ran(status, told.out, told.err)

    return run


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return sound(tmp_path / "clean", config=llama())


@pytest.fixture
def broken(tmp_path: Path, pico: Pico) -> Path:
    """A copy of the embedded agent, whose names carry a prefix three times."""
    return shutil.copytree(pico.agent, tmp_path / "broken")


def test_the_exit_code_says_whether_there_is_an_error(scion, clean: Path, broken: Path) -> None:
    assert scion("lint", clean).status == 0
    ran = scion("lint", broken)
    assert ran.status == 1
    assert re.search(r"^error N201 repeated-prefix: ", ran.out, re.MULTILINE)
    assert scion("lint", clean, broken).status == 1
    assert scion("lint", broken, "--select", "Q").status == 0


def no_checkpoint(_clean: Path) -> str:
    return "absent"


def cut_short(clean: Path) -> None:
    os.truncate(max(clean.glob("*.safetensors")), 100)


def no_object(clean: Path) -> None:
    (clean / "config.json").write_text("[1]")


def denied_index(clean: Path) -> None:
    (clean / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')


def more_layer_types(clean: Path) -> None:
    edit_json(clean / "config.json", lambda config: {**config, "layer_types": ["x"] * 3})


def no_size(clean: Path) -> None:
    edit_json(clean / "config.json", lambda config: {**config, "hidden_size": None})


UNUSABLE = {
    no_checkpoint: "F127",
    cut_short: "F126",
    no_object: "F126",
    denied_index: "F126",
    more_layer_types: "C801",
    no_size: "C801",
}


@pytest.mark.parametrize("form", ["json", "sarif", "github", "text"])
@pytest.mark.parametrize(("break_it", "code"), UNUSABLE.items())
def test_what_cant_be_used_is_a_finding_beside_the_reports_of_all_others(
    scion, clean: Path, broken: Path, tmp_path: Path, break_it, code: str, form: str
) -> None:
    bad = shutil.copytree(clean, tmp_path / "bad")
    bad = break_it(bad) or bad
    output = tmp_path / "report"
    # Whatever is selected: silence must not pass for a clean bill.
    chosen = ("--select", "N201,F105", "--ignore", "F,C", "--select", "N202")
    for arguments in ((bad, broken, clean), (broken, clean, bad)):
        ran = scion("lint", *arguments, "--format", form, "--output", output, *chosen)
        assert (ran.status, ran.err) == (1, "")
        report = output.read_text()
        assert code in report
        assert "N201" in report
        assert "clean: " in ran.out
        if form == "json":
            assert len(json.loads(report)["checkpoints"]) == 3
    # The sound one, as ever, has no error.
    assert scion("lint", clean, "--format", form, "--output", output).status == 0


def test_it_exits_with_2_where_nothing_could_be_judged(scion, tmp_path: Path, clean: Path) -> None:
    (tmp_path / "empty").mkdir()
    for form in ("json", "sarif", "github", "text"):
        ran = scion("lint", tmp_path / "empty", "hf://x", "--format", form)
        assert (ran.status, ran.err) == (2, "")
        assert ran.out.count("F127") >= 2
    findings = [
        finding
        for checkpoint in json.loads(
            scion("lint", tmp_path / "empty", clean, "--revision", "main", "--format", "json").out
        )["checkpoints"]
        for finding in checkpoint["findings"]
    ]
    assert [finding["code"] for finding in findings] == ["F127", "F127"]
    assert "revision" in findings[1]["repair"]


@pytest.mark.parametrize(
    ("stored", "listed", "repair"),
    [
        (2, 3, "leave the entries of the 2 layers in it"),
        (2, 1, "give each of the 2 layers an entry"),
        (3, 3, "set num_hidden_layers to 3: so many layers are stored"),
    ],
)
def test_layer_types_of_another_length_are_mended_by_what_is_stored(
    scion, tmp_path: Path, stored: int, listed: int, repair: str
) -> None:
    folder = sound(tmp_path / "model", config=llama(num_hidden_layers=stored))
    kinds = {"num_hidden_layers": 2, "layer_types": ["full_attention"] * listed}
    edit_json(folder / "config.json", lambda config: {**config, **kinds})
    ran = scion("lint", folder, "--select", "C", "--format", "json")
    (finding,) = json.loads(ran.out)["checkpoints"][0]["findings"]
    assert (ran.status, finding["code"], finding["subject"]) == (1, "C801", "layer_types")
    assert finding["repair"] == repair


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--format", "xml", "x"),
        ("--tensor-parallel", "0", "x"),
        ("--tensor-parallel", "two", "x"),
        ("--format", "markdown", "x"),
        ("--list", "x"),
        ("--list", "--format", "sarif"),
        ("--explain", "N201", "--format", "json"),
        ("--explain", "N201", "--list"),
    ],
)
def test_options_that_make_no_sense_are_refused(scion, arguments: tuple[str, ...]) -> None:
    ran = scion("lint", *arguments)
    assert ran.status == 2
    assert "scion lint: error: " in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", "llama.cpp"),
        ("--engine", "vllm==9"),
        ("--select", "X"),
        ("--ignore", "no-such-rule"),
        ("--select", "N201", "--ignore", "N"),
    ],
)
def test_words_that_name_nothing_are_refused(scion, clean: Path, arguments) -> None:
    ran = scion("lint", clean, *arguments)
    assert (ran.status, ran.out) == (2, "")
    check_refusal(ran.err)


def test_options_add_up_and_take_lists(scion, clean: Path) -> None:
    ran = scion(
        *("lint", clean, "--format", "json"),
        *("--engine", "vllm>=0.19,<0.21, sglang", "--engine", "vllm==0.19.1"),
        *("--tensor-parallel", "2,4", "--tensor-parallel", "2"),
        *("--select", "F,N", "--select", "repeated-prefix", "--ignore", "F"),
    )
    (checkpoint,) = json.loads(ran.out)["checkpoints"]
    assert checkpoint["engines"] == ["vllm 0.19.1", "vllm 0.20.0", "sglang 0.5.23"]
    assert checkpoint["tensor_parallel"] == [2, 4]
    told_always = {rule.code for rule in RULES if rule.always}
    assert {code[0] for code in set(checkpoint["rules"]) - told_always} == {"N"}


def test_a_file_means_its_folder_and_each_folder_counts_once(scion, clean: Path) -> None:
    shards = sorted(clean.glob("*.safetensors"))
    assert list(checkpoints([*map(str, shards), f"{clean}/", "hf://a/b", "hf://a/b"])) == [
        str(clean),
        "hf://a/b",
    ]
    assert scion("lint", *shards, clean / "config.json").out.count("judged for") == 1


def test_deep_reads_no_repository(scion, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = EmptySource("hf://owner/name@0123")
    monkeypatch.setattr(command, "open_source", lambda *_args, **_options: hub)
    ran = scion("lint", "--deep", "hf://owner/name")
    assert ran.status == 2
    assert "hf://owner/name@0123" in ran.out
    assert "hf download" in ran.out


def test_deep_is_said_to_be_missing(scion, clean: Path) -> None:
    assert "with --deep" in scion("lint", clean).out
    assert "with --deep" not in scion("lint", clean, "--deep").out


@pytest.mark.parametrize("form", ["text", "json", "sarif", "github"])
def test_a_report_is_written_whole_or_not_at_all(
    scion, broken: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "reports/lint"
    ran = scion("lint", broken, "--format", form, "--output", output)
    assert ran.status == 1
    *unchecked, last = ran.out.splitlines()
    assert all(line.startswith("not checked: ") for line in unchecked)
    assert re.match(r"\d+ errors?.*: [\d,]+ tensors in 3 files of ", last)
    report = output.read_text()
    assert "N201" in report
    monkeypatch.setattr(command, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert scion("lint", broken, "--format", form, "--output", output).status == 130
    assert output.read_text() == report
    assert [path.name for path in output.parent.iterdir()] == ["lint"]


def test_an_output_that_cant_be_written_is_told(scion, clean: Path, tmp_path: Path) -> None:
    ran = scion("lint", clean, "--output", tmp_path)
    assert ran.status == 2
    check_refusal(ran.err, str(tmp_path))


def test_a_report_replaces_no_pipe_and_no_file_of_the_checkpoint(
    scion, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link").symlink_to(clean / "config.json")
    for output in ("pipe", "", "link", clean / "config.json"):
        before = (clean / "config.json").read_bytes()
        ran = scion("lint", clean, "--format", "json", "--output", output)
        assert ran.status == 2
        check_refusal(ran.err, "name another --output")
        assert (clean / "config.json").read_bytes() == before
    assert Path("pipe").is_fifo()


def test_a_report_is_written_through_a_link(scion, clean: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("older")
    (tmp_path / "link").symlink_to("there")
    assert scion("lint", clean, "--format", "json", "--output", tmp_path / "link").status == 0
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "there").read_text())["checkpoints"]


def test_colours_are_for_terminals_that_want_them(
    scion, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in scion("lint", broken).out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in scion("lint", broken).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in scion("lint", broken).out


def test_rules_are_explained_by_code_name_and_theme(scion) -> None:
    by_code = scion("lint", "--explain", "N201")
    assert by_code.status == 0
    assert by_code.out.startswith("N201 repeated-prefix (error)\n")
    assert scion("lint", "--explain", "repeated-prefix").out == by_code.out
    assert by_code.out in scion("lint", "--explain", "M", "N").out
    assert scion("lint", "--explain", "N201,no-such-rule").status == 2


def test_every_rule_is_listed(scion) -> None:
    assert [line.split()[0] for line in scion("lint", "--list").out.splitlines()] == [
        rule.code for rule in RULES
    ]


def test_the_help_names_rules_that_there_are(scion) -> None:
    told = scion("lint", "--help").out
    named = re.findall(r"--(?:ignore|explain) ((?!RULE)[A-Z]\S*)", told)
    words = [word for listed in named for word in listed.split(",")]
    assert words
    for word in words:
        assert any(rule.name == word or rule.code.startswith(word) for rule in RULES), word


def test_a_local_folder_is_judged_without_heavy_imports(clean: Path) -> None:
    script = (
        "import sys; from scion.cli.main import main; status = main(); "
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "lint", str(clean)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert HEAVY.isdisjoint(ran.stderr.split())
