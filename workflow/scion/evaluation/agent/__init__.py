"""The agent capability test: tool calls, reasoning and answers that a program can judge.

Begin with `tasks.read_tasks`, which reads `agent_tasks.yaml` and makes the requests, and with
`judge.judge`, the verdict on one answer. `asking.ask_all` asks a server for every case;
`results.count` makes rates of the verdicts, with Wilson's interval
(`scion.evaluation.intervals.proportion`).

It imports the server's address from `scion.engines`, and of evaluation only intervals.

To extend it: a task or a case is data, a few lines more in `agent_tasks.yaml`; a new demand on an
answer is a field of `tasks.Case` and a function of `judge` that returns what the answer lacks.
"""
