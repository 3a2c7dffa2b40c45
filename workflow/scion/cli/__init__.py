"""The command `scion`: one module a subcommand."""
