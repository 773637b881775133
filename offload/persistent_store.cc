#include "offload/persistent_store.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "offload/tier.h"

namespace quire {
namespace {

Status not_there(size_t block) {
  return {StatusCode::kMiss, "block " + std::to_string(block) + " is not in the store"};
}

std::string bytes_text(uint64_t bytes) { return std::to_string(bytes) + " bytes"; }

}  // namespace

Result<std::unique_ptr<PersistentStore>> PersistentStore::open(std::unique_ptr<StoreFile> file,
                                                               const PersistentStoreOptions& options,
                                                               Budget& host_budget) {
  std::unique_ptr<PersistentStore> store(new PersistentStore(std::move(file), options, host_budget));
  if (Status status = store->start(); !status.ok()) return status;
  return store;
}

PersistentStore::~PersistentStore() { host_budget_.release(Use::kTables, charged_); }

// ---- opening ----

Status PersistentStore::start() {
  const uint64_t slots = options_.shape.slots_in(options_.budget);
  if (slots == 0) {
    return invalid("store_budget of " + bytes_text(options_.budget) + " holds no block; give at least " +
                   std::to_string(options_.shape.bytes_for(1)));
  }
  if (slots >= kNoSlot) return invalid("store_budget of " + bytes_text(options_.budget) + " is too large");
  if (Status status = reserve_memory(slots); !status.ok()) return status;
  if (Status status = read_superblocks(); !status.ok()) return status;
  const bool is_new = superblock_.epoch == 0;
  if (is_new) superblock_ = {options_.new_file, 0, options_.shape};
  // Blocks beyond the cap are gone; zeros, where the file was shorter, are no blocks.
  if (Status status = file_->resize(shape().bytes_for(slots)); !status.ok()) return status;
  if (Status status = take_epoch(); !status.ok()) return status;
  return is_new ? Status() : scan(slots);
}

Status PersistentStore::reserve_memory(uint64_t slots) {
  const uint64_t bytes = BlockIndex::memory_bytes(static_cast<uint32_t>(slots));
  if (!host_budget_.try_reserve(Use::kTables, bytes)) return host_budget_.refusal(Use::kTables, bytes);
  charged_ = bytes;
  index_ = BlockIndex(static_cast<uint32_t>(slots));
  const size_t header = std::max(options_.shape.header_bytes, kSuperblockBytes);
  Result<BudgetedBytes> block = BudgetedBytes::allocate(host_budget_, Use::kTables, header);
  if (!block.ok()) return block.status();
  header_ = std::move(*block);
  return {};
}

Status PersistentStore::read_superblocks() {
  const std::span<uint8_t, kSuperblockBytes> block(header_.data(), kSuperblockBytes);
  const Result<uint64_t> size = file_->size();
  if (!size.ok()) return size.status();
  // Whoever makes a file writes the first half of the copies, syncs and writes the second: where there is no
  // whole copy, and nothing in the second half, nothing was ever stored.
  Superblock best;
  bool is_unfinished = true;
  Status unreadable;
  for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) {
    const uint64_t offset = uint64_t{copy} * kSuperblockBytes;
    if (offset >= *size) continue;
    const Status status = file_->read(offset, block);
    if (status.code() == StatusCode::kDeadline) return status;
    // A copy that cannot be read is as good as a torn one, while there are others.
    if (!status.ok()) {
      unreadable = status;
      continue;
    }
    const bool is_blank = std::ranges::all_of(block, [](uint8_t b) { return b == 0; });
    const bool begun = copy < kSuperblockCopies / 2 && begins_superblock(block);
    is_unfinished = is_unfinished && (is_blank || begun);
    const Result<Superblock> found = parse_superblock(block, copy);
    if (found.ok() && found->epoch > best.epoch) best = *found;
  }
  // What a disk does not give now may be whole: nobody is to delete it for that.
  if (best.epoch == 0 && !unreadable.ok()) return unreadable;
  if (best.epoch == 0 && is_unfinished) return {};
  if (best.epoch == 0) {
    return invalid("'" + file_->name() +
                   "' is no store of this version, or all copies of its superblock are damaged; name another "
                   "file, or delete it to begin anew");
  }
  if (best.shape != options_.shape) {
    return invalid(
        "the store '" + file_->name() +
        "' holds blocks of another geometry, page size, codec or layer params; name another file, or "
        "delete it to begin anew");
  }
  superblock_ = best;
  return {};
}

Status PersistentStore::take_epoch() {
  // Copies that are whole to a reader, but were never synced, are not to be all there are while others are
  // written.
  if (Status status = file_->sync(); !status.ok()) return status;
  ++superblock_.epoch;
  const std::span<uint8_t, kSuperblockBytes> block(header_.data(), kSuperblockBytes);
  // In two halves, so that the copies of one half are whole at any time.
  for (uint32_t copy = 0; copy < kSuperblockCopies; ++copy) {
    write_superblock(superblock_, copy, block);
    Status status = file_->write(uint64_t{copy} * kSuperblockBytes, block);
    if (status.ok() && copy % 2 == 1) status = file_->sync();
    if (!status.ok()) return status;
  }
  return {};
}

Status PersistentStore::scan(uint64_t slots) {
  const uint64_t header_bytes = shape().header_bytes;
  Result<BudgetedBytes> buffer =
      BudgetedBytes::allocate(host_budget_, Use::kWork, kGroupSlots * header_bytes);
  if (!buffer.ok()) return buffer.status();
  // Blocks of this epoch cannot be there yet; where they are, the superblocks are older than the rest.
  Superblock past = superblock_;
  --past.epoch;
  std::vector<BlockHeader> found;
  for (uint64_t first = 0; first < slots; first += kGroupSlots) {
    const uint64_t count = std::min<uint64_t>(kGroupSlots, slots - first);
    const std::span<uint8_t> bytes(buffer->data(), count * header_bytes);
    const Status status = file_->read(shape().header_offset(first), bytes);
    // What a slow disk has may be whole: it is not to be taken for free.
    if (status.code() == StatusCode::kDeadline) return status;
    if (!status.ok()) {
      counts_.refused_blocks += count;
      continue;
    }
    counts_.read_bytes += bytes.size();
    for (uint64_t i = 0; i < count; ++i) {
      Result<BlockHeader> header =
          parse_block_header(bytes.subspan(i * header_bytes, header_bytes), past, first + i);
      if (header.ok()) {
        // The scan keeps what the index needs.
        header->tokens = {};
        header->checksums = {};
        found.push_back(std::move(*header));
      } else if (header.status().code() != StatusCode::kMiss) {
        ++counts_.refused_blocks;
      }
    }
  }
  recover(&found);
  return {};
}

// By rising serial a block comes after the one that it stands behind.
void PersistentStore::recover(std::vector<BlockHeader>* found) {
  std::ranges::sort(*found, {}, &BlockHeader::serial);
  std::vector<bool> taken(index_.slots());
  const auto slot_of = [&](uint64_t serial) -> uint32_t {
    const auto at = std::ranges::lower_bound(*found, serial, {}, &BlockHeader::serial);
    const bool there = at != found->end() && at->serial == serial && taken[at->slot];
    return there ? static_cast<uint32_t>(at->slot) : kNoSlot;
  };
  for (uint32_t slot = 0; slot < index_.slots(); ++slot) index_.take_free();
  for (const BlockHeader& header : *found) {
    const auto slot = static_cast<uint32_t>(header.slot);
    const uint32_t before = header.before == 0 ? kNoSlot : slot_of(header.before);
    if (header.before != 0 && before == kNoSlot) {
      ++counts_.refused_blocks;  // what it stood behind is gone
      continue;
    }
    // Of two blocks of a name the older one was given up.
    if (const uint32_t older = index_.find(header.id); older != kNoSlot) {
      std::vector<uint32_t> freed;
      index_.erase(older, &freed);
      for (const uint32_t s : freed) taken[s] = false;
      counts_.refused_blocks += freed.size();
      if (before != kNoSlot && !taken[before]) continue;
    }
    index_.insert(slot, header.id, header.serial, before);
    taken[slot] = true;
  }
  counts_.recovered_blocks = index_.blocks();
  for (uint32_t slot = index_.slots(); slot-- > 0;) {
    if (!taken[slot]) index_.give_back(slot);
  }
}

// ---- finding and loading ----

size_t PersistentStore::match(std::span<const BlockId> ids) const {
  const std::scoped_lock lock(mutex_);
  size_t blocks = 0;
  uint32_t before = kNoSlot;
  for (; blocks < ids.size(); ++blocks) {
    const uint32_t slot = index_.find(ids[blocks]);
    if (slot == kNoSlot || index_.before(slot) != before) break;
    before = slot;
  }
  return blocks;
}

Result<BlockHeader> PersistentStore::read_header(uint32_t slot) {
  const std::span<uint8_t> block(header_.data(), shape().header_bytes);
  if (Status status = file_->read(shape().header_offset(slot), block); !status.ok()) return status;
  {
    const std::scoped_lock lock(mutex_);
    counts_.read_bytes += block.size();
  }
  return parse_block_header(block, superblock_, slot);
}

uint64_t PersistentStore::data_bytes_of(size_t block) const {
  const std::span<const uint32_t> pages = pages_of(block);
  return std::accumulate(pages.begin(), pages.end(), uint64_t{0});
}

// The header of the chain's block, when everything in it is what was asked for.
Result<BlockHeader> PersistentStore::prove(const PrefixChain& chain, size_t block, const StoredBlock& before,
                                           uint32_t* slot) {
  uint64_t serial = 0;
  {
    const std::scoped_lock lock(mutex_);
    *slot = index_.find(chain.ids[block]);
    if (*slot == kNoSlot) return not_there(block);
    serial = index_.serial(*slot);
  }
  Result<BlockHeader> header = read_header(*slot);
  if (header.status().code() == StatusCode::kDeadline) return not_there(block);
  if (!header.ok() || header->serial != serial || header->id != chain.ids[block]) {
    drop(*slot);
    return not_there(block);
  }
  // Another block with the same hash, or one that stands behind another block: right, but not the one.
  const std::span<const int32_t> tokens = chain.block_tokens(block);
  if (header->before != before.serial || header->index != block || header->scope != chain.scope ||
      !std::ranges::equal(header->tokens, tokens) || header->data_bytes != data_bytes_of(block)) {
    return not_there(block);
  }
  const std::scoped_lock lock(mutex_);
  index_.touch(*slot);
  return header;
}

Status PersistentStore::erase_header(uint32_t slot) {
  const std::span<uint8_t> block(header_.data(), shape().header_bytes);
  std::ranges::fill(block, uint8_t{0});
  return file_->write(shape().header_offset(slot), block);
}

// Takes the bytes from the write budget.
bool PersistentStore::may_write(uint64_t bytes) {
  return options_.write_budget == nullptr ||
         options_.write_budget->take_of_half(bytes, options_.clock->now());
}

void PersistentStore::drop(uint32_t slot) {
  // Where it fails, or may not be written, the next process finds the block, and its damage, again.
  if (may_write(shape().header_bytes)) {
    [[maybe_unused]] const Status erased = erase_header(slot);
  }
  const std::scoped_lock lock(mutex_);
  std::vector<uint32_t> freed;
  index_.erase(slot, &freed);
  for (const uint32_t s : freed) index_.give_back(s);
  counts_.damaged_blocks += freed.size();
}

Result<StoredBlock> PersistentStore::find(const PrefixChain& chain, size_t block, const StoredBlock& before) {
  uint32_t slot = kNoSlot;
  const Result<BlockHeader> header = prove(chain, block, before, &slot);
  if (!header.ok()) return header.status();
  return StoredBlock{header->serial, slot};
}

Result<StoredBlock> PersistentStore::load(PrefixChain* chain, size_t block, const StoredBlock& before,
                                          std::span<uint8_t> bytes) {
  uint32_t slot = kNoSlot;
  const Result<BlockHeader> header = prove(*chain, block, before, &slot);
  if (!header.ok()) return header.status();
  const std::span<const uint32_t> pages = pages_of(block);
  const uint64_t length = run_align_up(header->data_bytes);
  if (Status status = file_->read(shape().data_offset(slot), bytes.first(length)); !status.ok()) {
    if (status.code() == StatusCode::kDeadline) return not_there(block);
    drop(slot);
    return status;
  }
  size_t at = 0;
  bool right = true;
  for (size_t i = 0; i < pages.size() && right; ++i) {
    right = page_checksum(bytes.subspan(at, pages[i])) == header->checksums[i];
    at += pages[i];
  }
  if (!right) {
    drop(slot);
    return not_there(block);
  }
  chain->notes[block] = header->note;
  const std::scoped_lock lock(mutex_);
  counts_.read_bytes += length;
  ++counts_.loaded_blocks;
  return StoredBlock{header->serial, slot};
}

// ---- storing ----

// Room for a block behind `before`.
Result<uint32_t> PersistentStore::take_slot(const StoredBlock& before, bool first) {
  const std::scoped_lock lock(mutex_);
  if (const uint32_t slot = index_.take_free(); slot != kNoSlot) return slot;
  const uint32_t victim = index_.oldest();
  if (victim == kNoSlot || (!first && victim == before.slot)) {
    return Status(StatusCode::kOverBudget,
                  "the store '" + file_->name() + "' is full of the blocks before; raise store_budget");
  }
  std::vector<uint32_t> freed;
  index_.erase(victim, &freed);
  counts_.evicted_blocks += freed.size();
  return victim;
}

Status PersistentStore::write_block(const BlockHeader& header, std::span<const uint8_t> bytes) {
  if (Status status = erase_header(static_cast<uint32_t>(header.slot)); !status.ok()) return status;
  if (Status status = file_->write(shape().data_offset(header.slot), bytes); !status.ok()) return status;
  const std::span<uint8_t> block(header_.data(), shape().header_bytes);
  write_block_header(header, shape(), block);
  return file_->write(shape().header_offset(header.slot), block);
}

Result<StoredBlock> PersistentStore::put(const PrefixChain& chain, size_t block, const StoredBlock& before,
                                         std::span<uint8_t> bytes) {
  if (next_number_ == UINT32_MAX)
    return Status(StatusCode::kOverBudget,
                  "the store has given out all serials of this opening; open it again");
  BlockHeader header;
  uint64_t at = 0;
  for (const uint32_t length : pages_of(block)) {
    header.checksums.push_back(page_checksum(bytes.subspan(at, length)));
    at += length;
  }
  header.data_bytes = at;
  const std::span<uint8_t> data = bytes.first(run_align_up(at));
  // The padding: what was in the buffer before may be another tenant's.
  std::ranges::fill(data.subspan(at), uint8_t{0});
  {
    // A block of the same name that is not this one: behind a block that is gone, or of the same hash.
    const std::scoped_lock lock(mutex_);
    // It may have been dropped since, as damaged and of the same hash as this one.
    const bool is_behind = block == 0 || index_.serial(before.slot) == before.serial;
    if (!is_behind) return Status(StatusCode::kMiss, "the store has dropped the block before");
    const uint32_t other = index_.find(chain.ids[block]);
    if (other != kNoSlot) return Status(StatusCode::kMiss, "the store holds another block of this name");
  }
  const uint64_t written_bytes = 2 * uint64_t{shape().header_bytes} + data.size();
  if (!may_write(written_bytes)) {
    const std::scoped_lock lock(mutex_);
    ++counts_.unaffordable_blocks;
    return Status(StatusCode::kOverBudget, "nvme_write_budget_per_day is used up for now; publish later");
  }
  const Result<uint32_t> slot = take_slot(before, block == 0);
  if (!slot.ok()) return slot.status();
  header.file = superblock_.file;
  header.slot = *slot;
  header.serial = uint64_t{superblock_.epoch} << kEpochShift | next_number_++;
  header.before = before.serial;
  header.index = block;
  header.id = chain.ids[block];
  header.scope = chain.scope;
  header.note = chain.notes[block];
  const std::span<const int32_t> tokens = chain.block_tokens(block);
  header.tokens.assign(tokens.begin(), tokens.end());
  Status written = write_block(header, data);
  unsynced_ = true;
  const std::scoped_lock lock(mutex_);
  if (!written.ok()) {
    index_.give_back(*slot);
    return written;
  }
  index_.insert(*slot, header.id, header.serial, block == 0 ? kNoSlot : before.slot);
  ++counts_.stored_blocks;
  counts_.written_bytes += written_bytes;
  return StoredBlock{header.serial, *slot};
}

Status PersistentStore::sync() {
  if (!unsynced_) return {};
  Status status = file_->sync();
  unsynced_ = !status.ok();
  return status;
}

BlockStoreStats PersistentStore::stats() const {
  const std::scoped_lock lock(mutex_);
  BlockStoreStats out = counts_;
  out.capacity_blocks = index_.slots();
  out.blocks = index_.blocks();
  out.file_bytes = shape().bytes_for(index_.slots());
  return out;
}

}  // namespace quire
