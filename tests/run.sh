#!/usr/bin/env bash
# Every check of the repository: style, the core suites under the sanitizers, the kernels and the store on an emulated
# AArch64, all suites in Release; with a real pretrained model where PyPI can be reached.
# Needs no terminal and no argument, works from any folder; the last lines are ctest's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/phases.sh
check_before_release some
finish_with release
