# Sourced. Where the host has an NVIDIA driver, puts a folder of links to its libraries, and to no
# other of the host's, on LD_LIBRARY_PATH: the host's whole /usr/lib there would mix its glibc into
# programs that were built for another. NixOS keeps its driver in /run/opengl-driver/lib; elsewhere
# it is looked for where the loader looks. SCION_DRIVER_LIB names its folder by hand; empty, it
# leaves the driver out.

_scion_driver() {
  local folder target making file
  local -a folders=(
    /run/opengl-driver/lib
    /usr/lib/wsl/lib
    /usr/lib/x86_64-linux-gnu
    /usr/lib64
    /usr/lib
    /usr/local/nvidia/lib64
  )
  if [[ -v SCION_DRIVER_LIB ]]; then
    [[ -n $SCION_DRIVER_LIB ]] || return 0
    folders=("$SCION_DRIVER_LIB")
  fi
  for folder in "${folders[@]}"; do
    [[ -e $folder/libcuda.so.1 ]] || continue
    # By version, and made at one stroke: what runs with an older one keeps it.
    target=${XDG_CACHE_HOME:-$HOME/.cache}/scion/driver
    file=$(readlink --canonicalize "$folder/libcuda.so.1")
    making=$target/${file##*/}.$$
    target=$target/${file##*/}
    # Also where its links lead nowhere any more, as after NixOS has collected its garbage.
    if [[ ! -e $target/libcuda.so.1 ]]; then
      mkdir --parents "$making"
      # libdxcore.so: what WSL's libcuda opens.
      for file in "$folder"/lib{cuda,cudadebugger,dxcore,nvidia-*}.so*; do
        [[ -e $file ]] && ln --symbolic "$(readlink --canonicalize "$file")" "$making/${file##*/}"
      done
      rm --recursive --force "$target"
      mv --no-target-directory "$making" "$target" 2>/dev/null || rm --recursive "$making"
    fi
    export LD_LIBRARY_PATH=$target${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    # Triton asks ldconfig, which Nix has not.
    export TRITON_LIBCUDA_PATH=$target
    return 0
  done
  if [[ -v SCION_DRIVER_LIB ]]; then
    echo "scion: no libcuda.so.1 in SCION_DRIVER_LIB=$SCION_DRIVER_LIB; no GPU will be seen" >&2
  fi
}
_scion_driver
unset -f _scion_driver
