// store_kill: kills a process at random moments while it publishes and evicts, and looks at what it left.
//
// Each round a child opens the store and puts chains of blocks into it, some more than fit, until SIGKILL.
// The parent then opens it and demands: every block that loads is bit for bit the truth; no header is refused
// and no page fails its checksum; of what was synced nothing is missing but what was evicted. What the child
// has done stands in memory that both share.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "offload/timed_store_file.h"
#include "tests/offload/made_blocks.h"
#include "tests/support/temporary_store.h"

namespace quire::testing {
namespace {

constexpr uint64_t kSlots = 70;  // in two groups; fewer than all chains have
constexpr size_t kFamilies = 6;
constexpr size_t kMembers = 6;
constexpr size_t kChains = kFamilies * kMembers;
constexpr size_t kBlocks = 6;

constexpr uint64_t kMostPuts = 6;  // of a child before it is killed
constexpr uint64_t kMostMicroseconds = 3000;
constexpr int kMostWaits = 200000;  // 20 s and more: a child that hangs is killed, too

struct Shared {
  std::array<std::atomic<uint32_t>, kChains> synced;  // blocks of each chain that must be there
  std::atomic<uint32_t> in_put;                       // a put is under way: it may evict one block
  std::atomic<uint64_t> opens, puts, evictions;
};

PrefixChain chain_number(size_t number) { return made_chain(number / kMembers, number % kMembers, kBlocks); }

std::unique_ptr<PersistentStore> open_store(const std::string& path, Budget& budget) {
  static const SteadyClock clock;
  const StoreFileOptions options{std::chrono::seconds(30), uint64_t{64} * 4096, {}};
  auto file = open_store_file(path, options, clock, budget);
  if (!file.ok()) {
    std::fprintf(stderr, "store_kill: %s\n", file.status().message().c_str());
    return nullptr;
  }
  auto store = PersistentStore::open(std::move(*file), made_options(kSlots), budget);
  if (!store.ok()) {
    std::fprintf(stderr, "store_kill: %s\n", store.status().message().c_str());
    return nullptr;
  }
  return std::move(*store);
}

// What is evicted may be missing from now on.
void note_evictions(const PersistentStore& store, const std::array<PrefixChain, kChains>& chains,
                    Shared* shared) {
  for (size_t i = 0; i < kChains; ++i) {
    const auto there = static_cast<uint32_t>(store.match(chains[i].ids));
    if (there < shared->synced[i]) shared->synced[i] = there;
  }
}

[[noreturn]] void live(const std::string& path, uint64_t seed, Shared* shared) {
  Budget budget(16 << 20);
  auto store = open_store(path, budget);
  if (store == nullptr) _exit(3);
  ++shared->opens;
  std::array<PrefixChain, kChains> chains;
  for (size_t i = 0; i < kChains; ++i) chains[i] = chain_number(i);
  std::mt19937_64 random(seed);
  BlockBuffer buffer;
  for (;;) {
    const size_t number = random() % kChains;
    PrefixChain chain = chains[number];
    const size_t wanted = 1 + random() % kBlocks;
    StoredBlock before;
    for (size_t block = 0; block < wanted; ++block) {
      Result<StoredBlock> at = store->find(chain, block, before);
      if (!at.ok()) {
        make_block(chain, block, buffer.span());
        const uint64_t evicted = store->stats().evicted_blocks;
        shared->in_put = 1;
        at = store->put(chain, block, before, buffer.span());
        if (store->stats().evicted_blocks != evicted) {
          note_evictions(*store, chains, shared);
          ++shared->evictions;
        }
        shared->in_put = 0;
        ++shared->puts;
      }
      if (!at.ok()) _exit(4);
      before = *at;
    }
    if (!store->sync().ok()) _exit(5);
    shared->synced[number] = std::max<uint32_t>(shared->synced[number], static_cast<uint32_t>(wanted));
  }
}

struct Verdict {
  uint64_t loaded = 0;
  uint64_t faults = 0;
};

void fault(Verdict* verdict, const std::string& what) {
  std::fprintf(stderr, "store_kill: %s\n", what.c_str());
  ++verdict->faults;
}

void judge(const std::string& path, Shared* shared, Verdict* verdict) {
  Budget budget(16 << 20);
  auto store = open_store(path, budget);
  if (store == nullptr) return fault(verdict, "the store does not open after a kill");
  const BlockStoreStats opened = store->stats();
  if (opened.refused_blocks != 0)
    fault(verdict, std::to_string(opened.refused_blocks) + " headers are refused");
  BlockBuffer buffer;
  uint64_t missing = 0;
  uint64_t wrong = 0;
  for (size_t i = 0; i < kChains; ++i) {
    const PrefixChain chain = chain_number(i);
    const size_t there = load_chain(*store, chain, buffer, &wrong);
    verdict->loaded += there;
    if (there < shared->synced[i]) missing += shared->synced[i] - there;
    shared->synced[i] = static_cast<uint32_t>(there);
  }
  if (wrong != 0) fault(verdict, std::to_string(wrong) + " blocks are not the truth");
  if (store->stats().damaged_blocks != 0) fault(verdict, "blocks are damaged");
  // The common blocks of a family count once for each of its members.
  const uint64_t allowed = shared->in_put != 0 ? kMembers : 0;
  if (missing > allowed) fault(verdict, std::to_string(missing) + " synced blocks are missing");
}

int run(uint64_t kills, uint64_t seed) {
  const TemporaryStore file;
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  auto* shared = new (memory) Shared();
  std::mt19937_64 random(seed);
  Verdict verdict;
  uint64_t while_putting = 0;
  uint64_t while_opening = 0;
  for (uint64_t kill_number = 0; kill_number < kills && verdict.faults == 0; ++kill_number) {
    const uint64_t child_seed = random();
    const uint64_t opens = shared->opens;
    shared->in_put = 0;
    const pid_t child = ::fork();
    if (child < 0) return 1;
    if (child == 0) live(file.path(), child_seed, shared);
    // One kill in eight comes while the store is being opened or soon after; the others after so many puts,
    // however long those take, and a random moment.
    const bool early = random() % 8 == 0;
    const uint64_t puts = shared->puts + random() % kMostPuts;
    const auto soon = static_cast<useconds_t>(random() % kMostMicroseconds);
    const auto too_early = [&] { return !early && (shared->opens == opens || shared->puts < puts); };
    for (int i = 0; i < kMostWaits && too_early(); ++i) ::usleep(100);
    ::usleep(soon);
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
      fault(&verdict, "the child ended by itself, wait status " + std::to_string(status));
    }
    while_opening += shared->opens == opens ? 1 : 0;
    while_putting += shared->in_put != 0 ? 1 : 0;
    judge(file.path(), shared, &verdict);
  }
  std::printf(
      "[counts] kills=%llu while_opening=%llu while_putting=%llu puts=%llu evictions=%llu loaded_blocks=%llu "
      "seed=%llu faults=%llu\n",
      static_cast<unsigned long long>(kills), static_cast<unsigned long long>(while_opening),
      static_cast<unsigned long long>(while_putting), static_cast<unsigned long long>(shared->puts),
      static_cast<unsigned long long>(shared->evictions), static_cast<unsigned long long>(verdict.loaded),
      static_cast<unsigned long long>(seed), static_cast<unsigned long long>(verdict.faults));
  // A run that never met what it is about proves nothing.
  const bool met = kills < 100 || (while_putting > 0 && shared->evictions > 0 && verdict.loaded > 0);
  if (!met) std::fprintf(stderr, "store_kill: no kill came while a block was put, or nothing was evicted\n");
  return verdict.faults == 0 && met ? 0 : 1;
}

}  // namespace
}  // namespace quire::testing

int main(int argc, char** argv) {
  uint64_t kills = 200;
  uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--kills") == 0 && has_value) {
      kills = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--seed") == 0 && has_value) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      const bool help = std::strcmp(argv[i], "--help") == 0;
      std::fprintf(
          help ? stdout : stderr,
          "usage: store_kill [--kills N] [--seed N]   kills a process that writes a store of blocks, "
          "and judges what it left\nexample: store_kill --kills 10000\n");
      return help ? 0 : 2;
    }
  }
  return quire::testing::run(kills, seed);
}
