// Sections encoded by the kernels beside those of the scalar reference.
#pragma once

#include "tests/cuda/support.h"

namespace quire::cuda::test {

using Sections = std::vector<std::vector<float>>;

// What is to be encoded, in the codecs' space, one section after another: on the host.
struct Unfolded {
  const Sections& keys;
  const Sections& values;
  quire::test::LayerLevels levels{};  // where the layer has its own
};

// Encodes the inputs, which hold what `unfolded` does, in one launch and compares all bytes and params.
inline void expect_same_bytes(const PageKind& kind, const EncodeInput& keys, const EncodeInput& values,
                              const Unfolded& unfolded) {
  const size_t count = unfolded.keys.size();
  const quire::test::LayerLevels levels = unfolded.levels;
  SectionFormat format = section_format(kind);
  const auto of_layer = [](const int8_t* own, const DeviceCodec& codec) {
    return own == nullptr ? std::vector<int8_t>(1) : std::vector<int8_t>(own, own + (1U << codec.bits));
  };
  const DeviceArray<int8_t> key_levels(of_layer(levels.keys, format.key));
  const DeviceArray<int8_t> value_levels(of_layer(levels.values, format.value));
  if (levels.keys != nullptr) format.key_levels = key_levels.data();
  if (levels.values != nullptr) format.value_levels = value_levels.data();
  const DeviceArray<uint8_t> bytes(count * format.layout.bytes);
  std::vector<uint8_t*> sections(count);
  for (size_t i = 0; i < count; ++i) sections[i] = bytes.data() + i * format.layout.bytes;
  const DeviceArray<uint8_t*> device_sections(sections);
  const DeviceArray<uint32_t> params(2 * count);
  expect_ran(encode_sections(
      {format, keys, values, device_sections.data(), params.data(), static_cast<uint32_t>(count)}, nullptr));
  const std::vector<uint8_t> got = bytes.host();
  const std::vector<uint32_t> got_params = params.host();
  for (size_t i = 0; i < count; ++i) {
    const quire::test::EncodedSection expected(*quire::find_kernels(Isa::kScalar), kind,
                                               unfolded.keys[i].data(), unfolded.values[i].data(), levels);
    ASSERT_EQ(got_params[2 * i], expected.key_param) << "section " << i;
    ASSERT_EQ(got_params[2 * i + 1], expected.value_param) << "section " << i;
    for (size_t b = 0; b < format.layout.bytes; ++b) {
      ASSERT_EQ(got[i * format.layout.bytes + b], expected.bytes[b]) << "section " << i << ", byte " << b;
    }
  }
}

inline std::vector<float> joined(const Sections& sections) {
  std::vector<float> all;
  for (const std::vector<float>& section : sections) all.insert(all.end(), section.begin(), section.end());
  return all;
}

// The same of sections that lie one after another.
inline void expect_same_bytes(const PageKind& kind, const Sections& keys, const Sections& values,
                              quire::test::LayerLevels levels = {}) {
  const DeviceArray<float> device_keys(joined(keys));
  const DeviceArray<float> device_values(joined(values));
  expect_same_bytes(kind, dense_input(device_keys.data(), kind.shape),
                    dense_input(device_values.data(), kind.shape), {keys, values, levels});
}

}  // namespace quire::cuda::test
