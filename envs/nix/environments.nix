# The locked environments as virtual environments in the store, from the locks that uv reads too.
{
  inputs,
  lib,
  pkgs,
}:
let
  # tools/elf_wheels.py reads the wheels of this version.
  python = pkgs.python312;

  folders = {
    root = ../..;
    serve-cpu = ../serve-cpu;
    serve-cuda = ../serve-cuda;
    evaluate = ../evaluate;
    hermes = ../hermes;
    kubernetes = ../kubernetes;
    sglang = ../sglang;
  };

  # Of a local package only what its build reads: an edit elsewhere builds no environment anew.
  sources = {
    scion = lib.fileset.toSource {
      root = ../..;
      fileset = lib.fileset.unions [
        ../../pyproject.toml
        ../../LICENSE
        ../../README.md
        ../../workflow/scion
      ];
    };
    # The code itself stays in the checkout.
    scionEditable = lib.fileset.toSource {
      root = ../..;
      fileset = lib.fileset.unions [
        ../../pyproject.toml
        ../../LICENSE
        ../../README.md
        ../../workflow/scion/__init__.py
      ];
    };
  };
  withSource =
    src: final: prev:
    lib.optionalAttrs (prev ? scion) {
      scion = prev.scion.overrideAttrs (_: {
        inherit src;
      });
    };

  workspaces = lib.mapAttrs (
    _: folder:
    inputs.uv2nix.lib.workspace.loadWorkspace {
      workspaceRoot = folder;
      # uv.lock without the address of an index (tools/lock.py). Files are named as
      # mirror://pypi/../…, which nixpkgs' fetchurl resolves.
      uvLock = lib.importTOML (folder + "/uv.lock.neutral");
    }
  ) folders;

  sets = lib.mapAttrs (
    name: workspace:
    (pkgs.callPackage inputs.pyproject-nix.build.packages { inherit python; }).overrideScope (
      lib.composeManyExtensions [
        inputs.pyproject-build-systems.overlays.wheel
        # Built from source only where there is no wheel.
        (workspace.mkPyprojectOverlay { sourcePreference = "wheel"; })
        (import ./wheels.nix {
          inherit lib pkgs;
          environment = name;
        })
        (withSource sources.scion)
      ]
    )
  ) workspaces;

  # By environment, the files that its wheels bring with several contents; wheels.toml says why any
  # of them will do, and tools/elf_needs.py that it says so of each.
  inherit (lib.importJSON ./elf-needs.json) collisions;

  virtualEnv =
    name: set: title: specification:
    (set.mkVirtualEnv "scion-${title}" specification).overrideAttrs (_: {
      venvIgnoreCollisions = lib.attrNames collisions.${name};
    });
  environment = name: virtualEnv name sets.${name} name workspaces.${name}.deps.default;
  rootEnv = virtualEnv "root";
in
rec {
  # `sets`: the packages of each environment, by name.
  inherit python sets;

  # Packages by name, of the environment that Snakemake and the stages run in.
  set = sets.root;

  # What the stages import, without Scion itself: an edit of the code is no other environment.
  root = rootEnv set "root" (
    set.scion.passthru.dependencies // set.scion.passthru.optional-dependencies.workflow
  );
  withScion = rootEnv set "command" workspaces.root.deps.optionals;
  # What lints, checks and pins: no torch, and nothing of the workflow.
  light = rootEnv set "light" { scion = [ "hub" ]; };

  # With the tools that check and test; Scion's own code is that in $REPO_ROOT.
  development = rootEnv (set.overrideScope (
    lib.composeExtensions (workspaces.root.mkEditablePyprojectOverlay { root = "$REPO_ROOT"; }) (
      withSource sources.scionEditable
    )
  )) "development" workspaces.root.deps.all;
  # The same with a copy of the code, for builds that see no checkout.
  test = rootEnv set "test" workspaces.root.deps.all;

  others = lib.genAttrs [ "serve-cpu" "serve-cuda" "evaluate" ] environment;
  forTests = lib.genAttrs [ "hermes" "kubernetes" "sglang" ] environment;

  # $SCION_ENVIRONMENTS of a run: where the rules find the environments of envs/.
  folder = pkgs.linkFarm "scion-environments" others;
  folderForTests = pkgs.linkFarm "scion-test-environments" (others // forTests);

  # $SCION_TOOLS, what tools/lock.py works with: uv, and a Python with pip.
  tools = pkgs.buildEnv {
    name = "scion-tools";
    paths = [
      (python.withPackages (packages: [ packages.pip ]))
      pkgs.uv
    ];
  };

  # What names an environment where there is no Nix, and is recorded beside its store path.
  locks = lib.mapAttrsToList (_: folder: folder + "/uv.lock.neutral") folders;
}
