#include "bench/micro/page_cases.h"

#include <benchmark/benchmark.h>

#include <cstring>

#include "bench/micro/truth.h"

namespace quire::micro {
namespace {

// The pages of `heads` unfolded, and as many folded, side by side in one piece of memory.
struct Copy {
  SharedHeads heads;
  size_t section_floats;  // of one side
  BigBuffer memory;

  explicit Copy(const SharedHeads& from)
      : heads(from),
        section_floats(size_t{from->kind.shape.tokens} * from->kind.shape.dim),
        memory(bytes_of(*from)) {
    std::memset(memory.data(), 0, bytes_of(*from));
  }

  static size_t float_bytes(const FoldedHeads& heads) {
    return heads.pages.size() * heads.kind.kv_heads * 2 * heads.kind.shape.tokens * heads.kind.shape.dim *
           sizeof(float);
  }
  static size_t bytes_of(const FoldedHeads& heads) { return float_bytes(heads) + heads.bytes(); }

  std::span<const uint8_t> bytes() const { return {memory.data(), bytes_of(*heads)}; }
  // Keys of a section; its values follow.
  float* unfolded(size_t page, size_t head) const {
    return reinterpret_cast<float*>(memory.data()) +
           (page * heads->kind.kv_heads + head) * 2 * section_floats;
  }
  uint8_t* folded(size_t page, size_t head) const {
    return memory.data() + float_bytes(*heads) + page * heads->layout.bytes + heads->layout.header_bytes +
           head * heads->layout.section.bytes;
  }
};

void decode_keys(const Kernels& kernels, const FoldedHeads& heads, const SectionRef& ref, float* keys) {
  const SectionLayout& at = heads.layout.section;
  const uint8_t* s = ref.section;
  kernels.decode_key(heads.kind.key_codec, heads.kind.shape,
                     {s + at.key_codes, s + at.key_meta, ref.key_param}, keys);
}

void decode_section(const Kernels& kernels, const FoldedHeads& heads, const SectionRef& ref, float* keys,
                    float* values) {
  const SectionLayout& at = heads.layout.section;
  const uint8_t* s = ref.section;
  decode_keys(kernels, heads, ref, keys);
  kernels.decode_value(heads.kind.value_codec, heads.kind.shape,
                       {s + at.value_codes, s + at.value_meta, ref.value_param}, values);
}

SectionRef encode_section(const Kernels& kernels, const FoldedHeads& heads, const float* keys,
                          const float* values, uint8_t* section) {
  const SectionLayout& at = heads.layout.section;
  SectionRef ref{section, 0, 0};
  kernels.encode_key(heads.kind.key_codec, heads.kind.shape, keys, 0, section + at.key_codes,
                     section + at.key_meta, &ref.key_param);
  kernels.encode_value(heads.kind.value_codec, heads.kind.shape, values, 0, section + at.value_codes,
                       section + at.value_meta, &ref.value_param);
  return ref;
}

// Of a thread.
struct SealSpace {
  BigBuffer rows;  // keys and values of a section, f32
  std::vector<uint8_t> digest;

  explicit SealSpace(const Copy& copy)
      : rows(2 * copy.section_floats * sizeof(float)), digest(digest_bytes(copy.heads->kind.shape)) {}
};

// All that sealing does with a section: rotation where its codecs have one (in `space`, as rows are
// appended), encoding, the checksum, and the digest of keys as they decode.
uint64_t seal_section(const Kernels& kernels, const FoldedHeads& heads, const float* keys,
                      const float* values, uint8_t* section, SealSpace* space) {
  const SectionShape shape = heads.kind.shape;
  const size_t count = size_t{shape.tokens} * shape.dim;
  const auto rotated = [&](CodecId codec, const float* rows, float* copy) {
    if (find_codec(codec)->space != CodecSpace::kRotated) return rows;
    kernels.rotate(rows, shape.tokens, shape.dim, nullptr, copy);
    return static_cast<const float*>(copy);
  };
  auto* rows = reinterpret_cast<float*>(space->rows.data());
  keys = rotated(heads.kind.key_codec, keys, rows);
  values = rotated(heads.kind.value_codec, values, rows + count);
  const SectionRef ref = encode_section(kernels, heads, keys, values, section);
  decode_keys(kernels, heads, ref, rows);
  kernels.make_digest(rows, shape, space->digest.data());
  return section_checksum({section, heads.layout.section.bytes}, ref.key_param, ref.value_param);
}

// f(page, head) for the thread's share of the pages.
template <class F>
void for_sections(const FoldedHeads& heads, uint32_t thread, uint32_t threads, F f) {
  const size_t pages = heads.pages.size();
  for (size_t page = pages * thread / threads; page < pages * (thread + 1) / threads; ++page) {
    for (size_t head = 0; head < heads.kind.kv_heads; ++head) f(page, head);
  }
}

// Normal numbers everywhere.
void fill_unfolded(const Copy& copy) {
  const std::vector<float> rows = make_normal_rows(2 * copy.section_floats + 97);
  for_sections(*copy.heads, 0, 1, [&](size_t page, size_t head) {
    // Another start in the same numbers for every section.
    std::memcpy(copy.unfolded(page, head), rows.data() + (page * 8 + head) % 97,
                2 * copy.section_floats * sizeof(float));
  });
}

double encode_error(const Copy& copy, const Kernels& kernels) {
  std::vector<float> decoded(2 * copy.section_floats);
  const float* in = copy.unfolded(0, 0);
  const SectionRef ref =
      encode_section(kernels, *copy.heads, in, in + copy.section_floats, copy.folded(0, 0));
  decode_section(kernels, *copy.heads, ref, decoded.data(), decoded.data() + copy.section_floats);
  const std::vector<double> truth(in, in + decoded.size());
  return relative_error(decoded, truth);
}

double decode_error(const Copy& copy, const Kernels& kernels) {
  const SectionRef& ref = copy.heads->heads[0][0];
  std::vector<float> decoded(2 * copy.section_floats);
  std::vector<float> scalar(decoded.size());
  decode_section(kernels, *copy.heads, ref, decoded.data(), decoded.data() + copy.section_floats);
  decode_section(*find_kernels(Isa::kScalar), *copy.heads, ref, scalar.data(),
                 scalar.data() + copy.section_floats);
  return relative_error(decoded, std::vector<double>(scalar.begin(), scalar.end()));
}

}  // namespace

TimedCase encode_case(const SharedHeads& model, const Kernels& kernels, uint32_t threads) {
  const auto copy = std::make_shared<const Copy>(model);
  fill_unfolded(*copy);
  TimedCase timed;
  timed.row = row_of("encode", *model, kernels.isa, threads);
  timed.row.error = encode_error(*copy, kernels);
  timed.isa = kernels.isa;
  timed.memory = copy->bytes();
  timed.owner = copy;
  const auto spaces = std::make_shared<std::vector<SealSpace>>();
  for (uint32_t i = 0; i < threads; ++i) spaces->emplace_back(*copy);
  timed.work = [copy = copy.get(), spaces, &kernels, threads](uint32_t thread) {
    for_sections(*copy->heads, thread, threads, [&](size_t page, size_t head) {
      const float* keys = copy->unfolded(page, head);
      benchmark::DoNotOptimize(seal_section(kernels, *copy->heads, keys, keys + copy->section_floats,
                                            copy->folded(page, head), &(*spaces)[thread]));
    });
  };
  return timed;
}

TimedCase decode_page_case(const SharedHeads& heads, const Kernels& kernels, uint32_t threads) {
  const auto copy = std::make_shared<const Copy>(heads);
  TimedCase timed;
  timed.row = row_of("decode-page", *heads, kernels.isa, threads);
  timed.row.error = decode_error(*copy, kernels);
  timed.isa = kernels.isa;
  timed.memory = copy->bytes();
  timed.owner = copy;
  timed.work = [copy = copy.get(), &kernels, threads](uint32_t thread) {
    for_sections(*copy->heads, thread, threads, [&](size_t page, size_t head) {
      float* keys = copy->unfolded(page, head);
      decode_section(kernels, *copy->heads, copy->heads->heads[head][page], keys,
                     keys + copy->section_floats);
    });
  };
  return timed;
}

TimedCase checksum_case(const SharedHeads& heads, uint32_t threads) {
  TimedCase timed;
  timed.row = row_of("checksum", *heads, Isa::kScalar, threads);
  timed.row.isa = "any";  // one function serves all tables
  timed.isa = Isa::kScalar;
  timed.memory = {heads->memory.data(), heads->bytes()};
  timed.owner = heads;
  timed.work = [heads = heads.get(), threads](uint32_t thread) {
    for_sections(*heads, thread, threads, [&](size_t page, size_t head) {
      const SectionRef& ref = heads->heads[head][page];
      benchmark::DoNotOptimize(
          section_checksum({ref.section, heads->layout.section.bytes}, ref.key_param, ref.value_param));
    });
  };
  return timed;
}

}  // namespace quire::micro
