"""The criteria of a verdict: what was measured, held against each threshold in turn.

A criterion whose evaluation the configuration leaves out is `not asked`. One whose record lacks is
undecided: what was not measured is never accepted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scion.evaluation.intervals import Estimate, positive_ratio
from scion.evaluation.verdict.answers import JudgedReply, Pairs
from scion.evaluation.verdict.config import Thresholds
from scion.evaluation.verdict.decision import Bound, Judged, Ruling, decide
from scion.evaluation.verdict.paired import Pair, paired_rates

# The held-out text that decides, the first that was scored; as everywhere in a release's pages.
_PARTS = ("chats", "texts", "assistant")


@dataclass(frozen=True)
class Evidence:
    """What was measured of a release and of its bf16 source.

    Attributes:
        quality: The content of `quality.json`.
        serving: That of `serving.json`.
        drafts: Drafts a step with which the release is served.
        quantized: The facts of quantize_nvfp4.
        verified: Those of verify_release.
        agent: Replies to the agent cases; None where they were not measured.
        ifeval: Those to IFEval.
        bfcl: Those to BFCL.
        left_out: By criterion why the configuration does not ask for it.
    """

    quality: Mapping[str, Any] | None
    serving: Mapping[str, Any] | None
    drafts: int
    quantized: Mapping[str, Any] | None
    verified: Mapping[str, Any] | None
    agent: Pairs | None
    ifeval: Pairs | None
    bfcl: Pairs | None
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def replies(self) -> Pairs:
        """All replies of which there are pairs."""
        return [pair for own in (self.agent, self.ifeval, self.bfcl) for pair in own or ()]


@dataclass(frozen=True)
class Criterion:
    """A criterion and what came of it.

    Attributes:
        criterion: The threshold's key.
        title: For people.
        unit: Of threshold and estimate.
        bound: On which side of the threshold the release has to be.
        threshold: As the configuration stated it.
        neutral: The estimate of a release that is its source.
        estimate: With its interval; None where nothing was measured.
        prompts: The units that the interval rests on.
        outcome: Of this criterion alone.
        reason: Why.
        more: How many more prompts would decide; None where that is no question.
        counts: What the estimate was made of, by name.
    """

    criterion: str
    title: str
    unit: str
    bound: Bound
    threshold: float
    neutral: float
    estimate: Estimate | None
    prompts: int
    outcome: Judged
    reason: str
    more: int | None
    counts: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """The form that `verdict.json` holds."""
        estimate = None if self.estimate is None else self.estimate.record()
        return {**asdict(self), "estimate": estimate}


@dataclass(frozen=True)
class _Measured:
    """An estimate, the units of its interval, and what it was made of."""

    estimate: Estimate
    prompts: int
    counts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class _Row:
    """A criterion before anything is measured: its `neutral` is the estimate of equal models."""

    criterion: str
    title: str
    unit: str
    measure: Callable[[Evidence], _Measured | None]
    bound: Bound = "at most"
    neutral: float = 0


def judged(evidence: Evidence, thresholds: Thresholds) -> list[Criterion]:
    """Hold the evidence against each threshold, in their order."""
    return [_judge(row, evidence, getattr(thresholds, row.criterion)) for row in _ROWS]


def overall(criteria: Sequence[Criterion]) -> tuple[Judged, list[str]]:
    """What follows from all criteria, and the reasons: those that stand against the release.

    One regression is one of the release; else what one leaves undecided, all do.
    """
    for outcome in ("regression", "undecided"):
        against = [each for each in criteria if each.outcome == outcome]
        if against:
            return outcome, [f"{each.title}: {each.reason}" for each in against]
    return "accept", []


def _judge(row: _Row, evidence: Evidence, threshold: float) -> Criterion:
    found = None
    if row.criterion in evidence.left_out:
        decision = Ruling("not asked", evidence.left_out[row.criterion])
    elif (found := row.measure(evidence)) is None:
        decision = Ruling("undecided", "not measured: there is no record of it")
    else:
        decision = decide(found.estimate, threshold, row.bound, prompts=found.prompts)
    return Criterion(
        criterion=row.criterion,
        title=row.title,
        unit=row.unit,
        bound=row.bound,
        threshold=threshold,
        neutral=row.neutral,
        estimate=found and found.estimate,
        prompts=found.prompts if found else 0,
        outcome=decision.outcome,
        reason=decision.reason,
        more=decision.more,
        counts=found.counts if found else {},
    )


def _held_out(name: str) -> Callable[[Evidence], _Measured | None]:
    """A number of the release over the held-out text, the document being the unit."""

    def measure(evidence: Evidence) -> _Measured | None:
        if evidence.quality is None:
            return None
        models = {model["name"]: model["parts"] for model in evidence.quality["models"]}
        parts = models.get("release") or {}
        part = next((part for part in _PARTS if parts.get(part)), None)
        if part is None:
            return None
        estimate = Estimate(**parts[part][name])
        data = evidence.quality["datasets"]["texts" if part == "texts" else "chats"]
        documents = data["documents"]
        counts = {"text": part, "tokens": parts[part]["tokens"], "documents": documents}
        return _Measured(_exact(estimate, documents), documents, counts)

    return measure


def _exact(estimate: Estimate, units: int) -> Estimate:
    """An estimate on which all of several units agree: then it has no interval, and needs none."""
    if estimate.low is not None or units < 2:
        return estimate
    return Estimate(estimate.value, estimate.value, estimate.value, estimate.count)


def _lost(name: str) -> Callable[[Evidence], _Measured | None]:
    """Right answers that the release lost, of one evaluation."""

    def measure(evidence: Evidence) -> _Measured | None:
        pairs: Pairs | None = getattr(evidence, name)
        return _rates(pairs, lambda reply: reply.passed, less_is_worse=True)

    return measure


def _rates(
    pairs: Pairs | None, has: Callable[[JudgedReply], bool], *, less_is_worse: bool = False
) -> _Measured | None:
    if not pairs:
        return None
    told = [Pair(own.prompt, has(own), has(other)) for own, other in pairs]
    estimate, counts = paired_rates(told, less_is_worse=less_is_worse)
    return _Measured(estimate, estimate.count, counts)


def _verbosity(evidence: Evidence) -> _Measured | None:
    counted = [
        (own, other)
        for own, other in evidence.replies
        if own.tokens is not None and other.tokens is not None
    ]
    prompts: dict[str, list[int]] = {}
    for own, other in counted:
        sums = prompts.setdefault(own.prompt, [0, 0])
        sums[0] += own.tokens or 0
        sums[1] += other.tokens or 0
    release, source = ([sums[side] for sums in prompts.values()] for side in range(2))
    if not any(source):
        return None
    counts: dict[str, Any] = {"release_tokens": sum(release), "source_tokens": sum(source)}
    thought = [
        (own.thinking_tokens, other.thinking_tokens)
        for own, other in counted
        if own.thinking_tokens is not None and other.thinking_tokens is not None
    ]
    counts["release_thinking_tokens"] = sum(own for own, _ in thought)
    counts["source_thinking_tokens"] = sum(other for _, other in thought)
    # The source's tokens are the denominators: pairs, so that long prompts cancel.
    estimate = _exact(positive_ratio(release, source), len(prompts))
    return _Measured(estimate, len(prompts), counts)


def _malformed(evidence: Evidence) -> _Measured | None:
    offered = [pair for pair in evidence.replies if pair[0].tools is not None]
    return _rates(offered, lambda reply: reply.is_malformed)


def _broken(evidence: Evidence) -> _Measured | None:
    found = _rates(evidence.replies, lambda reply: reply.is_broken)
    if found is None:
        return None
    kinds = {
        kind: {
            side: sum(getattr(pair[place], name) for pair in evidence.replies)
            for place, side in enumerate(("release", "source"))
        }
        for kind, name in (("loops", "loops"), ("other_script", "turns"), ("empty", "is_empty"))
    }
    return _Measured(found.estimate, found.prompts, {**found.counts, **kinds})


def _accepted(evidence: Evidence) -> _Measured | None:
    runs = [run for run in (evidence.serving or {}).get("runs", ()) if run["acceptance"]]
    if not runs:
        return None
    most = max(run["speculative_tokens"] for run in runs)
    served = [run for run in runs if run["speculative_tokens"] == (evidence.drafts or most)]
    run = served[0] if served else next(r for r in runs if r["speculative_tokens"] == most)
    drafted = run["speculative_tokens"]
    row = next(row for row in run["acceptance"] if row["set"] == "all")
    length = _exact(Estimate(**row["mean_length"]), row["prompts"])

    def of_drafts(end: float | None) -> float | None:
        # A step gives the accepted tokens, and one that the body adds itself.
        return None if end is None else (end - 1) / drafted

    share = (length.value - 1) / drafted
    estimate = Estimate(share, of_drafts(length.low), of_drafts(length.high), length.count)
    counts = {"speculative_tokens": drafted, "tokens_a_step": round(length.value, 6)}
    return _Measured(estimate, row["prompts"], counts)


def _calibrated(evidence: Evidence) -> _Measured | None:
    """Counted, not sampled, so the interval is the number itself."""
    facts = evidence.quantized
    if facts is None or not facts.get("calibration"):
        return None
    experts = facts.get("experts")
    if experts is None:
        # Without experts that tokens are sent to, every module gets all tokens there were.
        count = facts["quantized_modules"]
        reached = count if facts["calibration"]["tokens"] else 0
    else:
        count = experts["experts"]
        reached = count - sum(len(missed) for missed in experts["unreached"].values())
    share = reached / count
    counts = {"of": "experts" if experts else "modules", "all": count, "reached": reached}
    return _Measured(Estimate(share, share, share, count), count, counts)


def _weight_error(evidence: Evidence) -> _Measured | None:
    """Counted as well: the error of all weights, not of a sample of them."""
    facts = evidence.verified
    if facts is None:
        return None
    error, count = facts["relative_weight_error"], facts["quantized_modules"]
    return _Measured(Estimate(error, error, error, count), count, {"modules": count})


_ROWS = (
    _Row(
        "loss_nats_per_token",
        "rise of the loss on held-out text",
        "nats a token",
        _held_out("loss_change"),
    ),
    _Row("kl_nats_per_token", "KL divergence from bf16", "nats a token", _held_out("kl")),
    _Row("agent_loss_points", "agent cases lost", "points", _lost("agent")),
    _Row("ifeval_loss_points", "IFEval prompts lost", "points", _lost("ifeval")),
    _Row("bfcl_loss_points", "BFCL cases lost", "points", _lost("bfcl")),
    _Row("verbosity_ratio", "length of replies", "times the source's", _verbosity, neutral=1),
    _Row("tool_format_points", "malformed tool calls added", "points", _malformed),
    _Row("broken_text_points", "broken texts added", "points", _broken),
    _Row(
        "mtp_accepted_share",
        "MTP drafts accepted",
        "of the drafted tokens",
        _accepted,
        bound="at least",
        neutral=1,
    ),
    _Row(
        "calibrated_share",
        "calibration coverage",
        "of the calibrated modules or experts",
        _calibrated,
        bound="at least",
        neutral=1,
    ),
    _Row(
        "weight_error", "error of the quantized weights", "of the source's weights", _weight_error
    ),
)
