{
  description = "Scion: reproducible NVFP4 releases of Qwen3.5/3.6 checkpoints, from one config file";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

    pyproject-nix = {
      url = "github:pyproject-nix/pyproject.nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };

    uv2nix = {
      url = "github:pyproject-nix/uv2nix";
      inputs.pyproject-nix.follows = "pyproject-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };

    pyproject-build-systems = {
      url = "github:pyproject-nix/build-system-pkgs";
      inputs.pyproject-nix.follows = "pyproject-nix";
      inputs.uv2nix.follows = "uv2nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    inputs@{ nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;
      # The locks hold wheels of this platform alone.
      forAllSystems = lib.genAttrs [ "x86_64-linux" ];
      scionFor = forAllSystems (
        system:
        import ./envs/nix {
          inherit inputs lib;
          pkgs = nixpkgs.legacyPackages.${system};
        }
      );
    in
    {
      packages = forAllSystems (system: {
        default = scionFor.${system}.command;
        inherit (scionFor.${system}) pipeline environments;
      });

      apps = forAllSystems (system: scionFor.${system}.apps);

      # `release FILE`: the apps of a folder that holds the config file of one release.
      lib = forAllSystems (system: {
        inherit (scionFor.${system}) release;
      });

      devShells = forAllSystems (system: scionFor.${system}.shells);

      checks = forAllSystems (system: scionFor.${system}.checks);

      templates.default = {
        path = ./envs/nix/template;
        description = "A folder with the config file of one release";
        welcomeText = ''
          Describe your release in `release.yaml`, then see README.md: `nix run .#plan`, `nix run`.
        '';
      };
    };
}
