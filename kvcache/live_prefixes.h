// Which blocks the live sequences hold, by name: pages in use are shared instead of loaded.
//
// A sequence is entered with its chain when it adopts or publishes, and leaves when it is freed; what a
// truncation takes away is cut off. Hits compare the tokens from the first on. Memory is charged to the host
// budget; a sequence that it has no room for is left out and just not found. Thread safety: the cache's
// compute stream only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "kvcache/budget.h"
#include "kvcache/prefix.h"

namespace quire {

struct Sequence;

class LivePrefixes {
 public:
  explicit LivePrefixes(Budget& budget) : budget_(budget) {}
  ~LivePrefixes();
  LivePrefixes(const LivePrefixes&) = delete;
  LivePrefixes& operator=(const LivePrefixes&) = delete;

  // The sequence's blocks are those of the chain; replaces what was entered for it.
  void enter(Sequence* sequence, const PrefixChain& chain);
  // to has the blocks of from.
  void copy(const Sequence* from, Sequence* to);
  // Only the first `blocks` are left; 0 takes the sequence out.
  void cut(const Sequence* sequence, size_t blocks);

  // A sequence that holds this block of the chain, for which `usable` is true, and how many blocks of the
  // chain it holds. No sequence when there is none.
  struct Holder {
    Sequence* sequence = nullptr;
    size_t blocks = 0;
    std::span<const BlockNote> notes;  // of its blocks; good until the next change
  };
  Holder find(const PrefixChain& chain, size_t block,
              const std::function<bool(const Sequence&)>& usable) const;

 private:
  struct Entry {
    Sequence* sequence = nullptr;
    PrefixChain chain;
    uint64_t charged = 0;
  };
  struct IdHash {
    size_t operator()(const BlockId& id) const { return id.low; }
  };
  void unlink(const Entry& entry, size_t from);
  static size_t common_blocks(const Entry& entry, const PrefixChain& chain);

  Budget& budget_;
  std::unordered_map<const Sequence*, Entry> entries_;
  std::unordered_multimap<BlockId, const Sequence*, IdHash> by_id_;
};

}  // namespace quire
