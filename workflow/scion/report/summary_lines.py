"""What `scion summary` says of each record, and the stage's line in a run."""

from scion.common.text import Record, change, drafts, hardware, number, ratio, share, small
from scion.report.card.scores import answered, in_points, leading_part
from scion.report.card.serving import fastest_run, longest_decode, overall_acceptance


def agent_task_lines(tasks: Record) -> list[str]:
    """How many agent tasks passed, and on what: the content of `agent_tasks.json`."""
    engine = f"{tasks['engine']['name']} {tasks['engine']['version']}"
    return [
        f"agent tasks: {tasks['passed']} of {tasks['total']} cases = {share(tasks['rate'])}, on "
        f"{engine} ({hardware(tasks['hardware'])})"
    ]


def serving_lines(serving: Record) -> list[str]:
    """MTP acceptance and decode speed: the content of `serving.json`."""
    runs = serving["runs"]
    acceptance = [f"{_name(run)}{_acceptance(run)}" for run in runs if run["acceptance"]]
    # A release without a head has its speed alone.
    drafting = [run for run in runs if run["speculative_tokens"]] or runs
    return acceptance + [f"{_name(run)}{line}" for run in drafting for line in _speed(run)]


def _name(run: Record) -> str:
    return f"{drafts(run['speculative_tokens'])}:".ljust(13)


def _acceptance(run: Record) -> str:
    counts = overall_acceptance(run)
    assert counts is not None
    positions = ", ".join(share(rate) for rate in counts["per_position"])
    same = run["same_text_as_baseline"]
    text = f"; text as without MTP {same['identical']}/{same['total']}" if same else ""
    return (
        f"accepted by position {positions}; {number(counts['mean_length'], 2)} of "
        f"{run['speculative_tokens'] + 1} tokens a step{text}"
    )


def _speed(run: Record) -> list[str]:
    """The longest single decode, beside no MTP."""
    longest = longest_decode(run)
    if longest["parallel"] != 1:
        return []
    beside = longest["ratio_to_baseline"]
    return [
        f"{number(longest['tokens_per_second'])} tokens a second over {longest['tokens']}"
        + (f", {ratio(beside)} no MTP" if beside else "")
    ]


def quality_lines(quality: Record) -> list[str]:
    """Divergence from bf16 and perplexity: the content of `quality.json`."""
    text, own = leading_part(quality, "release")
    _, before = leading_part(quality, quality["reference"])
    return [
        f"quality:     KL {small(own['kl'])} to bf16, same token {share(own['top1_agreement'])}, "
        f"loss {change(own['loss_change'])}, over {own['tokens']:,} held-out tokens of {text}",
        f"perplexity:  {number(own['perplexity'], 4)}, bf16 {number(before['perplexity'], 4)}",
    ]


def ifeval_lines(ifeval: Record) -> list[str]:
    """IFEval's scores: the content of `ifeval.json`."""
    shown = [f"{name.replace('_', ' ')} {share(rate)}" for name, rate in ifeval["scores"].items()]
    return [f"IFEval:      {'; '.join(shown)}"]


def bfcl_lines(bfcl: Record) -> list[str]:
    """How many function calls were right: the content of `bfcl.json`."""
    shown = [
        f"{category['name']} {category['passed']}/{category['cases']}"
        for category in bfcl["categories"]
    ]
    return [f"BFCL:        {'; '.join(shown)}"]


def images_lines(images: Record) -> list[str]:
    """How many questions about pictures were answered rightly, beside bf16: `images.json`."""
    release, fixed = (answered(images, name)["sets"][-1] for name in ("release", "fixed"))
    differs = change(in_points(images["differences"][-1]["difference"]), 1)
    return [
        f"images:      {release['passed']} of {release['questions']} questions = "
        f"{share(release['rate'])}, bf16 {fixed['passed']}; {differs} points"
    ]


# In a few words


def agent_task_brief(tasks: Record) -> str:
    """How many cases passed."""
    return f"{tasks['passed']} of {tasks['total']} cases passed"


def serving_brief(serving: Record) -> str:
    """Tokens a step and speed with the drafts that are recommended."""
    run = fastest_run(serving["runs"])
    longest = longest_decode(run)
    parts = [f"{longest['tokens_per_second']['value']:.1f} tokens a second"]
    if longest["ratio_to_baseline"]:
        parts.append(f"{longest['ratio_to_baseline']['value']:.2f}× no MTP")
    if run["acceptance"]:
        counts = next(row for row in run["acceptance"] if row["set"] == "all")
        steps = f"{counts['mean_length']['value']:.2f} of {run['speculative_tokens'] + 1}"
        parts.append(f"{steps} tokens a step")
    return f"{drafts(run['speculative_tokens'])}: {', '.join(parts)}"


def quality_brief(quality: Record) -> str:
    """How far the release is from bf16."""
    text, scores = leading_part(quality, "release")
    same = 100 * scores["top1_agreement"]["value"]
    return f"KL {scores['kl']['value']:.5f} to bf16, same token {same:.1f} % ({text})"


def ifeval_brief(ifeval: Record) -> str:
    """The first of its scores."""
    name, rate = next(iter(ifeval["scores"].items()))
    return f"{name.replace('_', ' ')} {100 * rate['value']:.1f} %"


def images_brief(images: Record) -> str:
    """How many questions about pictures were answered rightly, by the release and by bf16."""
    release, fixed = (answered(images, name)["sets"][-1] for name in ("release", "fixed"))
    return f"{release['passed']} of {release['questions']} right, bf16 {fixed['passed']}"


def bfcl_brief(bfcl: Record) -> str:
    """How many function calls were right."""
    passed, cases = (sum(each[key] for each in bfcl["categories"]) for key in ("passed", "cases"))
    return f"{passed} of {cases} calls right"
