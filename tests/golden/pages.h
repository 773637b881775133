// The golden pages: what they hold, made from integers alone so that any language can make the same inputs.
// README.md describes the recipe. Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "quant/kernels.h"
#include "quant/page.h"

namespace quire::golden {

// How the integers of the generator become values.
enum class Fill : uint8_t {
  kFlat,
  kChannels,
  kTokens,
  kWild,
  kSubnormal,
  kConstant,
  kZeros,
  kHuge,
  kFading,
  kWhisper,
  kMeanStep,
  kScaleStep
};
std::string_view fill_name(Fill fill);

// What a page's sections say instead of what their codecs have written.
struct ForeignParams {
  uint32_t key;
  uint32_t value;
};

struct PageSpec {
  PageHeader header;
  Fill fill;
  uint32_t seed;
  bool balanced;     // rotated keys have a balance vector
  bool whole_bytes;  // the manifest holds all bytes, not only their checksum
  std::optional<ForeignParams> params = {};
  bool own_levels = false;  // non-uniform codecs use tables of the layer
};

std::vector<PageSpec> page_specs();

struct DecodedSums {
  uint64_t keys;
  uint64_t values;
};

struct Page {
  std::vector<uint8_t> bytes;
  std::vector<DecodedSums> decoded;  // per section: xxh3 of the decoded f32 values of valid tokens
};

Page make_page(const Kernels& kernels, const PageSpec& spec);

}  // namespace quire::golden
