#!/usr/bin/env bash
# What needs longer than tests/run.sh allows: every suite under every sanitizer, with many seeds.
# QUIRE_TEST_SEEDS (default 1000) is the number of seeds that seeded suites run, QUIRE_SIMULATION_SEEDS (default
# 100000) that of the simulation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/phases.sh
export QUIRE_TEST_SEEDS=${QUIRE_TEST_SEEDS:-1000}
test_timeout=7200
check_before_release all
phase simulation simulate "${QUIRE_SIMULATION_SEEDS:-100000}"
phase "mutants of kernels" python3 tests/cuda/mutants.py . build/release
finish_with release
