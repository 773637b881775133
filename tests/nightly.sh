#!/usr/bin/env bash
# What needs longer than tests/run.sh allows: every suite under every sanitizer, with many seeds.
# QUIRE_TEST_SEEDS (default 1000) is the number of seeds that seeded suites run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/phases.sh
export QUIRE_TEST_SEEDS=${QUIRE_TEST_SEEDS:-1000}
test_timeout=7200

phase packages bash .ci/packages build bench tests cross
phase format check_format
phase "build release" build_preset release all -DQUIRE_TESTS=ON -DQUIRE_BENCH=ON -DQUIRE_MICRO=ON
phase clang-tidy check_tidy release
for sanitizer in asan+ubsan tsan; do
  phase "build $sanitizer" build_preset "$sanitizer" all -DQUIRE_MICRO=OFF
  phase "test $sanitizer" run_ctest "$sanitizer"
done
phase "mutants of kernels" python3 tests/cuda/mutants.py . build/release
phase "build aarch64" build_preset aarch64 core_tests
phase "clang-tidy aarch64" check_tidy_aarch64
phase "test aarch64" test_aarch64
finish_with release
