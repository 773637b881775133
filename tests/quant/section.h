// Sections for tests: the shapes to go through, and one section encoded in place.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "quant/kernels.h"
#include "tests/quant/isas.h"

namespace quire::test {

std::vector<SectionShape> all_shapes();
// For tests whose truth is slow.
inline constexpr std::array<SectionShape, 5> kSomeShapes{
    {{32, 32}, {64, 96}, {64, 128}, {128, 128}, {32, 256}}};

std::string shape_name(SectionShape shape);

// A zeroed array at a 64-byte boundary, or `offset` elements past one.
template <typename T>
class AlignedArray {
 public:
  explicit AlignedArray(size_t n, size_t offset = 0)
      : data_(static_cast<T*>(::operator new ((n + offset) * sizeof(T) + 64, std::align_val_t{64}))),
        view_(data_.get() + offset, n) {
    std::fill_n(data_.get(), n + offset, T{});
  }
  T* data() { return view_.data(); }
  const T* data() const { return view_.data(); }
  size_t size() const { return view_.size(); }
  T& operator[](size_t i) { return view_[i]; }
  const T& operator[](size_t i) const { return view_[i]; }
  std::span<T> span() { return view_; }
  std::span<const T> span() const { return view_; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
  std::span<T> view_;
};

// One side of one section, encoded into arrays with guard bytes behind them.
struct EncodedSide {
  static constexpr size_t kGuardBytes = 64;

  EncodedSide(const Kernels& kernels, SideCodec codec, Side side, SectionShape shape, const float* x,
              uint32_t first);

  SideView view() const { return {codes.data(), meta.data(), param}; }
  std::vector<float> decode(const Kernels& kernels) const;
  // codes and meta as long as FORMATS.md says, and nothing behind them touched.
  bool guards_intact() const;
  bool same_bytes(const EncodedSide& other) const;

  SideCodec codec;
  Side side;
  SectionShape shape;
  AlignedArray<uint8_t> codes;
  AlignedArray<uint8_t> meta;
  uint32_t param = 0;
};

// Levels of nuq codecs that a layer brings, which outlive their users; nullptr: the default ones.
struct LayerLevels {
  const int8_t* keys = nullptr;
  const int8_t* values = nullptr;
};

// A whole section with keys, values and sinks, encoded by one table.
struct EncodedSection {
  EncodedSection(const Kernels& kernels, const PageKind& kind, const float* keys, const float* values,
                 LayerLevels of_layer = {});

  SectionRef ref() const { return {bytes.data(), key_param, value_param}; }

  PageKind kind;
  LayerLevels levels;
  SectionLayout layout;
  AlignedArray<uint8_t> bytes;
  uint32_t key_param = 0;
  uint32_t value_param = 0;
};

// Runs a test once per instruction set; an absent one is skipped by name.
class PerIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    kernels_ = find_kernels(GetParam());
    if (kernels_ == nullptr) GTEST_SKIP() << isa_name(GetParam()) << " is not in this build or machine";
    ASSERT_EQ(kernels_->isa, GetParam());
  }
  const Kernels& kernels() const { return *kernels_; }

 private:
  const Kernels* kernels_ = nullptr;
};

std::string isa_test_name(const testing::TestParamInfo<Isa>& info);

// Runs a test once per instruction set and codec.
class PerIsaAndCodec : public testing::TestWithParam<std::tuple<Isa, CodecId>> {
 protected:
  void SetUp() override {
    const Isa isa = std::get<0>(GetParam());
    kernels_ = find_kernels(isa);
    if (kernels_ == nullptr) GTEST_SKIP() << isa_name(isa) << " is not in this build or machine";
  }
  const Kernels& kernels() const { return *kernels_; }
  CodecId codec() const { return std::get<1>(GetParam()); }

 private:
  const Kernels* kernels_ = nullptr;
};

std::vector<CodecId> all_codecs();
std::string isa_and_codec_name(const testing::TestParamInfo<std::tuple<Isa, CodecId>>& info);

}  // namespace quire::test
