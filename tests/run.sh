#!/usr/bin/env bash
# Every check of the repository: style, the core suites under the sanitizers, all suites in Release.
# Needs no terminal and no argument, works from any folder; the last lines are ctest's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/phases.sh

phase packages bash .ci/packages build bench tests
phase format check_format
phase "build release" build_preset release all -DQUIRE_TESTS=ON -DQUIRE_BENCH=ON -DQUIRE_MICRO=ON
phase clang-tidy check_tidy release
for sanitizer in asan+ubsan tsan; do
  phase "build $sanitizer" build_preset "$sanitizer" core_tests -DQUIRE_MICRO=OFF
  phase "test $sanitizer" run_ctest "$sanitizer" --label-regex 'core|fault'
done
finish_with release
