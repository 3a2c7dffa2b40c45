"""Public benchmarks, IFEval and BFCL: each by its own harness, which asks the server of a stage.

A harness has an environment of its own, envs/evaluate. Begin with `child.run_driver`, which the
stages evaluate_ifeval and evaluate_bfcl call: it runs a driver, `ifeval_driver` or `bfcl_driver`,
as a child process there. `driver` says what a driver is given, what it answers, and how it reports.

Drivers import the standard library, `scion.common.errors` and `driver`, and their harness inside of
functions; the other modules, which run in the stage, import `scion.engines` and `scion.common`.

To extend it by a benchmark: a module `<name>_driver` whose `evaluate` takes the request and returns
the result, `answer_request(evaluate)` at its end; its section in `config`; its package in the lock
of envs/evaluate; and a stage that makes the request and records the scores with intervals.
"""
