#!/usr/bin/env bash
# What to run first on a GPU, without a network, in two calls:
#
#   benchmarks/first_gpu.sh 1    at most 320 s: installation, versions, smoke, the tests of all that runs kernels
#   benchmarks/first_gpu.sh 2    at most 420 s: tuning, benchmarks, compute-sanitizer; installs where call 1 did not
#
# Each step has a time limit; one that fails or is ended stops no other, and what it has written stays. The summary
# comes last and names what was not reached. The exit code is 1 where a step failed.
#
# Environment:
#   OUT                     the folder of results, at most 8 files a call; build/first_gpu unless set
#   WHEELS                  a folder of wheels for what Python lacks; .carry unless set
#   PYTHON                  the interpreter, python3 unless set
#   DEBLURGAN_REHEARSAL=1   rehearses without a GPU: less of each, kernels in Triton's interpreter
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

call=${1:-}
python=${PYTHON:-python3}
wheels=${WHEELS:-.carry}
rehearsal=${DEBLURGAN_REHEARSAL:-0}
patience=$([[ $rehearsal == 1 ]] && echo 4 || echo 1) # a few cores compile and interpret slowly
case $call in
  1) deadline=$((300 * patience)) files=(smoke.jsonl smoke-in-turn.jsonl parity.txt) ;; # ending a step takes up to 10 s more
  2) deadline=$((400 * patience)) files=(table.json report.{jsonl,json,md,svg}) ;;
  *) echo "the call must be 1 or 2, got '$call'" >&2; exit 2 ;;
esac
out=${OUT:-build/first_gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/log-$call.txt
summary=$out/summary-$call.txt
(cd "$out" && rm -f "${files[@]}") # of an earlier call
: >"$log" >"$summary"
failed=0
export PYTHONUNBUFFERED=1

record() { # NAME OUTCOME SECONDS
  printf '%-28s %-40s %4d s\n' "$1" "$2" "$3" | tee -a "$summary"
}

# step NAME SECONDS FILE COMMAND...: runs the command with its output in FILE and what it complains of in the log
step() {
  local name=$1 limit=$(($2 * patience)) file=$3 left=$((deadline - SECONDS)) start=$SECONDS status=0
  shift 3
  ((limit < left)) || limit=$left
  if ((limit < 5)); then
    record "$name" "not reached" 0
    return
  fi
  if ! command -v "$1" >/dev/null; then
    record "$name" "skipped: no $1" 0
    return
  fi
  printf '\n== %s, at most %d s: %s\n' "$name" "$limit" "$*" >>"$log"
  timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$file" 2>>"$log" || status=$?
  case $status in
    0) record "$name" ok $((SECONDS - start)); return ;;
    124 | 137) record "$name" "ended after its $limit s, what it wrote is kept" $((SECONDS - start)) ;;
    *)
      if [[ $rehearsal == 1 ]] && tail -n 3 "$log" | grep -qE '(no|needs a) CUDA device'; then
        record "$name" "skipped: no GPU" $((SECONDS - start))
        return
      fi
      failed=1
      record "$name" "FAILED with exit code $status" $((SECONDS - start))
      ;;
  esac
  tail -n 12 "$file" | cut -c 1-300
  [[ $file == "$log" ]] || tail -n 6 "$log" | cut -c 1-300
}

installed() {
  "$python" -c 'import deblurgan._C, tyro' >>"$log" 2>&1
}

install() {
  local found=("$wheels"/*.whl)
  if [[ -e ${found[0]} ]]; then
    step "install wheels" 30 "$log" "$python" -m pip install --no-index --no-deps "${found[@]}"
  fi
  # Of this GPU alone: all architectures take minutes
  TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>>"$log") ||
    TORCH_CUDA_ARCH_LIST=9.0
  export TORCH_CUDA_ARCH_LIST
  step install 120 "$log" "$python" -m pip install --no-build-isolation --no-deps --no-index -e .
}

versions() {
  step nvidia-smi 10 "$log" nvidia-smi
  step versions 40 "$log" "$python" -c '
import numpy, platform, setuptools, torch, triton
print("python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)
print("cudnn", torch.backends.cudnn.version(), "numpy", numpy.__version__, "setuptools", setuptools.__version__)
print(torch.cuda.get_device_properties() if torch.cuda.is_available() else "torch sees no CUDA device")'
  step "deblurgan info" 40 "$log" "$python" -m deblurgan info
}

parity() {
  local options=(-m gpu -v --tb=short --maxfail=40 --continue-on-collection-errors -p no:cacheprovider)
  if "$python" -c 'import xdist' 2>>"$log"; then
    options+=(-n "$([[ $rehearsal == 1 ]] && echo 2 || echo 8)")
  fi
  if [[ $rehearsal == 1 ]]; then
    options+=(-k "kernel_stats or pack_image")
  fi
  local tests kernels='KERNEL_DEVICE|kernel_cases' # those first
  mapfile -t tests < <(grep -lE "$kernels" tests/test_*.py; grep -LE "$kernels" tests/test_*.py)
  step parity "$deadline" "$out/parity.txt" "$python" -m pytest "${tests[@]}" "${options[@]}"
  grep -hE '^(FAILED|ERROR) ' "$out/parity.txt" | cut -c 1-200 | head -n 20
}

tune() {
  DEBLURGAN_TABLE=$out/table.json step "tune fp16" 95 "$log" \
    "$python" -m deblurgan tune --dtype fp16 --budget 75 --forward-only
  DEBLURGAN_TABLE=$out/table.json step "tune bf16 gradients" 60 "$log" \
    "$python" -m deblurgan tune --dtype bf16 --budget 40 --gradients-only
  if [[ -e $out/table.json ]]; then
    export DEBLURGAN_TABLE=$out/table.json
  fi
}

benchmarks() {
  # The most telling first, what takes minutes to compile last
  local order=("on_cuda and paper and fp16 and not compile" "bench_training_step"
    "on_cuda and paper and fp16 and reduce-overhead" "training" "bench_layers" "cuda and (blur or application)"
    "cuda and not max-autotune" "on_cuda and paper and fp16 and not of and max-autotune")
  if [[ $rehearsal == 1 ]]; then
    order=("on_cuda and 256x256 and tiny" "on_cpu and tiny and eager and NCHW")
  fi
  local seconds=$((deadline - SECONDS - 75))
  step benchmarks "$seconds" "$log" "$python" -m benchmarks.report --out "$out" "${order[@]/#/-k=}"
  if [[ -e $out/report.jsonl && ! -e $out/report.json ]]; then
    step "benchmarks' tables" 20 "$log" "$python" -m benchmarks.report --out "$out" --assemble
  fi
}

sanitizer() {
  local options=(--target-processes all --error-exitcode 9)
  step memcheck 45 "$log" compute-sanitizer --tool memcheck "${options[@]}" "$python" -m benchmarks.smoke forced
  step racecheck 30 "$log" compute-sanitizer --tool racecheck "${options[@]}" "$python" -m benchmarks.smoke "forced stem"
}

if [[ $call == 1 ]]; then
  install
  versions
  words=()
  if [[ $rehearsal == 1 ]]; then
    words=("8x8" "engine in" replay training threads blur "forced trunk" "forced stem")
  fi
  step smoke 130 "$out/smoke.jsonl" "$python" -m benchmarks.smoke "${words[@]}"
  if grep -h '"ok": false' "$out/smoke.jsonl" | cut -c 1-400; then # is it that kernels overlap?
    DEBLURGAN_PDL=0 step "smoke, kernels in turn" 60 "$out/smoke-in-turn.jsonl" "$python" -m benchmarks.smoke engine replay
  fi
  parity
else
  installed || install
  tune
  benchmarks
  sanitizer
fi
printf '\nCall %s took %d s; results in %s:\n' "$call" "$SECONDS" "$out"
ls -s --block-size=1K "$out"
cat "$summary"
exit $failed
