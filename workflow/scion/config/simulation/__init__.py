"""What a run will take of a cluster, played through before anything runs.

`run_plan` is what the workflow plans, job by job, `costs` what each job moves and how long it
computes, `events` plays that through on a cluster, and `comparison` asks what another cluster would
change.
"""
