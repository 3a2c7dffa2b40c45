{
  description = "One release, made with Scion";

  # Put the address of Scion here, the one that came after `--template`. flake.lock then pins it, so
  # that anybody makes this release with the same code and environments.
  inputs.scion.url = "git+file:///path/to/scion";

  outputs =
    { scion, ... }:
    {
      # default: make it; plan: say what would run; summary: say what came of it; audit: check it.
      apps.x86_64-linux = scion.lib.x86_64-linux.release "release.yaml";
      # For `nix develop .#serve`: vLLM, to serve what was made.
      devShells.x86_64-linux = { inherit (scion.devShells.x86_64-linux) serve serve-cpu; };
    };
}
