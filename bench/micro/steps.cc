// quire-micro-steps ISA CODEC[/pre_rope] ROWS SECTIONS: the instructions that attention over so many sections
// takes, counted by a single step after another. Prints a line "offset-in-the-program count" for each;
// section_counts.py reads them.
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "bench/micro/attention.h"
#include "bench/micro/mac_peak.h"

namespace quire::micro {
namespace {

constexpr size_t kWarmPages = 48;  // the running maximum has settled: no later section lowers the state

// Counting goes from the call of one to the call of the other.
[[gnu::noinline]] void begin_counting() { asm volatile(""); }
[[gnu::noinline]] void end_counting() { asm volatile(""); }

uint64_t address_of(void (*function)()) { return reinterpret_cast<uint64_t>(function); }

// Where the program lies in memory.
uint64_t program_base() {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  std::getline(maps, line);
  uint64_t base = 0;
  std::from_chars(line.data(), line.data() + line.size(), base, 16);
  return base;
}

// Steps a stopped child through to the end of counting. False when the system does not allow it.
bool count_steps(pid_t child, std::map<uint64_t, uint64_t>* counts) {
  bool counting = false;
  for (;;) {
    user_regs_struct registers{};
    if (ptrace(PTRACE_GETREGS, child, nullptr, &registers) != 0) return false;
    counting |= registers.rip == address_of(&begin_counting);
    if (registers.rip == address_of(&end_counting)) return true;
    if (counting) ++(*counts)[registers.rip];
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return false;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return false;
  }
}

bool count_attention(Attention& attention, size_t sections, std::map<uint64_t, uint64_t>* counts) {
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
    (void)raise(SIGSTOP);
    begin_counting();
    attention.attend(0, 0, kWarmPages, kWarmPages + sections, nullptr);
    end_counting();
    _exit(0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return false;
  const bool counted = count_steps(child, counts);
  (void)kill(child, SIGKILL);
  (void)waitpid(child, &status, 0);
  return counted;
}

double nanoseconds_of(const std::function<void()>& run, int rounds) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(
        best, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void print_times(Attention& attention, const FoldedHeads& heads, Isa isa) {
  const uint8_t* first = heads.heads[0][0].section;
  const double call = nanoseconds_of([&] { attention.attend(0, 0, 0, kCallPages, first); }, 4000);
  const auto per_mac = [isa](Mac mac) {
    uint64_t macs = 1;
    const double burst = nanoseconds_of([&] { macs = mac_burst(isa, mac); }, 50);
    return burst / static_cast<double>(macs);
  };
  std::printf("%.1f %.6f %.6f\n", call / kCallPages, per_mac(integer_mac(isa)), per_mac(float_mac(isa)));
}

const Kernels* table_named(const std::string& name) {
  for (const Isa isa : {Isa::kAvx512, Isa::kAvxVnni, Isa::kAvx2}) {
    if (name == isa_name(isa)) return find_kernels(isa);
  }
  return nullptr;
}

int run(const std::string& isa, const std::string& keys, int rows, int sections) {
  const Kernels* kernels = table_named(isa);
  const size_t slash = std::min(keys.find('/'), keys.size());
  const CodecInfo* codec = find_codec(std::string_view(keys).substr(0, slash));
  const bool pre_rope = keys.substr(slash) == "/pre_rope";
  if (slash < keys.size() && !pre_rope) codec = nullptr;
  if (kernels == nullptr || codec == nullptr || rows < 1 || rows > 64 || sections < 0 || sections > 16) {
    std::fprintf(stderr,
                 "usage: quire-micro-steps ISA CODEC[/pre_rope] ROWS SECTIONS, an instruction set that this "
                 "machine has, a "
                 "codec, 1 to 64 rows, 0 to 16 sections\n");
    return 2;
  }
  const PageKind kind{codec->id, codec->id, pre_rope ? KeySpace::kPreRope : KeySpace::kPostRope,
                      0,         1,         {64, 128}};
  const FoldedHeads heads = make_folded_heads(*kernels, kind, size_t{64} * 64, 1);
  const std::vector<float> q = make_queries(static_cast<size_t>(rows), kind.shape.dim);
  Attention attention(*kernels, heads, 1, static_cast<uint32_t>(rows), q);
  attention.clear();
  for (size_t page = 0; page < kWarmPages; page += kCallPages)
    attention.attend(0, 0, page, page + kCallPages, nullptr);
  if (sections == 0) {
    print_times(attention, heads, kernels->isa);
    return 0;
  }
  std::map<uint64_t, uint64_t> counts;
  if (!count_attention(attention, static_cast<size_t>(sections), &counts)) {
    std::fprintf(stderr, "quire-micro-steps: the system does not allow a program to be traced here\n");
    return 1;
  }
  const uint64_t base = program_base();
  for (const auto& [address, count] : counts) {
    std::printf("%llx %llu\n", static_cast<unsigned long long>(address - base),
                static_cast<unsigned long long>(count));
  }
  return 0;
}

}  // namespace
}  // namespace quire::micro

int main(int argc, char** argv) {
  return quire::micro::run(argc == 5 ? argv[1] : "", argc == 5 ? argv[2] : "",
                           argc == 5 ? std::atoi(argv[3]) : 0, argc == 5 ? std::atoi(argv[4]) : 0);
}
