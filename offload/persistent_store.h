// A store of blocks in one named file, found again by the next process. STORE.md is the file format.
//
// What is written: the erased header of the slot, the pages, the header. So a header is there only when its
// pages are, whenever the process ends; when the machine ends, in whatever order its disk wrote, pages that
// do not match their header are found by their checksums. What is read counts only after its header has
// proven scope, tokens and place in the chain, and its pages their checksums; anything else is dropped with
// all that stands behind it. A disk that does not answer in time (store_file.h) makes misses of what it was
// asked for and harms nothing else: blocks stay, and a slot is written again only when no earlier write can
// still reach it. Invariants: the file never grows beyond the byte cap; evicted is the block that
// was used longest ago, never one of the chain at work. Thread safety: as BlockStore says.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "kvcache/block_store.h"
#include "kvcache/budget.h"
#include "offload/block_index.h"
#include "offload/store_file.h"
#include "offload/store_format.h"
#include "offload/write_budget.h"

namespace quire {

struct PersistentStoreOptions {
  StoreShape shape;
  std::array<std::vector<uint32_t>, 2> pages;  // block_pages of the first block, and of all others
  uint64_t budget = 0;                         // bytes of the file, all counted
  FileId new_file{};                           // random, for a file that is made
  SharedWriteBudget* write_budget = nullptr;   // nullptr: no limit; else it and the clock outlive the store
  const Clock* clock = nullptr;
};

class PersistentStore final : public BlockStore {
 public:
  // Makes the store in an empty file, or reads which blocks there are: one read per 64 slots. Tables and a
  // header are charged to the host budget, which outlives the store. kInvalid when the file is no store, or
  // one of another shape: nothing in it is changed then.
  static Result<std::unique_ptr<PersistentStore>> open(std::unique_ptr<StoreFile> file,
                                                       const PersistentStoreOptions& options,
                                                       Budget& host_budget);
  ~PersistentStore() override;

  size_t match(std::span<const BlockId> ids) const override;
  Result<StoredBlock> find(const PrefixChain& chain, size_t block, const StoredBlock& before) override;
  Result<StoredBlock> load(PrefixChain* chain, size_t block, const StoredBlock& before,
                           std::span<uint8_t> bytes) override;
  Result<StoredBlock> put(const PrefixChain& chain, size_t block, const StoredBlock& before,
                          std::span<uint8_t> bytes) override;
  Status sync() override;
  BlockStoreStats stats() const override;

 private:
  PersistentStore(std::unique_ptr<StoreFile> file, const PersistentStoreOptions& options, Budget& host_budget)
      : file_(std::move(file)), options_(options), host_budget_(host_budget), index_(0) {}

  Status start();
  // The newest of the copies; none of it when the file has nothing but zeros there.
  Status read_superblocks();
  Status take_epoch();
  Status reserve_memory(uint64_t slots);
  Status scan(uint64_t slots);
  void recover(std::vector<BlockHeader>* found);
  uint64_t data_bytes_of(size_t block) const;

  const StoreShape& shape() const { return options_.shape; }
  std::span<const uint32_t> pages_of(size_t block) const { return options_.pages[block == 0 ? 0 : 1]; }
  Result<BlockHeader> read_header(uint32_t slot);
  Result<BlockHeader> prove(const PrefixChain& chain, size_t block, const StoredBlock& before,
                            uint32_t* slot);
  void drop(uint32_t slot);
  Status erase_header(uint32_t slot);
  bool may_write(uint64_t bytes);
  Result<uint32_t> take_slot(const StoredBlock& before, bool first);
  Status write_block(const BlockHeader& header, std::span<const uint8_t> bytes);

  std::unique_ptr<StoreFile> file_;
  const PersistentStoreOptions options_;
  Budget& host_budget_;
  uint64_t charged_ = 0;  // of the index
  Superblock superblock_;
  uint32_t next_number_ = 1;  // of serials in this epoch
  BudgetedBytes header_;      // one header block, and its read buffer
  bool unsynced_ = false;     // blocks were put since the last sync
  mutable std::mutex mutex_;  // guards what follows; files are not touched under it
  BlockIndex index_;
  BlockStoreStats counts_;
};

}  // namespace quire
