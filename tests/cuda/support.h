// Sections on the device, for tests of the kernels.
#pragma once

#include <vector>

#include "quant/cuda/launch.h"
#include "tests/cuda/runner.h"
#include "tests/quant/inputs.h"
#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::cuda::test {

using emu::test::DeviceArray;

// With sanitizers kernels take twenty times as long, and only head_dim 64 is built: a slice of the cases
// then.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(QUIRE_CUDA_SLICE)
inline constexpr bool kSlice = true;
#else
inline constexpr bool kSlice = false;
#endif

inline std::vector<CodecId> codecs_with_kernels() {
  std::vector<CodecId> ids = quire::test::all_codecs();
  std::erase_if(ids, [](CodecId id) { return !has_kernels(id); });
  return ids;
}

inline PageKind kind_of(CodecId key, CodecId value, SectionShape shape, uint32_t sinks = 0) {
  return {key, value, KeySpace::kPostRope, static_cast<uint8_t>(sinks), 1, shape};
}

// Encoded sections, copied to the device one after the other.
class DeviceSections {
 public:
  explicit DeviceSections(const std::vector<quire::test::EncodedSection>& sections)
      : bytes_(joined(sections)) {
    std::vector<SectionRef> refs;
    size_t at = 0;
    for (const auto& section : sections) {
      refs.push_back({bytes_.data() + at, section.key_param, section.value_param});
      at += section.bytes.size();
    }
    refs_ = std::make_unique<DeviceArray<SectionRef>>(refs);
  }
  const SectionRef* refs() const { return refs_->data(); }

 private:
  static std::vector<uint8_t> joined(const std::vector<quire::test::EncodedSection>& sections) {
    std::vector<uint8_t> bytes;
    for (const auto& section : sections) {
      bytes.insert(bytes.end(), section.bytes.span().begin(), section.bytes.span().end());
    }
    return bytes;
  }
  DeviceArray<uint8_t> bytes_;
  std::unique_ptr<DeviceArray<SectionRef>> refs_;
};

inline void expect_ran(cudaError_t launched) {
  ASSERT_EQ(launched, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << last_failure();
}

}  // namespace quire::cuda::test
