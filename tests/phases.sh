# shellcheck shell=bash
# The phases that tests/run.sh and tests/nightly.sh are made of; sourced, from the repository's root.
# Long output goes to build/logs; its end is shown when its phase fails.

logs=build/logs
mkdir -p "$logs"
jobs=$(nproc)
test_timeout=600  # seconds for one test
# GuardPages watches the bounds of the SIMD kernels instead; no sanitizer looks at Python; what the scalar table does for every
# pair of codecs it does for every codec at all shapes.
uninstrumented='^Isa/.*/(avx|amx)|golden_pages_in_python|trellis_tables|ForAllCodecPairs'
# Threads meet in the same places whatever the codec; a killed process has none, and these suites have one each.
same_threads='Codecs/.*/(f32|bf16|int|nuq|tcq|rot[23])|store_kill|[.](Eviction|PageCompressor|PersistentStoreTest|Select|SlotPool)[.]'
export CCACHE_DIR=${CCACHE_DIR:-$PWD/build/ccache}  # the SIMD kernels are the same in every build for this machine
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros}  # or it keeps nothing that has precompiled headers
summary=()        # one line per phase or test run, printed at the end

# GCC 12's thread sanitizer cannot start where the kernel randomizes addresses by more bits than it knows.
steady=()
if setarch -R true 2>/dev/null; then steady=(setarch -R); fi

# phase NAME COMMAND...: runs it, times it, stops the script when it fails.
phase() {
  local name=$1 start=$SECONDS code=0
  shift
  echo "== $name"
  "$@" || code=$?
  [[ $code -eq 0 ]] || { echo "FAILED: $name" >&2; exit "$code"; }
  summary+=("$(printf '%-20s %5d s' "$name" $((SECONDS - start)))")
}

# quietly LOG COMMAND...: the output goes to a file.
quietly() {
  local log=$logs/$1 code=0
  shift
  "$@" >"$log" 2>&1 || code=$?
  [[ $code -eq 0 ]] || { tail -n 60 "$log" >&2; echo "(all of it: $log)" >&2; }
  return "$code"
}

sources() {
  find "$@" -type f \( -name '*.h' -o -name '*.c' -o -name '*.cc' -o -name '*.hpp' -o -name '*.cpp' \
    -o -name '*.cu' -o -name '*.cuh' \)
}

check_format() {
  local unformatted
  unformatted=$(sources quant kvcache offload bindings bench tests | xargs clang-format --dry-run -Werror 2>&1 |
    sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error: .*/\1/p' | sort -u)
  [[ -z $unformatted ]] || { printf "Run clang-format -i on these:\n%s\n" "$unformatted" >&2; return 1; }
}

# The library's translation units, several sources in one, which are its headers then; and, as the tests compile them,
# those that need CUDA's.
check_tidy() {
  quietly configure-tidy.log cmake --preset release -B build/tidy -DCMAKE_UNITY_BUILD=ON -DQUIRE_TESTS=OFF -DQUIRE_BENCH=OFF \
    -DQUIRE_MICRO=OFF || return 1
  local database
  for database in build/tidy build/release; do
    sed -n "s|^ *\"file\": \"\($PWD/.*\.c[cx]x*\)\",*$|$database \1|p" "$database/compile_commands.json"
  done | sort -u | grep -E -e "^build/tidy .*/(quant|kvcache|offload|bindings)/" -e "/(kvcache|bindings)/[a-z_]*cuda\.cc$" |
    quietly clang-tidy.log xargs --max-procs="$jobs" --max-args=2 \
      clang-tidy --quiet --checks=-bugprone-suspicious-include -p
}

# What AArch64 alone compiles. clang shows the dot product only to whoever asks for it by flag.
check_tidy_aarch64() {
  quietly clang-tidy-aarch64.log clang-tidy --quiet -p build/aarch64 --extra-arg=-march=armv8.2-a+dotprod \
    quant/cpu/neon.cc quant/cpu/no_x86.cc
}

# build_preset PRESET TARGET CMAKE-OPTIONS...: several sources at a time, as most of what one takes to compile are headers.
build_preset() {
  local preset=$1 target=$2
  shift 2
  quietly "configure-$preset.log" cmake --preset "$preset" "$@" \
    -DCMAKE_UNITY_BUILD=ON -DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache &&
    quietly "build-$preset.log" "${steady[@]}" cmake --build --preset "$preset" --parallel "$jobs" --target "$target"
}

# run_ctest PRESET CTEST-OPTIONS...: runs tests, shows the failed ones, adds what was counted to the summary. One more than there
# are cores: some wait for the disk or for deadlines.
run_ctest() {
  local preset=$1 code=0 report=$logs/ctest-$1.log output=$logs/output-$1.log
  shift
  rm -f "$output"
  "${steady[@]}" ctest --preset "$preset" --parallel $((jobs + 1)) --timeout "$test_timeout" --no-label-summary \
    --no-tests=error --test-output-size-passed 1048576 "$@" >"$report" 2>&1 || code=$?
  cp "build/$preset/Testing/Temporary/LastTest.log" "$output" 2>/dev/null || touch "$output"
  [[ $code -eq 0 ]] || grep -v -e ' Passed ' -e '^ *Start ' "$report" >&2
  summary+=("$(sums "$preset")")
  while read -r line; do summary+=("$line"); done < <(skips "$preset")
  return "$code"
}

# The suites that depend on the architecture, on an emulated one. The engine's longest take minutes there, and the
# scalar table's bytes are seen by the tests that compare the other one's with them.
test_aarch64() {
  local too_long='SameBits|EveryGeometry|PreRope|/scalar'
  echo "left out under emulation: $too_long"
  run_ctest aarch64 --exclude-regex "$too_long"
}

# simulate SEEDS: lives of an engine in Release, five thousand at a time on every core. They take and give back large buffers all
# the time: kept by malloc, as in CI, they cost no page faults, which are a third of the time.
simulate() {
  local batch=5000
  seq 1 "$batch" "$1" | quietly simulation.log env MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=4000000000 \
    xargs --max-procs="$jobs" -I{} build/release/tests/simulation/quire_simulation --first {} --seeds "$batch"
}

# Without it the tests that read it are skipped, which the summary shows.
find_real_model() {
  QUIRE_SMOLLM2=$(bench/smollm2.sh) || QUIRE_SMOLLM2=
  export QUIRE_SMOLLM2
}

# Tests print lines such as "[counts] cases=10 seeds=4 faults=3"; this adds them up.
sums() {
  awk -v preset="$1" '
    /^\[counts\]/ { for (i = 2; i <= NF; i++) { split($i, pair, "="); sum[pair[1]] += pair[2] } }
    /^ *[0-9]+\/[0-9]+ Test +#/ { tests++; if (/\*\*\*(Skipped|Not Run)/) skipped++ }
    END {
      printf "%-20s %5d tests, %d skipped, %d cases, %d seeds, %d faults", "ran " preset, tests, skipped,
        sum["cases"], sum["seeds"], sum["faults"]
    }' "$logs/output-$1.log" "$logs/ctest-$1.log"
}

# "skipped NAME: REASON" of every test that did not run.
skips() {
  awk '
    /^[0-9]+\/[0-9]+ Testing: / { name = $3 }
    after_skip { reason[name] = reason[name] $0; after_skip = 0 }
    /: Skipped$/ { after_skip = 1 }
    /^ *[0-9]+\/[0-9]+ Test +#.*\*\*\*(Skipped|Not Run)/ { print "  skipped " $4 ": " reason[$4] }
  ' "$logs/output-$1.log" "$logs/ctest-$1.log"
}

# The last test run: its closing lines end the script, after the summary.
finish_with() {
  local preset=$1 code=0 start=$SECONDS
  echo "== test $preset"
  run_ctest "$preset" || code=$?
  summary+=("$(printf '%-20s %5d s' "test $preset" $((SECONDS - start)))"
    "$(printf '%-20s %5d s' "all of it" "$SECONDS")")
  echo "== summary"
  printf '%s\n' "${summary[@]}" ""
  sed -n '/tests passed, /,$p' "$logs/ctest-$preset.log"
  exit "$code"
}

# sanitized PRESET TARGET CTEST-OPTIONS...
sanitized() {
  local preset=$1 target=$2
  shift 2
  phase "build $preset" build_preset "$preset" "$target" -DQUIRE_MICRO=OFF
  phase "test $preset" run_ctest "$preset" "$@"
}

# check_before_release some|all: all phases but the tests in Release. Under ASan and UBSan run the core suites, under TSan
# those of them where threads meet; or every suite under both.
check_before_release() {
  local scope=$1
  phase packages bash .ci/packages build bench tests cross
  phase format check_format
  phase "build release" build_preset release all -DQUIRE_TESTS=ON -DQUIRE_BENCH=ON -DQUIRE_MICRO=ON
  phase clang-tidy check_tidy
  phase "real model" find_real_model
  if [[ $scope == all ]]; then
    sanitized asan+ubsan all
    sanitized tsan all
  else
    echo "left out under ASan and UBSan: $uninstrumented"
    sanitized asan+ubsan core_tests --label-regex core --exclude-regex "$uninstrumented"
    echo "left out under TSan: $same_threads"
    sanitized tsan threaded_tests --label-regex threads --exclude-regex "$same_threads"
  fi
  phase "build aarch64" build_preset aarch64 core_tests
  phase "clang-tidy aarch64" check_tidy_aarch64
  phase "test aarch64" test_aarch64
}
