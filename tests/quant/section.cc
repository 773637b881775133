#include "tests/quant/section.h"

#include <algorithm>

namespace quire::test {
namespace {

constexpr uint8_t kGuard = 0xA5;
constexpr uint8_t kStale = 0x5A;  // what lay in the arrays before: encode must overwrite all of it

}  // namespace

std::vector<SectionShape> all_shapes() {
  std::vector<SectionShape> shapes;
  for (const uint32_t tokens : {32U, 64U, 128U}) {
    for (uint32_t dim = 32; dim <= 256; dim += 32) shapes.push_back({tokens, dim});
  }
  return shapes;
}

std::string shape_name(SectionShape shape) {
  return std::to_string(shape.tokens) + " tokens x " + std::to_string(shape.dim) + " channels";
}

EncodedSide::EncodedSide(const Kernels& kernels, SideCodec side_codec, Side side_of, SectionShape shape_of,
                         const float* x, uint32_t first)
    : codec(side_codec),
      side(side_of),
      shape(shape_of),
      codes(code_bytes(*find_codec(side_codec.id), shape_of) + kGuardBytes),
      meta(meta_bytes(*find_codec(side_codec.id), side_of, shape_of) + kGuardBytes) {
  for (AlignedArray<uint8_t>* array : {&codes, &meta}) {
    std::ranges::fill(array->span(), kStale);
    std::ranges::fill(array->span().last(kGuardBytes), kGuard);
  }
  const auto encode = side == Side::kKey ? kernels.encode_key : kernels.encode_value;
  encode(codec, shape, x, first, codes.data(), meta.data(), &param);
}

std::vector<float> EncodedSide::decode(const Kernels& kernels) const {
  AlignedArray<float> out(size_t{shape.tokens} * shape.dim);
  const auto decode_side = side == Side::kKey ? kernels.decode_key : kernels.decode_value;
  decode_side(codec, shape, view(), out.data());
  return {out.span().begin(), out.span().end()};
}

bool EncodedSide::guards_intact() const {
  const auto is_guard = [](uint8_t byte) { return byte == kGuard; };
  return std::ranges::all_of(codes.span().last(kGuardBytes), is_guard) &&
         std::ranges::all_of(meta.span().last(kGuardBytes), is_guard);
}

bool EncodedSide::same_bytes(const EncodedSide& other) const {
  return param == other.param && std::ranges::equal(codes.span(), other.codes.span()) &&
         std::ranges::equal(meta.span(), other.meta.span());
}

EncodedSection::EncodedSection(const Kernels& kernels, const PageKind& page_kind, const float* keys,
                               const float* values, LayerLevels of_layer)
    : kind(page_kind), levels(of_layer), layout(page_layout(page_kind).section), bytes(layout.bytes) {
  uint8_t* at = bytes.data();
  const uint32_t first = kind.sink_tokens;
  const size_t sink_values = size_t{first} * kind.shape.dim;
  kernels.encode_key({kind.key_codec, levels.keys}, kind.shape, keys, first, at + layout.key_codes,
                     at + layout.key_meta, &key_param);
  kernels.encode_value({kind.value_codec, levels.values}, kind.shape, values, first, at + layout.value_codes,
                       at + layout.value_meta, &value_param);
  kernels.f32_to_bf16(keys, sink_values, reinterpret_cast<uint16_t*>(at + layout.sink_keys));
  kernels.f32_to_bf16(values, sink_values, reinterpret_cast<uint16_t*>(at + layout.sink_values));
}

std::string isa_test_name(const testing::TestParamInfo<Isa>& info) { return isa_name(info.param); }

std::vector<CodecId> all_codecs() {
  std::vector<CodecId> ids(kCodecs.size());
  std::ranges::transform(kCodecs, ids.begin(), &CodecInfo::id);
  return ids;
}

std::string isa_and_codec_name(const testing::TestParamInfo<std::tuple<Isa, CodecId>>& info) {
  return std::string(isa_name(std::get<0>(info.param))) + "_" +
         std::string(find_codec(std::get<1>(info.param))->name);
}

}  // namespace quire::test
