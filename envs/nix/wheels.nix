# What the wheels of one environment need under Nix beyond what uv.lock says: an overlay made of
# wheels.toml, which is written by hand, and elf-needs.json, which was read off the wheels.
{
  lib,
  pkgs,
  environment,
}:
final: prev:
let
  # By package; see the files' heads and tools/elf_needs.py.
  stated = (lib.importTOML ./wheels.toml).wheels;
  needs = (lib.importJSON ./elf-needs.json).environments.${environment};

  foldersOf = name: map (folder: "${final.${name}}/${folder}") needs.${name}.folders;

  nothing = {
    driver = false;
    folders = [ ];
    wheels = [ ];
  };

  fix =
    name: drv:
    let
      own = stated.${name} or { };
      need = needs.${name} or nothing;
      opened = lib.filter (other: prev ? ${other}) (own.opens or [ ]);

      # auto-patchelf drops $ORIGIN, by which CUDA's libraries open their neighbours by bare name.
      origin = lib.optional (lib.hasPrefix "nvidia-" name && need.folders != [ ]) "$ORIGIN";

      added = {
        appendRunpaths = origin ++ lib.concatMap foldersOf opened;
        autoPatchelfIgnoreMissingDeps =
          own.absent or [ ]
          ++ lib.optionals need.driver [
            "libcuda.so.1"
            "libnvidia-ml.so.1"
          ];
        buildInputs = map (path: lib.getLib (lib.getAttrFromPath (lib.splitString "." path) pkgs)) (
          own.libraries or [ ]
        );
        nativeBuildInputs =
          # Adds NixOS' folder of the driver to the RUNPATHs; driver.sh is for other hosts.
          lib.optional (need.driver || lib.elem "driver" (own.opens or [ ])) pkgs.autoAddDriverRunpath
          ++ lib.optionals (own ? build_system) (
            final.resolveBuildSystem (lib.genAttrs own.build_system (_: [ ]))
          );
      };
      searched = lib.concatMap foldersOf need.wheels;
    in
    drv.overrideAttrs (
      old:
      lib.mapAttrs (key: list: old.${key} or [ ] ++ list) (lib.filterAttrs (_: list: list != [ ]) added)
      // lib.optionalAttrs (searched != [ ]) {
        preFixup =
          old.preFixup or ""
          + lib.concatMapStrings (folder: ''
            addAutoPatchelfSearchPath --no-recurse ${folder}
          '') searched;
      }
    );
in
lib.mapAttrs fix (lib.filterAttrs (name: _: needs ? ${name} || stated ? ${name}) prev)
