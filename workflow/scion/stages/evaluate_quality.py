"""Compares source, repaired source, release and base model on the same held-out tokens.

Each is served by the real engine, one after the other, without speculation and otherwise with the
launch that people run, its KV cache type included: what differs is the weights. The context is as
long as the documents need, so that bf16 models fit. The release's server renders and tokenizes the
documents once, and every model is asked for the log-probabilities of the same token numbers
(`prompt_logprobs` of /v1/completions).

- *release*: the quantized checkpoint. *fixed*: the same in bf16, after its keys were repaired; the
  reference of all differences. *base*: the base model, if one is named.
- *source*: the checkpoint as it was fetched. If its tensors are those of *fixed*, it is not served
  a second time. If not, it is served as it is, and if the engine refuses it, what it says is the
  result: that is what people met who tried.

Parts: `texts`, plain texts; `chats`, all tokens of the chats; `assistant`, those that the assistant
wrote: from after the mark that its turn begins with to the token that ends it.

`quality.json` in the artifact, losses and divergences in nats a token:

    {"engine": {"name", "version", "environment"}, "hardware": {"kind", "name", "count"},
     "reference": "fixed", "top_logprobs": K,
     "datasets": {"chats": {"file", "sha256", "documents", "tokens", "cut"}, "texts": {…} | null},
     "models": [{"name": "source"|"fixed"|"release"|"base", "loads": bool,
                 "engine_says": text | null, "same_as": name | null,
                 "parts": {"assistant"|"chats"|"texts": P | null} | null}]}

with P = {"tokens", "loss": E, "perplexity": E, "loss_change": E, "kl": E, "top1_agreement": E,
"kl_covered"} and E as `scion.evaluation.intervals.Estimate` is written, the document being the unit
of its interval. `loss_change` is the model's loss less the reference's. `kl` is KL(fixed || model),
as a lower bound over the tokens that are among the K most likely of both
(`scion.evaluation.quality.top_k_scores`); `kl_covered` is the probability that the reference gives
to those.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.progress import progress
from scion.engines.config import Launch, Serving
from scion.engines.served_model import ServedModel
from scion.evaluation.chats import Chat, read_chats
from scion.evaluation.quality.config import RECORD, Quality
from scion.evaluation.quality.documents import (
    Document,
    Text,
    answer_marks,
    dataset_record,
    read_texts,
    request_predictions,
    scoring_work,
    tokenize_documents,
    vocabulary_size,
)
from scion.evaluation.quality.record import REFERENCE, model_record, score_line
from scion.evaluation.quality.served import ScoringServer, refusal_of
from scion.evaluation.quality.top_k_scores import Predictions
from scion.stages.served import (
    ServedSettings,
    recorded,
    require_own_servers,
    run_served_stage,
    server_record,
)

STAGE, RESULT = RECORD.stage, RECORD.name
# Keys of the launch that say nothing here, or are replaced.
_REPLACED = {"name", "title", "max_model_len", "speculative_tokens"}


class QualitySettings(ServedSettings):
    """The sections of the configuration that this stage reads."""

    quality: Quality


def evaluate_quality(
    *,
    source: Artifact,
    fixed: Artifact,
    release: Artifact,
    base: Artifact | None,
    chats: Path,
    texts: Path | None,
    output: Output,
    serving: Serving,
    launch: Launch,
    quality: Quality,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Score the same held-out tokens with each model.

    Args:
        source: The checkpoint as it was fetched.
        fixed: The same in bf16, with sound keys: the language model, or the whole source where the
            release keeps its vision tower.
        release: The quantized one.
        base: The whole base model, if it is to be compared.
        chats: JSONL of chats; see `scion.evaluation.chats`.
        texts: JSONL of plain texts, if there are to be any.
        output: Where the artifact goes.
        serving: The servers.
        launch: How people serve the release.
        quality: How many documents, how long they may be, and how many tokens are compared.
        python: Interpreter of the serving environment.
        log_folder: Where `evaluate_quality.<model>.server.log` go.
        environment: Identity of the locked environment.

    Raises:
        ScionError: A data set is unreadable, empty or too small; documents do not fit the launch;
            a server other than the source's can't be started; one dies, a request fails or is
            answered in part; the models do not share tokens.
    """
    contents = [
        *read_chats(chats, limit=quality.samples),
        *(read_texts(texts, limit=quality.samples) if texts else []),
    ]
    models = {"release": release, "fixed": fixed, "source": source}
    models |= {"base": base} if base else {}

    def build(draft: Draft) -> None:
        _check_settings(serving, launch, quality, models)
        length = {"speculative_tokens": 0, "max_model_len": quality.max_tokens + 1}
        served = len(models) - same_tensors(source, fixed)
        with progress("scoring", scoring_work(served, len(contents))) as told:
            engine = ScoringServer(
                STAGE,
                serving,
                launch.model_copy(update=length),
                quality.top_logprobs,
                python,
                log_folder,
                ServedModel.read(release.folder).lost_tower,
                told,
            )
            about, documents, predictions, refusal = _measure(engine, models, contents, quality)
        entries = [
            model_record(name, documents, predictions, refusal)
            for name in ("source", "fixed", "release", "base")
            if name in models
        ]
        result = {
            **about,
            "reference": REFERENCE,
            "top_logprobs": engine.top,
            "datasets": {
                "chats": dataset_record(chats, documents, kind="chats"),
                "texts": dataset_record(texts, documents, kind="texts") if texts else None,
            },
            "models": entries,
        }
        write_json(draft.folder / RESULT, result)
        for entry in entries:
            print(f"{STAGE}: {score_line(entry)}", file=sys.stderr, flush=True)

    return remake(
        output,
        stage=STAGE,
        inputs={**models, "chats": chats, **({"texts": texts} if texts else {})},
        settings={
            "serving": recorded(serving),
            "launch": launch.model_dump(mode="json", exclude=_REPLACED),
            "quality": quality.model_dump(mode="json", exclude={"chats", "texts", "base"}),
        },
        environment=environment,
        build=build,
    )


def _measure(
    engine: ScoringServer,
    models: Mapping[str, Artifact],
    contents: Sequence[Chat | Text],
    quality: Quality,
) -> tuple[dict[str, Any], list[Document], dict[str, list[Predictions]], str | None]:
    """Serve the models in turn.

    Returns:
        Engine and hardware; the documents; by model its predictions, none for a source that was
        not scored; and what the engine said if it refused that one.
    """
    marks = answer_marks(models["release"].folder)
    with engine.serve("release", models["release"]) as server:
        about = server_record(server, engine.serving, engine.launch, engine.python)
        documents = tokenize_documents(server, contents, marks=marks, limit=quality.max_tokens)
        asked = request_predictions(server, documents, top=engine.top, told=engine.told)
        predictions = {"release": asked}
    for name in ("fixed", "base"):
        if name in models:
            predictions[name] = engine.score(name, models[name], documents)
    refusal = None
    if not same_tensors(models["source"], models["fixed"]):
        try:
            predictions["source"] = engine.score("source", models["source"], documents)
        except ScionError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
    return about, documents, predictions, refusal


def _check_settings(
    serving: Serving, launch: Launch, quality: Quality, models: Mapping[str, Artifact]
) -> None:
    require_own_servers(serving)
    if quality.max_tokens >= launch.max_model_len:
        raise ScionError(
            "the held-out documents do not fit the launch's context",
            where="quality.max_tokens",
            expected=f"less than max_model_len of launch {launch.name}, {launch.max_model_len}",
            found=quality.max_tokens,
            hint="lower quality.max_tokens, or name a launch with more context in serving.launch",
        )
    smallest = min(vocabulary_size(model) for model in models.values())
    if quality.top_logprobs > smallest:
        raise ScionError(
            "more likely tokens are asked for than there are tokens",
            where="quality.top_logprobs",
            expected=f"{smallest} at most, the vocabulary",
            found=quality.top_logprobs,
            hint="lower quality.top_logprobs",
        )


def same_tensors(source: Artifact, fixed: Artifact) -> bool:
    """Whether the source has every tensor of `fixed` under the same name."""
    there = source.tensors()
    return all(
        name in there and there[name]["sha256"] == row["sha256"]
        for name, row in fixed.tensors().items()
    )


def main() -> int:
    """Parse the command line and run the stage."""
    return run_served_stage(
        evaluate_quality,
        __doc__,
        settings=QualitySettings,
        manifests={
            "source": "pointer of fetch_source",
            "fixed": "pointer of the same checkpoint in bf16, with sound keys",
            "release": "pointer of the quantized checkpoint",
        },
        optional_manifests={"base": "pointer of fetch_base"},
        files={"chats": "JSONL of held-out chats"},
        optional_files={"texts": "JSONL of held-out plain texts"},
    )


if __name__ == "__main__":
    sys.exit(main())
