"""`scion lint`: what is wrong with a checkpoint, seen in its configs, index and headers.

    source = open_source("path/or/hf://owner/name@revision")   # a folder, or the hub by ranges
    subject = Subject.open(source, engines=DEFAULT_ENGINES)    # what the rules look at
    results = run(subject, select_rules(RULES))                # rules: data and one function each

Begin with:

- `scion.lint.rule`: what a rule and a finding are.
- `scion.lint.rules`: the rules, a module a theme; `scion.lint.all_rules` has them all.
- `scion.lint.subject.Subject`: a checkpoint as the rules see it, each file read once.
- `scion.lint.gate`: lint as a gate of the workflow.

Whether a release of an engine quantizes a module is decided by
`scion.engines.registry.decisions.decisions`, which the subject asks for each engine;
`scion.lint.mismatches` holds that against what is stored. Reading a checkpoint needs no torch and
no tensor data, but for `--deep`.

May import: common, architectures, formats, checkpoint, artifacts, engines.

To extend: a rule is a function with `@rule` in a module of `rules/`, and a case in
tests/lint_cases.
"""
