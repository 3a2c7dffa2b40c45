# What `nix flake check` builds. The whole workflow with its servers is in tests/e2e, outside Nix.
{
  environments,
  lib,
  pkgs,
  self,
}:
let
  # A checkout to write in, with what `make setup` makes of it elsewhere.
  inCopy =
    name: script:
    pkgs.runCommand "scion-${name}"
      {
        nativeBuildInputs = [
          environments.test
          pkgs.git
          pkgs.stdenv.cc
        ];
        SCION_ENVIRONMENTS = "${environments.folderForTests}";
        SCION_TOOLS = "${environments.tools}";
      }
      ''
        cp --recursive --no-preserve=mode ${self} project
        cd project
        # stdenv points at certificates that are not there, which no client of HTTP starts with.
        unset SSL_CERT_FILE NIX_SSL_CERT_FILE
        export HOME=$TMPDIR PYTHONPATH=$PWD/workflow
        git init --quiet
        git add --all
        python tools/lock.py expand
        ${script}
        touch $out
      '';
  imports =
    name: environment: modules:
    pkgs.runCommand "scion-imports-${name}" { } ''
      export HOME=$TMPDIR
      ${environment}/bin/python -c 'import ${lib.concatStringsSep ", " modules}'
      touch $out
    '';
in
{
  imports = imports "root" environments.root [
    "datasets"
    "matplotlib"
    "modelopt.torch.quantization"
    "numba"
    "snakemake"
    "torch"
    "transformers"
  ];
  imports-serve-cpu = imports "serve-cpu" environments.others.serve-cpu [
    "scion_vllm_plugin"
    "torch"
    "vllm"
  ];
  imports-serve-cuda = imports "serve-cuda" environments.others.serve-cuda [
    "torch"
    "vllm"
  ];
  imports-evaluate = imports "evaluate" environments.others.evaluate [
    "bfcl_eval"
    "lm_eval"
  ];

  formatting = inCopy "formatting" ''
    ruff format --check .
    ruff check .
    snakefmt --check Snakefile rules
    typos
  '';

  snakemake-lint = inCopy "snakemake-lint" "python tools/lint_rules.py";

  dry-runs = inCopy "dry-runs" ''
    snakemake --dry-run --cores all
    for config in config/releases/*.yaml; do
      snakemake --dry-run --cores all --configfile "$config"
    done
  '';

  # The browser that some look through comes with npm.
  unit-tests = inCopy "unit-tests" ''
    pytest tests/unit -n $NIX_BUILD_CORES --dist loadfile -k "not browser"
  '';
}
