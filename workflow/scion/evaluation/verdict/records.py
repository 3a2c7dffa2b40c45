"""The records of the verdict, and of what the bf16 source is asked for it."""

from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("judge_release", "verdict.json")
AGENT_SOURCE = RecordFile("run_agent_tasks_source", "agent_tasks_source.json")
IFEVAL_SOURCE = RecordFile("evaluate_ifeval_source", "ifeval_source.json")
BFCL_SOURCE = RecordFile("evaluate_bfcl_source", "bfcl_source.json")
