"""Speed and acceptance of drafts on a running vLLM server, for the stage measure_serving.

Begin with `session.measure`: what one server is asked, reply by reply and wave by wave. Then

- `acceptance.acceptance_rows`: counts of drafts around each reply to the rows that results record;
  each interval is `scion.evaluation.intervals.ratio_of_sums`, the prompt being its unit;
  `acceptance.paired_acceptance`: two servers that were asked the same.
- `speed.waves` and `speed.speed_records`: which decodes are timed, and medians and ratios of them.
- `depth.predict_depths`: how fast other numbers of drafts would be.
- `prompts.read_prompt_sets`: the prompts, by set, with thinking and without.

It imports servers from `scion.engines`, and of evaluation only chats, decoding and intervals.

To extend it: a kind of prompts is a name more in `prompts.SETS`; a figure from the server's
counters is a key more in the rows of `acceptance`; anything else that is asked of a server belongs
into `session.measure` and its `ServerRun`.
"""
