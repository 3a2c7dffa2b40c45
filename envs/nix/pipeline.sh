# Snakemake on an immutable copy of Scion's code, $SCION_CODE, in the folder it is started in:
# results/, logs/ and benchmarks/ are made there, and paths in a config file are relative to it.

# What the defaults name. A folder of that name that is not such a link stays what it is.
if [[ ! -e resources && ! -L resources || $(readlink resources) == /nix/store/* ]]; then
  ln --symbolic --force --no-dereference "$SCION_CODE/resources" resources
fi

arguments=("$@")
case " $* " in
  *" --configfile"*) ;;
  *) arguments+=(--configfile "$SCION_CODE/config/default.yaml") ;;
esac
case " $* " in
  *" --cores"* | *" -c"* | *" -j"* | *" --jobs"* | *" -h "* | *" --help "*) ;;
  *) arguments=(--cores all "${arguments[@]}") ;;
esac

export PYTHONPATH=$SCION_CODE/workflow
exec snakemake --snakefile "$SCION_CODE/Snakefile" \
  --workflow-profile "$SCION_CODE/profiles/default" "${arguments[@]}"
