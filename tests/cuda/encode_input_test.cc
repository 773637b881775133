// Pages encoded from tensors as engines have them, at strides, of three types and not yet rotated, against
// the scalar reference over the same values one after another, byte for byte. Whatever a tensor has between
// and around the values is NaN, and its last element lies at the end of its memory.
#include <cstring>

#include "quant/half.h"
#include "tests/cuda/encoded.h"

namespace quire::cuda::test {
namespace {

constexpr uint32_t kHeads = 3;
constexpr uint32_t kPages = 2;

// Where the values of a tensor stand, in elements.
struct Strides {
  const char* name;
  uint64_t page;
  uint64_t head;
  uint64_t token;
  uint64_t before;  // elements that the first one is behind the start of its memory
};

std::vector<Strides> strides(SectionShape shape) {
  const uint64_t dim = shape.dim;
  const uint64_t row = kHeads * dim;
  return {{"tokens of heads", shape.tokens * row, dim, row, 0},
          {"queries beside them", shape.tokens * 3 * row, dim, 3 * row, row},
          {"odd strides", shape.tokens * (row + 13), dim + 1, row + 13, 5},
          {"aligned strides, odd beginning", shape.tokens * row, dim, row, 1},
          {"every fourth head aligned", shape.tokens * (row + 4), dim + 1, row + 4, 0},
          {"heads of tokens", shape.tokens * dim, kPages * shape.tokens * dim, dim, 0},
          {"pages apart", 2 * shape.tokens * row + 4, dim, row, 8}};
}

uint32_t bits_of(float x, InputType type) {
  if (type == InputType::kBf16) return f32_to_bf16(x);
  if (type == InputType::kF16) return f32_to_f16(x);
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float value_of(float x, InputType type) {
  if (type == InputType::kBf16) return bf16_to_f32(f32_to_bf16(x));
  if (type == InputType::kF16) return f16_to_f32(f32_to_f16(x));
  return x;
}

// Sections of pages as a tensor of the device.
class Tensor {
 public:
  Tensor(const Sections& sections, SectionShape shape, const Strides& strides, InputType type)
      : strides_(strides), type_(type), bytes_(written(sections, shape)) {}
  EncodeInput input() const {
    return {bytes_.data() + begin_, type_, kHeads, strides_.page, strides_.head, strides_.token};
  }

 private:
  // Sets begin_.
  std::vector<uint8_t> written(const Sections& sections, SectionShape shape) {
    constexpr size_t kToGuard = 256;  // memory of the emulator ends at a guard page to so many bytes
    const size_t size = input_bytes(type_);
    const size_t elements = (kPages - 1) * strides_.page + (kHeads - 1) * strides_.head +
                            (shape.tokens - 1) * strides_.token + shape.dim;
    const size_t bytes = (strides_.before + elements) * size;
    std::vector<uint8_t> all((bytes + kToGuard - 1) / kToGuard * kToGuard, 0xFF);
    begin_ = all.size() - elements * size;
    if (strides_.before % 4 != 0 && begin_ % (4 * size) == 0) begin_ -= size;
    for (size_t s = 0; s < sections.size(); ++s) {
      for (size_t i = 0; i < sections[s].size(); ++i) {
        const size_t at = s / kHeads * strides_.page + s % kHeads * strides_.head +
                          i / shape.dim * strides_.token + i % shape.dim;
        const uint32_t bits = bits_of(sections[s][i], type_);
        std::memcpy(all.data() + begin_ + at * size, &bits, size);
      }
    }
    return all;
  }
  const Strides strides_;
  const InputType type_;
  size_t begin_ = 0;
  const DeviceArray<uint8_t> bytes_;
};

class EncodeInputs : public CudaTest, public testing::WithParamInterface<CodecId> {
 protected:
  static CodecId codec() { return GetParam(); }
  static Sections values(SectionShape shape, InputType type, uint64_t seed) {
    Sections sections;
    for (uint32_t s = 0; s < kPages * kHeads; ++s) {
      sections.push_back(quire::test::normal_values(size_t{shape.tokens} * shape.dim, seed + s));
      for (float& x : sections.back()) x = value_of(x, type);
    }
    return sections;
  }
  static PageKind kind(SectionShape shape, uint32_t sinks) { return kind_of(codec(), codec(), shape, sinks); }
};

// Every place with one of the types, another one in each shape; of the last shape, the largest, some places.
TEST_P(EncodeInputs, WhereverTheyLie) {
  constexpr InputType kTypes[] = {InputType::kF32, InputType::kBf16, InputType::kF16};
  std::vector<SectionShape> shapes{{64, 64}, {32, 128}, {32, 96}, {128, 256}};
  if (kSlice) shapes = {{32, 64}, {32, 96}};
  for (size_t s = 0; s < shapes.size(); ++s) {
    const SectionShape shape = shapes[s];
    const std::vector<Strides> places = strides(shape);
    for (size_t p = 0; p < (s < 3 ? places.size() : 3); ++p) {
      const InputType type = kTypes[(s + p) % 3];
      SCOPED_TRACE(std::string(places[p].name) + ", " + quire::test::shape_name(shape) + ", type " +
                   std::to_string(static_cast<int>(type)));
      const Sections keys = values(shape, type, 300);
      const Sections tokens = values(shape, type, 400);
      const Tensor key_tensor(keys, shape, places[p], type);
      const Tensor value_tensor(tokens, shape, places[p], type);
      expect_same_bytes(kind(shape, 3), key_tensor.input(), value_tensor.input(), {keys, tokens});
    }
  }
}

// Keys and values of unlike types and places, in every order of threads.
TEST_P(EncodeInputs, SidesOfTheirOwn) {
  constexpr SectionShape kShape{32, 64};
  const std::vector<Strides> all = strides(kShape);
  const Sections keys = values(kShape, InputType::kF16, 500);
  const Sections tokens = values(kShape, InputType::kF32, 600);
  const Tensor key_tensor(keys, kShape, all[1], InputType::kF16);
  const Tensor value_tensor(tokens, kShape, all[2], InputType::kF32);
  for_all_schedules([&] {
    expect_same_bytes(kind(kShape, 0), key_tensor.input(), value_tensor.input(), {keys, tokens});
  });
}

class EncodeRotatedInputs : public EncodeInputs {};
std::vector<CodecId> rotated_codecs() {
  std::vector<CodecId> ids = codecs_with_kernels();
  std::erase_if(ids, [](CodecId id) { return find_codec(id)->space != CodecSpace::kRotated; });
  return ids;
}

TEST_P(EncodeRotatedInputs, AreRotatedOnTheWay) {
  const Kernels& reference = *find_kernels(Isa::kScalar);
  std::vector<SectionShape> shapes{{32, 64}};
  if (!kSlice) shapes = {{64, 64}, {64, 128}};
  for (const SectionShape shape : shapes) {
    for (const InputType type : {InputType::kF32, InputType::kBf16}) {
      for (const bool balanced : {false, true}) {
        SCOPED_TRACE(quire::test::shape_name(shape) + (balanced ? ", balanced" : ""));
        const Strides at = strides(shape)[1];
        Sections keys = values(shape, type, 700);
        Sections tokens = values(shape, type, 800);
        keys[1][5] = tokens[2][7] = 0x1p120F;  // beyond the clamp
        const Tensor key_tensor(keys, shape, at, type);
        const Tensor value_tensor(tokens, shape, at, type);
        const std::vector<float> balance = quire::test::normal_values(size_t{kHeads} * shape.dim, 9);
        const DeviceArray<float> device_balance(balance);
        for (uint32_t s = 0; s < keys.size(); ++s) {
          const float* diag = balanced ? balance.data() + size_t{s % kHeads} * shape.dim : nullptr;
          reference.rotate(keys[s].data(), shape.tokens, shape.dim, diag, keys[s].data());
          reference.rotate(tokens[s].data(), shape.tokens, shape.dim, nullptr, tokens[s].data());
        }
        EncodeInput key_input = key_tensor.input();
        EncodeInput value_input = value_tensor.input();
        key_input.rotate = value_input.rotate = true;
        if (balanced) key_input.balance = device_balance.data();
        expect_same_bytes(kind(shape, 3), key_input, value_input, {keys, tokens});
      }
    }
  }
}

std::string codec_name(const testing::TestParamInfo<CodecId>& tested) {
  return std::string(find_codec(tested.param)->name);
}

INSTANTIATE_TEST_SUITE_P(Codecs, EncodeInputs, testing::ValuesIn(codecs_with_kernels()), codec_name);
INSTANTIATE_TEST_SUITE_P(Codecs, EncodeRotatedInputs, testing::ValuesIn(rotated_codecs()), codec_name);

TEST(EncodeInputLimits, AreRefused) {
  constexpr SectionShape kShape{32, 64};
  const float x = 0;
  uint8_t* digest = nullptr;
  const EncodeInput dense = dense_input(&x, kShape);
  EncodeInput rotated = dense;
  rotated.rotate = true;
  const auto encode = [&](CodecId codec, SectionShape shape, const EncodeInput& keys,
                          uint8_t* const* digests) {
    // Without sections there is nothing to read.
    EncodeArgs args{section_format(kind_of(codec, codec, shape)), keys, dense, nullptr, nullptr, 0, digests};
    return encode_sections(args, nullptr);
  };
  EXPECT_EQ(encode(CodecId::kRot4, kShape, rotated, nullptr), cudaSuccess);
  EXPECT_EQ(encode(CodecId::kInt4, kShape, rotated, nullptr), cudaErrorNotSupported);
  EXPECT_EQ(encode(CodecId::kRot4, {32, 96}, rotated, nullptr), cudaErrorNotSupported);
  EXPECT_EQ(encode(CodecId::kTcq4, {128, 64}, rotated, nullptr), cudaErrorNotSupported);
  EXPECT_EQ(encode(CodecId::kRot4, kShape, dense, &digest), cudaSuccess);
  EXPECT_EQ(encode(CodecId::kRot4, kShape, rotated, &digest), cudaErrorNotSupported);
  EncodeInput apart = dense;
  apart.token_stride += 4;
  EXPECT_EQ(encode(CodecId::kRot4, kShape, apart, &digest), cudaErrorNotSupported);
}

}  // namespace
}  // namespace quire::cuda::test
