// Sections encoded by the kernels beside those of the scalar reference.
#pragma once

#include "tests/cuda/support.h"

namespace quire::cuda::test {

// Encodes sections in one launch and compares all bytes and params. levels: on the host, where the layer has
// its own.
inline void expect_same_bytes(const PageKind& kind, const std::vector<std::vector<float>>& keys,
                              const std::vector<std::vector<float>>& values,
                              quire::test::LayerLevels levels = {}) {
  const size_t count = keys.size();
  SectionFormat format = section_format(kind);
  std::vector<float> all_keys;
  std::vector<float> all_values;
  for (size_t i = 0; i < count; ++i) {
    all_keys.insert(all_keys.end(), keys[i].begin(), keys[i].end());
    all_values.insert(all_values.end(), values[i].begin(), values[i].end());
  }
  const auto of_layer = [](const int8_t* own, const DeviceCodec& codec) {
    return own == nullptr ? std::vector<int8_t>(1) : std::vector<int8_t>(own, own + (1U << codec.bits));
  };
  const DeviceArray<int8_t> key_levels(of_layer(levels.keys, format.key));
  const DeviceArray<int8_t> value_levels(of_layer(levels.values, format.value));
  if (levels.keys != nullptr) format.key_levels = key_levels.data();
  if (levels.values != nullptr) format.value_levels = value_levels.data();
  const DeviceArray<float> device_keys(all_keys);
  const DeviceArray<float> device_values(all_values);
  const DeviceArray<uint8_t> bytes(count * format.layout.bytes);
  std::vector<uint8_t*> sections(count);
  for (size_t i = 0; i < count; ++i) sections[i] = bytes.data() + i * format.layout.bytes;
  const DeviceArray<uint8_t*> device_sections(sections);
  const DeviceArray<uint32_t> params(2 * count);
  expect_ran(encode_sections({format, device_keys.data(), device_values.data(), device_sections.data(),
                              params.data(), static_cast<uint32_t>(count)},
                             nullptr));
  const std::vector<uint8_t> got = bytes.host();
  const std::vector<uint32_t> got_params = params.host();
  for (size_t i = 0; i < count; ++i) {
    const quire::test::EncodedSection expected(*quire::find_kernels(Isa::kScalar), kind, keys[i].data(),
                                               values[i].data(), levels);
    ASSERT_EQ(got_params[2 * i], expected.key_param) << "section " << i;
    ASSERT_EQ(got_params[2 * i + 1], expected.value_param) << "section " << i;
    for (size_t b = 0; b < format.layout.bytes; ++b) {
      ASSERT_EQ(got[i * format.layout.bytes + b], expected.bytes[b]) << "section " << i << ", byte " << b;
    }
  }
}

}  // namespace quire::cuda::test
