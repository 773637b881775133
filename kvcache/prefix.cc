#include "kvcache/prefix.h"

#include <xxhash.h>

#include "quant/bytes.h"

namespace quire {
namespace {

// Tags of hashed fields. Stored ids depend on them: never reuse one.
enum class Tag : uint8_t {
  kModel = 1,
  kTenant = 2,
  kAdapter = 3,
  kRopeEpoch = 4,
  kLayout = 5,
  kBefore = 6,
  kTokens = 7,
};

class Fields {
 public:
  void add(Tag tag, const void* data, size_t size) {
    std::array<uint8_t, 5> head{static_cast<uint8_t>(tag)};
    store_le<uint32_t>(head.data() + 1, static_cast<uint32_t>(size));
    bytes_.insert(bytes_.end(), head.begin(), head.end());
    const auto* first = static_cast<const uint8_t*>(data);
    bytes_.insert(bytes_.end(), first, first + size);
  }
  BlockId hash() const {
    const XXH128_hash_t hash = XXH3_128bits(bytes_.data(), bytes_.size());
    return {hash.low64, hash.high64};
  }

 private:
  std::vector<uint8_t> bytes_;
};

void append_u32(std::vector<uint8_t>* bytes, uint32_t value) {
  std::array<uint8_t, 4> field{};
  store_le<uint32_t>(field.data(), value);
  bytes->insert(bytes->end(), field.begin(), field.end());
}

}  // namespace

uint64_t layout_hash(const CacheConfig& config) {
  std::vector<uint8_t> bytes;
  for (const uint32_t field : {uint32_t{kPageVersion}, config.layers, config.kv_heads, config.head_dim,
                               config.page_tokens, static_cast<uint32_t>(config.key_space)}) {
    append_u32(&bytes, field);
  }
  for (const LayerConfig& layer : config.layer) {
    append_u32(&bytes, static_cast<uint32_t>(layer.key_codec));
    append_u32(&bytes, static_cast<uint32_t>(layer.value_codec));
    append_u32(&bytes, layer.first_kind.sink_tokens);
    append_u32(&bytes, static_cast<uint32_t>(layer.params_hash));
    append_u32(&bytes, static_cast<uint32_t>(layer.params_hash >> 32));
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

BlockId scope_id(const PrefixScope& scope) {
  Fields fields;
  fields.add(Tag::kModel, scope.model.data(), sizeof scope.model);
  fields.add(Tag::kTenant, scope.tenant.data(), sizeof scope.tenant);
  fields.add(Tag::kAdapter, &scope.adapter, sizeof scope.adapter);
  fields.add(Tag::kRopeEpoch, &scope.rope_epoch, sizeof scope.rope_epoch);
  fields.add(Tag::kLayout, &scope.layout, sizeof scope.layout);
  return fields.hash();
}

BlockId next_id(const BlockId& before, std::span<const int32_t> tokens) {
  const std::array<uint64_t, 2> id{before.low, before.high};
  Fields fields;
  fields.add(Tag::kBefore, id.data(), sizeof id);
  fields.add(Tag::kTokens, tokens.data(), tokens.size_bytes());
  return fields.hash();
}

PrefixChain make_chain(const PrefixScope& scope, uint32_t page_tokens, std::span<const int32_t> tokens) {
  PrefixChain chain{scope, page_tokens, {}, {}, {}};
  const size_t blocks = tokens.size() / page_tokens;
  chain.tokens.assign(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(blocks * page_tokens));
  chain.ids.reserve(blocks);
  chain.notes.resize(blocks);
  BlockId id = scope_id(scope);
  for (size_t i = 0; i < blocks; ++i) {
    id = next_id(id, chain.block_tokens(i));
    chain.ids.push_back(id);
  }
  return chain;
}

std::vector<uint32_t> block_pages(const CacheConfig& config, size_t block) {
  std::vector<uint32_t> pages;
  for (const LayerConfig& layer : config.layer) pages.push_back(layer.layout_of(block == 0 ? 0 : 1).bytes);
  return pages;
}

uint64_t block_bytes(const CacheConfig& config, size_t block) {
  uint64_t bytes = 0;
  for (const uint32_t page : block_pages(config, block)) bytes += page;
  return bytes;
}

}  // namespace quire
