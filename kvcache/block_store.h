// The seam to a store of blocks that outlives the cache: finds, loads and keeps whole blocks by their names.
//
// kvcache/ states the contract; offload/ implements it over a file. A chain is walked from its first block
// on: every call names the block before, as the store gave it out, so that a block counts only behind the
// very blocks that it was computed behind. Nothing that comes back needs to be trusted less than what went
// in: the store proves scope, tokens and bytes, or says kMiss. Thread safety: one thread at a time, except
// match and stats.
#pragma once

#include <cstdint>
#include <span>

#include "kvcache/prefix.h"
#include "kvcache/status.h"

namespace quire {

// A block of the store. serial 0: what stands before the first block.
struct StoredBlock {
  uint64_t serial = 0;  // never given to another block of the store
  uint32_t slot = 0;
};

struct BlockStoreStats {
  uint64_t capacity_blocks = 0;
  uint64_t blocks = 0;
  uint64_t file_bytes = 0;  // the byte cap, as whole blocks fill it
  // Since opening.
  uint64_t recovered_blocks = 0;  // found by the scan
  uint64_t refused_blocks = 0;    // headers that the scan did not accept, empty slots not counted
  uint64_t loaded_blocks = 0;
  uint64_t stored_blocks = 0;
  uint64_t evicted_blocks = 0;
  uint64_t damaged_blocks = 0;       // did not prove right when they were read, and were dropped
  uint64_t unaffordable_blocks = 0;  // not put because of the write budget
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
};

class BlockStore {
 public:
  virtual ~BlockStore() = default;

  // How many of the ids, from the first on, are there; a look at the index only. Any thread.
  virtual size_t match(std::span<const BlockId> ids) const = 0;

  // Block `block` of the chain behind `before`, proven by its header: scope, tokens, place in the chain.
  // Counts as a use of it and of all before it. kMiss when it is not there or not right.
  virtual Result<StoredBlock> find(const PrefixChain& chain, size_t block, const StoredBlock& before) = 0;
  // The same, its pages, and its note in chain->notes. bytes: aligned to 4096, block_bytes() rounded up to a
  // multiple of it.
  virtual Result<StoredBlock> load(PrefixChain* chain, size_t block, const StoredBlock& before,
                                   std::span<uint8_t> bytes) = 0;
  // Keeps a block that find did not find, and its note. bytes as for load; what is behind the last page
  // becomes zero. May evict blocks that were used longest ago, never one of this chain: then, and when what
  // may be written in a day has been written, kOverBudget.
  // What fails is not visible.
  virtual Result<StoredBlock> put(const PrefixChain& chain, size_t block, const StoredBlock& before,
                                  std::span<uint8_t> bytes) = 0;
  // When it returns kOk everything that was put before survives the process and the machine.
  virtual Status sync() = 0;
  // Any thread.
  virtual BlockStoreStats stats() const = 0;
};

}  // namespace quire
