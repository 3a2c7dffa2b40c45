"""The stages: one module a rule, each one plain function and a `main` of argument parsing."""
