// The functions of the C API that reuse prefixes.
#include <algorithm>

#include "bindings/c/api.h"
#include "bindings/c/options.h"

namespace {

using quire::invalid;
using quire::PrefixChain;
using quire::Result;
using quire::Status;
using quire::capi::CacheObject;
using quire::capi::find_cache;
using quire::capi::find_sequence;
using quire::capi::Found;
using quire::capi::guarded_with;
using quire::capi::SequenceObject;

Result<PrefixChain> checked_chain(const quire_prefix* prefix, const quire::Engine& engine) {
  if (prefix == nullptr) return invalid("prefix is NULL");
  return quire::chain_of(*prefix, engine);
}

}  // namespace

void quire_prefix_init(quire_prefix* prefix) {
  if (prefix == nullptr) return;
  *prefix = {};
  prefix->struct_size = sizeof *prefix;
}

quire_status quire_prefix_match(quire_cache* cache, const quire_prefix* prefix, uint64_t* tokens) {
  return guarded_with(find_cache(cache), [&](const Found<CacheObject>& found) -> Status {
    if (tokens == nullptr) return invalid("the out pointer is NULL");
    const Result<PrefixChain> chain = checked_chain(prefix, *found.object->engine);
    if (!chain.ok()) return chain.status();
    const Result<uint64_t> matched = found.object->engine->prefixes().match(*chain);
    if (!matched.ok()) return matched.status();
    *tokens = *matched;
    return {};
  });
}

quire_status quire_prefix_adopt(quire_sequence* sequence, const quire_prefix* prefix, uint64_t* tokens) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    if (tokens == nullptr) return invalid("the out pointer is NULL");
    Result<PrefixChain> chain = checked_chain(prefix, *found.object->engine);
    if (!chain.ok()) return chain.status();
    const Result<uint64_t> adopted = found.object->engine->prefixes().adopt(found.object->sequence, &*chain);
    if (!adopted.ok()) return adopted.status();
    *tokens = *adopted;
    if (prefix->notes == nullptr) return {};
    for (size_t i = 0; i < *adopted / chain->page_tokens; ++i) {
      std::copy(chain->notes[i].begin(), chain->notes[i].end(), prefix->notes + i * quire::kNoteBytes);
    }
    return {};
  });
}

quire_status quire_prefix_publish(quire_sequence* sequence, const quire_prefix* prefix, uint64_t* blocks) {
  return guarded_with(find_sequence(sequence), [&](const Found<SequenceObject>& found) -> Status {
    const Result<PrefixChain> chain = checked_chain(prefix, *found.object->engine);
    if (!chain.ok()) return chain.status();
    const Result<uint64_t> stored = found.object->engine->prefixes().publish(found.object->sequence, *chain);
    if (!stored.ok()) return stored.status();
    if (blocks != nullptr) *blocks = *stored;
    return {};
  });
}
