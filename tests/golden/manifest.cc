#include "tests/golden/manifest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <span>
#include <string>

namespace quire::golden {
namespace {

std::string hex(std::span<const uint8_t> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// Sixteen digits, the most significant first.
std::string hex(uint64_t number) {
  std::array<uint8_t, 8> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(number >> (56 - 8 * i));
  return hex(bytes);
}

}  // namespace

nlohmann::ordered_json manifest_entry(const PageSpec& spec, const Page& page) {
  const PageKind& kind = spec.header.kind;
  nlohmann::ordered_json entry{{"key_codec", find_codec(kind.key_codec)->name},
                               {"value_codec", find_codec(kind.value_codec)->name},
                               {"page_tokens", kind.shape.tokens},
                               {"head_dim", kind.shape.dim},
                               {"kv_heads", kind.kv_heads},
                               {"sink_tokens", kind.sink_tokens},
                               {"token_count", spec.header.token_count},
                               {"key_space", kind.key_space == KeySpace::kPreRope ? "pre_rope" : "post_rope"},
                               {"rope_epoch", spec.header.rope_epoch},
                               {"layer_params_hash", hex(spec.header.layer_params_hash)},
                               {"fill", fill_name(spec.fill)},
                               {"seed", spec.seed},
                               {"balanced", spec.balanced},
                               {"page_bytes", page.bytes.size()},
                               {"page_xxh3", hex(XXH3_64bits(page.bytes.data(), page.bytes.size()))}};
  for (const DecodedSums& sums : page.decoded) {
    entry["decoded_keys_xxh3"].push_back(hex(sums.keys));
    entry["decoded_values_xxh3"].push_back(hex(sums.values));
  }
  if (spec.own_levels) entry["own_levels"] = true;
  if (spec.params) entry["params"] = {spec.params->key, spec.params->value};
  if (spec.whole_bytes) entry["page"] = hex(page.bytes);
  return entry;
}

}  // namespace quire::golden
