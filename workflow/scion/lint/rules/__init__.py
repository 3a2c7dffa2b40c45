"""The rules, a module a theme; `scion.lint.all_rules` has them all."""
