# `nix develop`, `nix develop .#serve` and `nix develop .#serve-cpu`.
{
  driver,
  environments,
  pkgs,
}:
let
  # Kernels that are compiled while it runs are for this machine, as in the apps.
  NIX_ENFORCE_NO_NATIVE = "0";

  serving =
    name:
    pkgs.mkShell {
      name = "scion-${name}";
      packages = [ environments.others.${name} ];
      env = { inherit NIX_ENFORCE_NO_NATIVE; };
      shellHook = ''
        unset PYTHONPATH
        source ${driver}
      '';
    };
in
{
  default = pkgs.mkShell {
    name = "scion";
    packages = [
      environments.development
      pkgs.git
      pkgs.gnumake
      pkgs.uv
    ];
    env = {
      inherit NIX_ENFORCE_NO_NATIVE;
      SCION_ENVIRONMENTS = "${environments.folderForTests}";
      # uv has nothing to install here, nor an interpreter to look for.
      UV_NO_SYNC = "1";
      UV_PYTHON = environments.python.interpreter;
      UV_PYTHON_DOWNLOADS = "never";
      SCION_TOOLS = "${environments.tools}";
    };
    shellHook = ''
      unset PYTHONPATH
      export REPO_ROOT=$(git rev-parse --show-toplevel)
      source ${driver}
    '';
  };

  serve = serving "serve-cuda";
  serve-cpu = serving "serve-cpu";
}
