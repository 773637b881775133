#include "kvcache/live_prefixes.h"

#include <algorithm>
#include <utility>

namespace quire {
namespace {

// A token, its share of the ids, and a node of the hash table with what the allocator adds.
uint64_t memory_of(const PrefixChain& chain) {
  constexpr uint64_t kNodeBytes = 64;
  return chain.tokens.size() * sizeof(int32_t) +
         chain.blocks() * (sizeof(BlockId) + sizeof(BlockNote) + kNodeBytes) + 256;
}

}  // namespace

LivePrefixes::~LivePrefixes() {
  for (const auto& [sequence, entry] : entries_) budget_.release(Use::kTables, entry.charged);
}

void LivePrefixes::enter(Sequence* sequence, const PrefixChain& chain) {
  cut(sequence, 0);
  if (chain.blocks() == 0) return;
  const uint64_t bytes = memory_of(chain);
  if (!budget_.try_reserve(Use::kTables, bytes)) return;
  const Entry& entry = entries_.emplace(sequence, Entry{sequence, chain, bytes}).first->second;
  for (const BlockId& id : entry.chain.ids) by_id_.emplace(id, sequence);
}

void LivePrefixes::copy(const Sequence* from, Sequence* to) {
  const auto found = entries_.find(from);
  if (found == entries_.end()) return;
  const PrefixChain chain = found->second.chain;  // entering may move the table
  enter(to, chain);
}

void LivePrefixes::unlink(const Entry& entry, size_t from) {
  for (size_t i = from; i < entry.chain.blocks(); ++i) {
    const auto [first, last] = by_id_.equal_range(entry.chain.ids[i]);
    const auto mine = std::find_if(first, last, [&](const auto& e) { return e.second == entry.sequence; });
    if (mine != last) by_id_.erase(mine);
  }
}

void LivePrefixes::cut(const Sequence* sequence, size_t blocks) {
  const auto found = entries_.find(sequence);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  if (blocks >= entry.chain.blocks()) return;
  unlink(entry, blocks);
  if (blocks > 0) {
    // The memory stays charged: the vectors keep their capacity.
    entry.chain.ids.resize(blocks);
    entry.chain.notes.resize(blocks);
    entry.chain.tokens.resize(blocks * entry.chain.page_tokens);
    return;
  }
  budget_.release(Use::kTables, entry.charged);
  entries_.erase(found);
}

size_t LivePrefixes::common_blocks(const Entry& entry, const PrefixChain& chain) {
  if (entry.chain.scope != chain.scope) return 0;
  const auto differ = std::mismatch(entry.chain.tokens.begin(), entry.chain.tokens.end(),
                                    chain.tokens.begin(), chain.tokens.end());
  return static_cast<size_t>(differ.first - entry.chain.tokens.begin()) / chain.page_tokens;
}

LivePrefixes::Holder LivePrefixes::find(const PrefixChain& chain, size_t block,
                                        const std::function<bool(const Sequence&)>& usable) const {
  const auto [first, last] = by_id_.equal_range(chain.ids[block]);
  for (auto it = first; it != last; ++it) {
    const Entry& entry = entries_.at(it->second);
    const size_t blocks = common_blocks(entry, chain);
    if (blocks > block && usable(*entry.sequence)) return {entry.sequence, blocks, entry.chain.notes};
  }
  return {};
}

}  // namespace quire
