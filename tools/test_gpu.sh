#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs an NVIDIA GPU: the laws of the layers and the primitives' tests on the CUDA backend, the kernels of
# every data type against double, the conformance cases, training against the CPU, generation through a graph and with rounded
# weights, layers from C, C++ and Python, there on tensors of cupy, torch, JAX and ONNX Runtime, compute-sanitizer.
#   tools/test_gpu.sh [BIN] [all|tests|models|sanitizers]     models: tests without the programs that ctest -L gpu runs too
# BIN: the programs of target gpu_programs, built on another machine. Without it they are built here, in build/cuda.
# Where NVIDIA's multi-process service is there, programs share the device, side by side.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
bin=${1:-build/cuda/bin}
what=${2:-all}
if [[ -z ${1:-} ]]; then
  cmake --preset cuda && cmake --build --preset cuda --target gpu_programs || exit 1
fi
for program in 10_cuda flashconv ssm ssm-conformance \
  primitive_{matmul,decayed_attention,selective_scan,short_convolution,h3_mixer,cascaded_scan}_on_device; do
  if [[ ! -x $bin/$program ]]; then
    echo "$bin lacks $program: build target gpu_programs" >&2
    exit 1
  fi
done
cublas=$(ldconfig -p 2>/dev/null | grep -o '/.*libcublasLt\.so\.13' | head -1)
[[ -n $cublas ]] || cublas=$(find / -name libcublasLt.so.13 -not -path '/proc/*' 2>/dev/null | head -1)
export LD_LIBRARY_PATH=$bin:${cublas%/*}:${LD_LIBRARY_PATH:-}
work=$(mktemp -d)
shares=0 owns_service=0
trap 'stop_service; rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

# The multi-process service: the one that already serves this shell, or one in folders of our own. It must see all devices,
# whichever of them the programs are given.
start_service() {
  if [[ -z ${CUDA_MPS_PIPE_DIRECTORY:-} ]]; then
    command -v nvidia-cuda-mps-control >/dev/null || return
    export CUDA_MPS_PIPE_DIRECTORY=$work/service CUDA_MPS_LOG_DIRECTORY=$work/service_log
    mkdir "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
    owns_service=1
    env -u CUDA_VISIBLE_DEVICES nvidia-cuda-mps-control -d >/dev/null 2>&1
  fi
  if timeout 60 "$bin/10_cuda" >/dev/null 2>&1; then shares=1; else stop_service; fi
}
stop_service() {
  shares=0
  ((owns_service)) || return 0
  echo quit | timeout 30 nvidia-cuda-mps-control >/dev/null 2>&1
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  owns_service=0
}

# beside STEPS…: steps that no others wait for. Where the device is shared they run in the background, several at a time,
# and say what came of them as they end; `together` waits for them and adds them up.
groups=() at_once=$(($(nproc) / 2))
((at_once >= 1)) || at_once=1
((at_once <= 8)) || at_once=8
beside() {
  if ((!shares)); then
    "$@"
    return
  fi
  local group=$work/group_${#groups[@]}
  groups+=("$group")
  while (($(jobs -rp | wc -l) >= at_once)); do wait -n; done
  (
    trap - EXIT
    passed=0 failed=0 skipped=0
    "$@" >"$group" 2>&1
    echo "$passed $failed $skipped" >"$group.counts"
    cat "$group"
  ) &
}
together() {
  local group more=()
  wait
  for group in "${groups[@]}"; do
    if [[ -e $group.counts ]]; then
      read -ra more <"$group.counts"
    else
      cat "$group"  # ended in the middle
      more=(0 1 0)
    fi
    passed=$((passed + more[0])) failed=$((failed + more[1])) skipped=$((skipped + more[2]))
  done
  groups=()
}

# step NAME COMMAND…: one check; 77 means skipped.
step() {
  local name=$1 start=$SECONDS code=0 log
  shift
  log=$(mktemp -p "$work")
  "$@" >"$log" 2>&1 || code=$?
  case $code in
    0) passed=$((passed + 1)) word=passed ;;
    77) skipped=$((skipped + 1)) word=skipped ;;
    *) failed=$((failed + 1)) word="FAILED with $code" ;;
  esac
  echo "$name: $word ($((SECONDS - start)) s): $(tail -1 "$log")"
  if [[ $code != 0 && $code != 77 ]]; then tail -40 "$log"; fi
}

# The first 100 losses of two runs agree to `bar`.
same_losses() {
  python3 - "$1/metrics.jsonl" "$2/metrics.jsonl" "$3" <<'PYTHON'
import json, sys
runs = [[json.loads(line) for line in open(path)] for path in sys.argv[1:3]]
losses = [{row["step"]: row["loss"] for row in run if "loss" in row and row.get("step", 0) <= 100} for run in runs]
steps = sorted(set(losses[0]) & set(losses[1]))
worst = max(steps, key=lambda s: abs(losses[0][s] - losses[1][s]))
gap = abs(losses[0][worst] - losses[1][worst])
print(f"{len(steps)} losses, the largest difference is {gap:.2e} at step {worst}; the last are "
      f"{losses[0][steps[-1]]:.5f} and {losses[1][steps[-1]]:.5f}")
sys.exit(not (len(steps) >= 10 and gap <= float(sys.argv[3])))
PYTHON
}

train() {  # FOLDER BACKEND OPTIONS…
  local folder=$1 backend=$2
  shift 2
  "$bin/ssm" train --text README.md --out "$folder" --backend "$backend" --steps 100 --seed 1 \
    --width 64 --layers 2 --length 128 --batch 8 --log-every 1 "$@"
}
greedy() {  # FOLDER BACKEND OUTPUT OPTIONS…
  local folder=$1 backend=$2 output=$3
  shift 3
  "$bin/ssm" generate "$folder" --backend "$backend" --prompt "The " --tokens 64 --temperature 0 "$@" >"$output"
}

# The perplexity of a text in windows, on both backends.
same_perplexity() {  # FOLDER OPTIONS…
  local folder=$1
  shift
  for backend in cpu cuda; do
    "$bin/ssm" perplexity "$folder" --text README.md --window 96 --stride 40 --backend $backend --json --quiet "$@" >"$folder.$backend.json" || return 1
  done
  python3 - "$folder.cpu.json" "$folder.cuda.json" <<'PYTHON'
import json, sys
cpu, cuda = (json.load(open(path)) for path in sys.argv[1:3])
print(f"perplexity {cpu['perplexity']} on the CPU, {cuda['perplexity']} on the GPU, of {cuda['tokens']} tokens")
sys.exit(not (cpu["tokens"] == cuda["tokens"] and abs(cpu["nats"] - cuda["nats"]) <= 1e-4 * cpu["nats"]))
PYTHON
}

# Losses of the synthetic tasks' models, on both backends, and of a run that was stopped on the GPU.
same_synthetics() {
  [[ -x $bin/ssm-synthetics ]] || { echo "$bin has no ssm-synthetics"; return 77; }
  local runs=("$bin/ssm-synthetics" recall --seeds 1 --training 640 --test 64 --epochs 6)
  "${runs[@]}" --out "$work/synthetics_cpu" && "${runs[@]}" --backend cuda --out "$work/synthetics_gpu" || return 1
  timeout -s TERM 3 "${runs[@]}" --backend cuda --out "$work/synthetics_parts"
  "${runs[@]}" --backend cuda --out "$work/synthetics_parts" || return 1
  python3 - "$work"/synthetics_{cpu,gpu,parts}/recall.json <<'PYTHON'
import json, sys
cpu, gpu, parts = ({run["model"]: run["loss"] for run in json.load(open(path))["runs"]} for path in sys.argv[1:])
worst = max(cpu, key=lambda model: abs(cpu[model][-1] - gpu[model][-1]))
print(f"{len(cpu)} models, {worst} ends at {cpu[worst][-1]:.5f} on the CPU and {gpu[worst][-1]:.5f} on the GPU; stopped runs "
      f"{'are' if parts == gpu else 'are not'} the same")
sys.exit(not (len(cpu) == 8 and abs(cpu[worst][-1] - gpu[worst][-1]) <= 5e-3 and parts == gpu))
PYTHON
}

# What a model in bf16 makes of a text beside the same in float, and that it writes one.
reads_in_bf16() {  # FOLDER
  for numbers in float bf16; do
    "$bin/ssm" perplexity "$1" --text README.md --window 96 --stride 40 --backend cuda --numbers $numbers --json --quiet \
      >"$1.$numbers.json" || return 1
  done
  "$bin/ssm" generate "$1" --backend cuda --numbers bf16 --prompt "The " --tokens 64 --temperature 0 >"$1.bf16.txt" || return 1
  python3 - "$1.float.json" "$1.bf16.json" "$1.bf16.txt" <<'PYTHON'
import json, sys
full, half = (json.load(open(path)) for path in sys.argv[1:3])
print(f"perplexity {full['perplexity']} in float, {half['perplexity']} in bf16, of {half['tokens']} tokens")
sys.exit(not (full["tokens"] == half["tokens"] and abs(full["nats"] - half["nats"]) <= 1e-2 * full["nats"]
              and len(open(sys.argv[3], "rb").read()) > 64))
PYTHON
}

# Every conformance case.
conformance() {  # SCALAR
  "$bin/ssm-conformance" --backend cuda --scalar "$1" tests/data/conformance/cases >"$work/cases_$1"
  grep -E '^(FAIL|unsupported)' "$work/cases_$1"
  tail -1 "$work/cases_$1"
  grep -q '^pass' "$work/cases_$1" && tail -1 "$work/cases_$1" | grep -q ' 0 failed, 0 unsupported'
}

# Layers and functions of the Python package on the GPU.
python_on_gpu() {  # PART
  if [[ ! -e $bin/libssm_api.so ]]; then
    echo "skipped: $bin has no libssm_api.so"
    return 77
  fi
  SSM_LIBRARY=$bin/libssm_api.so PYTHONPATH=python PYTHONDONTWRITEBYTECODE=1 XLA_PYTHON_CLIENT_PREALLOCATE=false \
    python3 tests/api/python_test.py "$1-cuda" none tests/data/conformance/cases none
}

# Layers and language models in ONNX Runtime, on its provider for CUDA.
onnxruntime_on_gpu() {
  if [[ ! -e $bin/libssm_api.so || ! -e $bin/libssm_onnxruntime.so ]]; then
    echo "skipped: $bin lacks libssm_api.so or libssm_onnxruntime.so"
    return 77
  fi
  SSM_LIBRARY=$bin/libssm_api.so PYTHONPATH=python PYTHONDONTWRITEBYTECODE=1 \
    python3 tests/peers/onnxruntime_test.py tests/data/conformance/cases cuda
}

# A program on arrays of CuPy.
cupy_on_gpu() {
  if [[ ! -e $bin/libssm_api.so ]]; then
    echo "skipped: $bin has no libssm_api.so"
    return 77
  fi
  SSM_LIBRARY=$bin/libssm_api.so PYTHONPATH=python PYTHONDONTWRITEBYTECODE=1 \
    python3 examples/34_cupy.py tests/data/conformance/cases/model_mamba_original
}

# Layers and language models by the C interface, from a program in C or C++.
from_c_on_gpu() {  # EXTENSION
  if [[ ! -x $bin/api_on_device_$1 ]]; then
    echo "skipped: $bin has no api_on_device_$1"
    return 77
  fi
  mkdir -p "$work/from_$1"
  "$bin/api_on_device_$1" "$work/from_$1" tests/data/conformance/cases/model_{mamba_original,h3_hybrid,dense_mamba_m2,retnet,gpt2}
}

# A tiny model of a family: the GPU trains as the CPU does, the same bits each time, and writes the same text.
family() {  # FAMILY OPTIONS…
  local model=$1
  shift
  step "$model: train on the CPU" train "$work/${model}_cpu" cpu --model "$model" "$@"
  step "$model: train on the GPU" train "$work/${model}_gpu" cuda --model "$model" "$@"
  step "$model: train on the GPU again" train "$work/${model}_again" cuda --model "$model" "$@"
  step "$model: the same losses as the CPU" same_losses "$work/${model}_cpu" "$work/${model}_gpu" 5e-3
  step "$model: the same bits on every run" same_losses "$work/${model}_gpu" "$work/${model}_again" 0
  step "$model: train in bf16" train "$work/${model}_bf16" cuda --model "$model" "$@" --numbers bf16
  step "$model: in bf16 nearly the same losses" same_losses "$work/${model}_gpu" "$work/${model}_bf16" 5e-2
  step "$model: generate on the CPU" greedy "$work/${model}_gpu" cpu "$work/${model}_cpu.txt"
  step "$model: generate on the GPU" greedy "$work/${model}_gpu" cuda "$work/${model}_gpu.txt"
  step "$model: the same text" cmp "$work/${model}_cpu.txt" "$work/${model}_gpu.txt"
  step "$model: nearly the same perplexity in bf16" reads_in_bf16 "$work/${model}_gpu"
}

# The default model: what families are asked, and other numbers, rounded weights.
text_model() {
  step "train on the CPU" train "$work/cpu" cpu
  step "train on the GPU" train "$work/gpu" cuda
  step "train on the GPU again" train "$work/again" cuda
  step "the same losses as the CPU" same_losses "$work/cpu" "$work/gpu" 2e-3
  step "the same bits on every run" same_losses "$work/gpu" "$work/again" 0
  step "train with TF32 products" train "$work/tf32" cuda-tf32
  step "nearly the same losses" same_losses "$work/gpu" "$work/tf32" 5e-2
  for numbers in bf16 f16; do
    step "train in $numbers" train "$work/$numbers" cuda --numbers "$numbers"
    step "in $numbers nearly the same losses" same_losses "$work/gpu" "$work/$numbers" 5e-2
  done
  step "train in bf16 again" train "$work/bf16_again" cuda --numbers bf16
  step "the same bits on every run in bf16" same_losses "$work/bf16" "$work/bf16_again" 0
  step "train in bf16 on the CPU" train "$work/cpu_bf16" cpu --numbers bf16
  step "the losses of the CPU in bf16" same_losses "$work/cpu_bf16" "$work/bf16" 2e-2
  step "generate on the CPU" greedy "$work/gpu" cpu "$work/cpu.txt"
  step "generate on the GPU, through a graph" greedy "$work/gpu" cuda "$work/gpu.txt"
  step "the same text" cmp "$work/cpu.txt" "$work/gpu.txt"
  step "the same perplexity" same_perplexity "$work/gpu"
  step "nearly the same perplexity in bf16" reads_in_bf16 "$work/gpu"
  for weights in bf16 f16 int8; do
    step "generate with $weights weights on the CPU" greedy "$work/gpu" cpu "$work/cpu_$weights.txt" --weights $weights
    step "generate with $weights weights on the GPU" greedy "$work/gpu" cuda "$work/gpu_$weights.txt" --weights $weights
    step "the same text with $weights weights" cmp "$work/cpu_$weights.txt" "$work/gpu_$weights.txt"
    step "the same perplexity with $weights weights" same_perplexity "$work/gpu" --weights $weights
  done
}

start_service
if [[ $what != sanitizers && $what != models ]]; then
  for program in "$bin"/10_cuda "$bin"/*_on_device; do beside step "$(basename "$program")" "$program"; done
  beside step "kernels of every data type against double" "$bin/flashconv" check
  for language in c cpp; do beside step "the C interface from $language on the GPU" from_c_on_gpu "$language"; done
  beside step "a program on CuPy's arrays" cupy_on_gpu
  beside step "ONNX Runtime on the GPU" onnxruntime_on_gpu
  for part in layers torch jax; do beside step "Python: $part on the GPU" python_on_gpu "$part"; done
fi
if [[ $what != sanitizers ]]; then
  for scalar in float double; do beside step "conformance $scalar" conformance "$scalar"; done
  beside text_model
  beside step "synthetic tasks: the CPU's losses" same_synthetics
  for name in mamba mamba2 retnet dense-retnet dense-mamba; do beside family "$name"; done
  beside family gpt2 --rate 1e-3  # at the default rate its first steps are unstable, and two roundings part
fi
together
stop_service  # compute-sanitizer does not go through it

# sanitizer TOOL COMMAND…: nothing may take minutes. Races are looked for in our kernels alone, not in cuBLAS's.
sanitizer() {
  local tool=$1 only=()
  shift
  if [[ $tool == racecheck ]]; then only=(--kernel-name kernel_substring=ssm); fi
  timeout 170 compute-sanitizer --tool "$tool" --error-exitcode 9 "${only[@]}" "$@"
}
# Kinds of conformance cases.
sanitize() {  # TOOL KINDS
  sanitizer "$1" "$bin/ssm-conformance" --backend cuda --scalar float --kinds "$2" tests/data/conformance/cases
}
# The convolutions' kernels of a type and kind.
sanitize_convolutions() {  # TOOL NUMBERS KIND
  sanitizer "$1" "$bin/flashconv" small "$2" "$3"
}
# Test cases of a primitive whose names begin so, at least one.
sanitize_tests() {  # TOOL PRIMITIVE [BEGINNING]
  local log code=0
  log=$(sanitizer "$1" "$bin/primitive_$2_on_device" --test-case="${3:-}*" 2>&1) || code=$?
  echo "$log"
  ((code == 0)) || return $code
  grep -Eq 'test cases: +[1-9]' <<<"$log"
}
layers=h3,h3_lm,diagonal_ssm,causal_convolution,attention
chunked=mamba_block,mamba2_block,dense_mamba_block,retention
if [[ $what != tests && $what != models ]] && ! sanitize memcheck layer_norm >/dev/null 2>&1; then
  echo "compute-sanitizer: skipped, it does not run here"
elif [[ $what != tests && $what != models ]]; then
  shares=1  # several at once: they are slow on the host's side
  # The slowest first. racecheck takes each kernel that shares memory once: scans, shifts and convolutions, transposes,
  # attention; of half types in the primitives' tests.
  for tool in racecheck synccheck memcheck; do
    for kind in convolution diagonal mixer; do
      for numbers in float f16 bf16; do
        beside step "$tool of ${kind}s in $numbers" sanitize_convolutions $tool $numbers $kind
      done
    done
    if [[ $tool == racecheck ]]; then
      beside step "racecheck of the layers" sanitize racecheck h3,diagonal_ssm,attention
      beside step "racecheck of the scans by chunks" sanitize racecheck mamba_block,retention
    else
      beside step "$tool of the layers" sanitize $tool $layers
      beside step "$tool of the scans by chunks" sanitize $tool $chunked
    fi
    if [[ $tool != memcheck ]]; then
      beside step "$tool of decayed attention" sanitize_tests $tool decayed_attention "half types on tensor cores"
      for primitive in selective_scan short_convolution; do
        beside step "$tool of $primitive" sanitize_tests $tool $primitive "half types"
      done
    fi
    beside step "$tool of batches of H3" sanitize_tests $tool h3_mixer "batches of bf16"
    beside step "$tool of wider heads of H3" sanitize_tests $tool h3_mixer "bf16 heads"
    beside step "$tool of cascaded scans" sanitize_tests $tool cascaded_scan "half types"
    beside step "$tool of products with GELU" sanitize_tests $tool matmul "products of many tiles"
  done
  beside step "memcheck of products by bf16 weights" sanitize_tests memcheck matmul
  together
fi
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))
