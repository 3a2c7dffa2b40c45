# All that flake.nix puts out for one system.
{
  inputs,
  lib,
  pkgs,
}:
let
  environments = import ./environments.nix { inherit inputs lib pkgs; };

  # What a run is made from, and nothing else: a change of a test makes no new pipeline.
  code = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions (
      [
        ../../Snakefile
        ../../rules
        ../../workflow
        ../../resources
        ../../config
        ../../profiles
        ../../pyproject.toml
      ]
      ++ environments.locks
    );
  };

  # Sourced by whatever may start a server or ask for a GPU.
  driver = pkgs.writeText "scion-driver.sh" (builtins.readFile ./driver.sh);

  inherit (pkgs.callPackages inputs.pyproject-nix.build.util { }) mkApplication;
  application =
    venv:
    mkApplication {
      inherit venv;
      package = environments.set.scion;
    };
  command = application environments.withScion;
  pipeline = pkgs.writeShellScriptBin "scion-pipeline" ''
    export SCION_CODE=${code}
    export SCION_COMMIT=${inputs.self.rev or inputs.self.dirtyRev or ""}
    export SCION_ENVIRONMENTS=${environments.folder}
    export PATH=${
      lib.makeBinPath [
        environments.root
        pkgs.bash
        pkgs.coreutils
        pkgs.stdenv.cc
      ]
    }:$PATH
    source ${driver}
    ${builtins.readFile ./pipeline.sh}
  '';

  # A command line as an app, which takes more arguments.
  app = name: line: description: {
    type = "app";
    program = "${pkgs.writeShellScriptBin "scion-${name}" "exec ${line} \"$@\""}/bin/scion-${name}";
    meta = { inherit description; };
  };
  make = "${pipeline}/bin/scion-pipeline";
  # Who lints or checks need not build what the workflow runs in.
  scion = "${application environments.light}/bin/scion";
  audit = app "audit" "${scion} check" "Follow a release's proof, digest by digest";
in
{
  inherit command pipeline;
  environments = environments.folder;

  apps = {
    default = app "make" make "Make a release; takes Snakemake's options";
    lint = app "lint" "${scion} lint" "Say what is wrong with a checkpoint";
    inherit audit;
  };

  release = file: {
    default = app "make" "${make} --configfile=${file}" "Make the release";
    plan = app "plan" "${make} --configfile=${file} --dry-run" "Say what would run";
    pin = app "pin" "${scion} pin ${file}" "Write the commit of each repository";
    summary = app "summary" "${scion} summary ${file}" "Say what came of it";
    config = app "config" "${scion} config" "Print every key with its default";
    inherit audit;
  };

  shells = import ./shells.nix { inherit driver environments pkgs; };

  checks = import ./checks.nix {
    inherit environments lib pkgs;
    inherit (inputs) self;
  };
}
