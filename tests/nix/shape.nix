# flake.nix evaluated with stand-ins for its inputs, by any Nix from 2.8 on, without nixpkgs:
#   nix eval --impure --json --file tests/nix/shape.nix
# The locks, the overrides and Scion's own expressions are the real ones. A derivation is a set with
# the arguments that made it; what the result shows of them is what tests/unit/test_flake.py asks.
let
  lib = rec {
    inherit (builtins)
      attrNames
      attrValues
      concatMap
      concatStringsSep
      elem
      filter
      foldl'
      isAttrs
      mapAttrs
      ;
    genAttrs =
      names: f:
      builtins.listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: list: if condition then list else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    splitString =
      separator: text: filter (part: builtins.isString part) (builtins.split "[${separator}]" text);
    getAttrFromPath = path: set: foldl' (inner: name: inner.${name}) set path;
    getLib = drv: drv.lib or drv;
    makeBinPath = packages: concatStringsSep ":" (map (package: "${package}/bin") packages);
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    importJSON = path: builtins.fromJSON (builtins.readFile path);
    composeExtensions =
      f: g: final: prev:
      let
        first = f final prev;
      in
      first // g final (prev // first);
    composeManyExtensions = foldl' composeExtensions (_: _: { });
    fileset = {
      unions = files: files;
      toSource = { fileset, ... }: derivation "source" { inherit fileset; };
    };
  };

  derivation =
    name: arguments:
    arguments
    // {
      inherit name;
      type = "derivation";
      outPath = "/mock/${name}";
      overrideAttrs =
        f: derivation name (arguments // f (removeAttrs arguments [ "overrideAttrs" ]));
    };

  packageSet = {
    python = python // {
      sitePackages = "lib/python3.12/site-packages";
    };
    resolveBuildSystem = builtins.attrNames;
    mkVirtualEnv = name: specification: derivation name { inherit specification; };
  };
  scope =
    overlay:
    let
      self = packageSet // overlay self packageSet;
    in
    self // { overrideScope = f: scope (lib.composeExtensions overlay f); };

  python = derivation "python312" { interpreter = "/mock/python3.12"; };
  pkgs =
    lib.genAttrs [
      "autoAddDriverRunpath"
      "bash"
      "coreutils"
      "git"
      "gnumake"
      "numactl"
      "onetbb"
      "uv"
    ] (name: derivation name { })
    // {
      inherit lib;
      stdenv.cc = derivation "gcc" { cc = derivation "gcc-unwrapped" { lib = derivation "gcc-lib" { }; }; };
      python312 = python // {
        withPackages = _: derivation "python-with-pip" { };
      };
      buildEnv = arguments: derivation arguments.name arguments;
      callPackage = f: f;
      callPackages = f: f;
      linkFarm = name: entries: derivation name { inherit entries; };
      mkShell = arguments: derivation arguments.name arguments;
      runCommand =
        name: arguments: script:
        derivation name (arguments // { inherit script; });
      writeShellScriptBin = name: text: derivation name { inherit text; };
      writeText = name: text: derivation name { inherit text; };
    };

  # Requirements of a lock as uv2nix has them: extras by name.
  specification =
    requirements:
    builtins.listToAttrs (
      map (requirement: {
        inherit (requirement) name;
        value = requirement.extra or [ ];
      }) requirements
    );

  inputs = {
    self = {
      outPath = "/mock/self";
      rev = "0123456789abcdef0123456789abcdef01234567";
    };
    nixpkgs = {
      inherit lib;
      legacyPackages.x86_64-linux = pkgs;
    };
    pyproject-nix.build = {
      packages = _: { overrideScope = scope; };
      util = _: { mkApplication = { venv, ... }: derivation "scion-0.1.0" { inherit venv; }; };
    };
    pyproject-build-systems.overlays.wheel = _: _: { };
    uv2nix.lib.workspace.loadWorkspace =
      { uvLock, ... }:
      {
        deps =
          let
            own = lib.filter (package: package.source ? editable) uvLock.package;
            extras = map (package: {
              inherit (package) name;
              value = lib.attrNames (package.optional-dependencies or { });
            }) own;
          in
          {
            optionals = builtins.listToAttrs extras;
            default = { };
            all = { };
          };
        mkPyprojectOverlay =
          { sourcePreference }:
          _: _:
          builtins.listToAttrs (
            map (package: {
              inherit (package) name;
              value = derivation package.name {
                inherit sourcePreference;
                passthru = {
                  dependencies = specification (package.dependencies or [ ]);
                  optional-dependencies = lib.mapAttrs (_: specification) (
                    package.optional-dependencies or { }
                  );
                };
              };
            }) uvLock.package
          );
        mkEditablePyprojectOverlay = { root }: _: _: { };
      };
  };

  outputs = (import ../../flake.nix).outputs inputs;
  system = "x86_64-linux";

  # What envs/nix/wheels.nix makes of an environment's packages.
  fixed =
    environment:
    let
      lock = lib.importTOML (
        if environment == "root" then ../../uv.lock.neutral else ../../envs + "/${environment}/uv.lock.neutral"
      );
      overlay = lib.composeExtensions (
        (inputs.uv2nix.lib.workspace.loadWorkspace { uvLock = lock; }).mkPyprojectOverlay {
          sourcePreference = "wheel";
        }
      ) (import ../../envs/nix/wheels.nix { inherit environment lib pkgs; });
      packages = scope overlay;
      shown = drv: {
        ignored = drv.autoPatchelfIgnoreMissingDeps or [ ];
        runpaths = drv.appendRunpaths or [ ];
        libraries = map (library: library.name) (drv.buildInputs or [ ]);
        tools = map (tool: tool.name or tool) (drv.nativeBuildInputs or [ ]);
        searched = drv.preFixup or "";
      };
      untouched = shown { };
    in
    lib.filterAttrs (_: what: what != untouched) (
      lib.genAttrs (map (package: package.name) lock.package) (name: shown packages.${name})
    );
in
{
  outputs = lib.mapAttrs (
    name: set: if name == "templates" then lib.attrNames set else lib.attrNames set.${system}
  ) outputs;
  apps = lib.mapAttrs (_: app: app.program) outputs.apps.${system};
  # envs/nix/template as a user's flake.
  template =
    let
      flake = (import ../../envs/nix/template/flake.nix).outputs { scion = outputs; };
    in
    {
      apps = lib.mapAttrs (_: app: app.program) flake.apps.${system};
      devShells = lib.attrNames flake.devShells.${system};
    };
  shell = {
    inherit (outputs.devShells.${system}.default) env shellHook;
    packages = map (package: package.name) outputs.devShells.${system}.default.packages;
  };
  serving = lib.genAttrs [ "serve" "serve-cpu" ] (
    name: map (package: package.name) outputs.devShells.${system}.${name}.packages
  );
  environments = lib.mapAttrs (
    _: environment: environment.venvIgnoreCollisions
  ) outputs.packages.${system}.environments.entries;
  # What the environments with or without Scion itself are asked to hold, extras by name.
  specifications =
    let
      made = import ../../envs/nix/environments.nix { inherit inputs lib pkgs; };
    in
    lib.genAttrs [ "light" "root" "withScion" ] (name: made.${name}.specification);
  command = outputs.packages.${system}.default.venv.specification;
  pipeline = outputs.packages.${system}.pipeline.text;
  checks = lib.mapAttrs (_: check: check.script) outputs.checks.${system};
  wheels = lib.genAttrs [ "root" "serve-cpu" "serve-cuda" "evaluate" "hermes" "kubernetes" "sglang" ] fixed;
}
