"""Where vLLM's CPU build is: what a card and `scion launch --cpu` say of it."""

CPU_ENVIRONMENT = (
    "the environment `envs/serve-cpu` of Scion (`nix develop .#serve-cpu`, or its `.venv/bin` on "
    "the PATH)"
)
