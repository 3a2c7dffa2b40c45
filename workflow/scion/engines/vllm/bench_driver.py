"""Runs `vllm bench serve` again and again in one process, for importing vLLM takes seconds.

Run by the serving environment's interpreter; nothing of Scion is there. A line of standard input is
`{"options": [as vllm bench serve takes them], "prompts": [[token ids], …], "tokens": n}`: requests,
each to be answered with n tokens. It is answered by one line of standard output: the benchmark's
own detailed result, or `{"error": text}`. All else that vLLM prints goes to standard error. The end
of the input ends it.

Requests are handed over as token ids, where the benchmark would read a data set. Its custom data
set takes texts alone, and needs pandas, which vLLM installs only as an extra. Everything that
sends, times and counts is vLLM's own, the same in 0.25 to 0.32.
"""

import functools
import importlib
import json
import os
import sys
import traceback
from typing import Any

_KEPT = ("completed", "failed", "start_times", "ttfts", "itls", "output_lens", "errors")


def main() -> None:
    """Answer every line of standard input."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        # vLLM's loggers and its report write to standard output.
        os.dup2(2, 1)
        bench: Any = importlib.import_module("vllm.benchmarks.serve")
        # It would read the tokenizer's files again for each run.
        bench.get_tokenizer = functools.cache(bench.get_tokenizer)
        parser = bench.FlexibleArgumentParser()
        bench.add_cli_args(parser)
        for line in sys.stdin:
            wave = json.loads(line)
            requests = [
                bench.SampleRequest(
                    prompt=prompt, prompt_len=len(prompt), expected_output_len=wave["tokens"]
                )
                for prompt in wave["prompts"]
            ]
            bench.get_samples = lambda *_, requests=requests: requests
            try:
                result = bench.main(parser.parse_args(wave["options"]))
                answer = {key: result[key] for key in _KEPT}
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
