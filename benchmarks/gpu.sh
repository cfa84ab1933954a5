#!/bin/sh
# Measures everything that needs a GPU in one go: tests marked `gpu`, the benchmark's rows, the demo's experiments, the
# book. Run it in the root of the clone, with the environment's Python first on the path:
#
#     benchmarks/gpu.sh [FOLDER] [PART...]
#
# FOLDER (_build/gpu) gets a log of each part, rows.json and whole.json, which the page Speed reads from
# results/speed-h200: seconds and exit status of each part, how busy the GPU was, and what less precision takes. Of all
# parts, or those that are named, none takes longer than LIMIT seconds (3600); the others keep what they had found.
set -u
out=${1:-_build/gpu}
[ $# -gt 0 ] && shift
mkdir -p "$out"
: >> "$out/parts"

part() { # name, command...
    name=$1; shift
    start=$(date +%s)
    timeout --signal INT "${LIMIT:-3600}" "$@" > "$out/$name.log" 2>&1
    status=$?
    echo "$name $(($(date +%s) - start)) $status" >> "$out/parts"
    echo "$name: $(($(date +%s) - start)) s, exit status $status (log: $out/$name.log)"
}

[ $# -gt 0 ] || set -- tests rows busy experiments book
for each in "$@"; do
    case $each in
    tests) part tests python3 -m pytest -m gpu -q tests ;;
    rows) # how it grows comes last
        part rows python3 -m pytest benchmarks/test_[mps]*.py benchmarks/test_[!mps]*.py --scale gpu -q \
            --benchmark-quiet --benchmark-json="$out/rows.json" ;;
    busy) part busy python3 -m benchmarks.busy "$out/busy.json" ;;
    experiments) part experiments python3 -m perceptual_lib.cli run demo --engine processes --store "$out/store" ;;
    book) part book python3 -m perceptual_lib.cli book demo ;;
    *) echo "there is no part $each" >&2; exit 2 ;;
    esac
done
python3 - "$out" << 'END'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
parts = {name: {"seconds": int(s), "status": int(code)} for name, s, code in map(str.split, open(out / "parts"))}
busy = out / "busy.json"
whole = (json.loads(busy.read_text()) if busy.exists() else {}) | {"parts": parts}
(out / "whole.json").write_text(json.dumps(whole, indent=1) + "\n")
END
