#!/usr/bin/env bash
# What needs longer than tests/run.sh allows: every suite under every sanitizer, with many seeds.
# QUIRE_TEST_SEEDS (default 1000) is the number of seeds that seeded suites run, QUIRE_SIMULATION_SEEDS (default
# 100000) that of the simulation, QUIRE_STORE_KILLS (default 10000) how often a process that writes a store is killed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/phases.sh
export QUIRE_TEST_SEEDS=${QUIRE_TEST_SEEDS:-1000}
test_timeout=7200
check_before_release all
phase simulation simulate "${QUIRE_SIMULATION_SEEDS:-100000}"
phase "killed stores" build/release/tests/offload/store_kill --kills "${QUIRE_STORE_KILLS:-10000}"
if nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v nvcc); then
  machine_code=()
  if cuobjdump=$(tests/cuda/cuobjdump.sh); then machine_code=(--cuobjdump "$cuobjdump"); fi
  phase "census of kernels" python3 tests/cuda/census.py "$nvcc" . "${machine_code[@]}"
else
  echo "== census of kernels: skipped, there is no nvcc"
fi
phase "mutants of kernels" python3 tests/cuda/mutants.py . build/release
finish_with release
