#!/usr/bin/env bash
# Every check of the repository: style, the core suites under the sanitizers, the kernels and the store on an emulated
# AArch64, all suites in Release; with a real pretrained model where PyPI can be reached.
# Needs no terminal and no argument, works from any folder; the last lines are ctest's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/phases.sh

phase packages bash .ci/packages build bench tests cross
phase format check_format
phase "build release" build_preset release all -DQUIRE_TESTS=ON -DQUIRE_BENCH=ON -DQUIRE_MICRO=ON
phase clang-tidy check_tidy release
for sanitizer in asan+ubsan tsan; do
  phase "build $sanitizer" build_preset "$sanitizer" core_tests -DQUIRE_MICRO=OFF
  phase "test $sanitizer" run_ctest "$sanitizer" --label-regex 'core|fault'
done
phase "real model" find_real_model
phase "build aarch64" build_preset aarch64 core_tests
phase "clang-tidy aarch64" check_tidy_aarch64
phase "test aarch64" test_aarch64
finish_with release
