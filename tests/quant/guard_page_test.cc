// No kernel touches a byte outside what it is given: every buffer ends at memory that may not be touched, and
// a second time begins at it. The sanitizers cannot show this for the SIMD tables, which they leave
// uninstrumented.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <limits>

#include "tests/quant/random.h"
#include "tests/quant/section.h"

namespace quire::test {
namespace {

constexpr size_t kOsPage = 4096;

enum class Edge : uint8_t { kEnd, kBegin };

// n elements that end (or begin) at a page without access, as closely as 64-byte alignment allows.
template <typename T>
class GuardedArray {
 public:
  GuardedArray(size_t n, Edge edge, size_t align = 64) : count_(n) {
    const size_t bytes = n * sizeof(T);
    const size_t inner = (bytes + kOsPage - 1) / kOsPage * kOsPage;
    mapped_ = inner + 2 * kOsPage;
    base_ = static_cast<uint8_t*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(static_cast<void*>(base_), MAP_FAILED);
    // Float codecs have no meta; emulators refuse to protect nothing.
    if (inner > 0) {
      EXPECT_EQ(mprotect(base_ + kOsPage, inner, PROT_READ | PROT_WRITE), 0);
    }
    const size_t slack = edge == Edge::kEnd ? (inner - bytes) / align * align : 0;
    data_ = reinterpret_cast<T*>(base_ + kOsPage + slack);
  }
  ~GuardedArray() { munmap(base_, mapped_); }
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;
  T* data() { return data_; }
  size_t size() const { return count_; }

 private:
  size_t count_;
  size_t mapped_ = 0;
  uint8_t* base_ = nullptr;
  T* data_ = nullptr;
};

void fill_normal(GuardedArray<float>& array, uint64_t seed) {
  const std::vector<float> values = normal_values(array.size(), seed);
  std::copy(values.begin(), values.end(), array.data());
}

class GuardPages : public ::testing::TestWithParam<std::tuple<Isa, Edge>> {
 protected:
  void SetUp() override {
    kernels_ = find_kernels(std::get<0>(GetParam()));
    if (kernels_ == nullptr) GTEST_SKIP() << "this machine cannot run " << isa_name(std::get<0>(GetParam()));
  }
  Edge edge() const { return std::get<1>(GetParam()); }

  // One section of the codec pair, encoded where its last byte meets the guard.
  void encode(const PageKind& kind, uint8_t* section, SectionRef* ref) {
    const SectionLayout at = page_layout(kind).section;
    GuardedArray<float> x(size_t{kind.shape.tokens} * kind.shape.dim, edge(), 4);
    fill_normal(x, 1);
    kernels_->encode_key(kind.key_codec, kind.shape, x.data(), kind.sink_tokens, section + at.key_codes,
                         section + at.key_meta, &ref->key_param);
    kernels_->encode_value(kind.value_codec, kind.shape, x.data(), kind.sink_tokens, section + at.value_codes,
                           section + at.value_meta, &ref->value_param);
    ref->section = section;
  }

  const Kernels* kernels_ = nullptr;
};

TEST_P(GuardPages, EncodeAndDecode) {
  for (const CodecInfo& codec : kCodecs) {
    for (const SectionShape shape : kSomeShapes) {
      for (const Side side : {Side::kKey, Side::kValue}) {
        GuardedArray<float> x(size_t{shape.tokens} * shape.dim, edge(), 4);
        fill_normal(x, 2);
        GuardedArray<uint8_t> codes(code_bytes(codec, shape), edge());
        GuardedArray<uint8_t> meta(meta_bytes(codec, side, shape), edge(), 4);
        uint32_t param = 0;
        const auto encode = side == Side::kKey ? kernels_->encode_key : kernels_->encode_value;
        const auto decode = side == Side::kKey ? kernels_->decode_key : kernels_->decode_value;
        encode(codec.id, shape, x.data(), 0, codes.data(), meta.data(), &param);
        GuardedArray<float> out(x.size(), edge(), 4);
        decode(codec.id, shape, {codes.data(), meta.data(), param}, out.data());
        double error = 0;
        double norm = 0;
        for (size_t i = 0; i < x.size(); ++i) {
          error += std::pow(out.data()[i] - x.data()[i], 2);
          norm += std::pow(x.data()[i], 2);
        }
        EXPECT_LT(error, 0.5 * norm) << codec.name;
      }
    }
  }
}

TEST_P(GuardPages, AttendFolded) {
  for (const CodecInfo& key : kCodecs) {
    for (const CodecInfo& value : kCodecs) {
      for (const uint32_t rows : {1U, 3U, 8U, 17U, 23U, 130U}) {
        const uint8_t sinks = rows == 3 ? 4 : 0;
        // More than 17 meet the shape that some tables have other kernels for.
        const SectionShape shape = rows > 17 ? SectionShape{64, 128} : SectionShape{32, 96};
        if (rows > 17 && key.id != value.id) continue;
        const PageKind kind{key.id, value.id, KeySpace::kPostRope, sinks, 1, shape};
        const SectionLayout layout = page_layout(kind).section;
        GuardedArray<uint8_t> section(layout.bytes, edge());
        SectionRef ref{};
        encode(kind, section.data(), &ref);
        GuardedArray<float> q(size_t{rows} * kind.shape.dim, edge(), 4);
        fill_normal(q, 3);
        GuardedArray<float> o(q.size(), edge(), 4);
        GuardedArray<float> m(rows, edge(), 4);
        GuardedArray<float> l(rows, edge(), 4);
        std::fill_n(m.data(), rows, -std::numeric_limits<float>::infinity());
        GuardedArray<uint8_t> scratch(kernels_->attend_scratch_bytes(rows, kind.shape), edge());
        const FoldedPages pages{key.id, value.id, sinks, kind.shape, layout, nullptr};
        const AttendState state{o.data(), m.data(), l.data()};
        kernels_->attend_folded(pages, {&ref, 1}, {q.data(), rows, nullptr}, state, scratch.data());
        kernels_->finish(state, rows, kind.shape.dim, m.data());
        for (uint32_t r = 0; r < rows; ++r)
          EXPECT_TRUE(std::isfinite(m.data()[r])) << key.name << "/" << value.name;
      }
    }
  }
}

TEST_P(GuardPages, AttendUnfoldedMergeRotateConvert) {
  for (const uint32_t dim : {32U, 96U, 256U}) {
    constexpr uint32_t kTokens = 31;
    constexpr uint32_t kRows = 5;
    GuardedArray<float> keys(size_t{kTokens} * dim, edge(), 4);
    GuardedArray<float> q(size_t{kRows} * dim, edge(), 4);
    fill_normal(keys, 4);
    fill_normal(q, 5);
    kernels_->rotate(keys.data(), kTokens, dim, nullptr, keys.data());
    EXPECT_TRUE(kernels_->finite(keys.data(), keys.size()));
    const std::vector<int32_t> begin(kRows, 1);
    const std::vector<int32_t> end(kRows, kTokens);
    GuardedArray<float> o(q.size(), edge(), 4);
    GuardedArray<float> m(kRows, edge(), 4);
    GuardedArray<float> l(kRows, edge(), 4);
    std::fill_n(m.data(), kRows, -std::numeric_limits<float>::infinity());
    GuardedArray<uint8_t> scratch(kernels_->attend_scratch_bytes(kRows, {32, dim}), edge());
    const AttendState state{o.data(), m.data(), l.data()};
    kernels_->attend_unfolded({keys.data(), keys.data(), kTokens, begin.data(), end.data()},
                              {q.data(), kRows, nullptr}, dim, state, scratch.data());
    kernels_->merge(state, state, kRows, dim);
    kernels_->finish(state, kRows, dim, nullptr);
    EXPECT_TRUE(kernels_->finite(o.data(), o.size()));
    for (const size_t n : {1U, 7U, 33U, 257U}) {
      GuardedArray<uint16_t> half(n, edge(), 2);
      GuardedArray<float> full(n, edge(), 4);
      fill_normal(full, n);
      kernels_->f32_to_bf16(full.data(), n, half.data());
      kernels_->bf16_to_f32(half.data(), n, full.data());
      kernels_->f16_to_f32(half.data(), n, full.data());
      EXPECT_TRUE(kernels_->finite(full.data(), n));
    }
  }
}

TEST_P(GuardPages, Digests) {
  constexpr uint32_t kQueries = 3;
  for (const uint32_t dim : {32U, 96U, 128U, 256U}) {
    const SectionShape shape{64, dim};
    GuardedArray<float> keys(size_t{64} * dim, edge(), 4);
    fill_normal(keys, 6);
    GuardedArray<uint8_t> digest(digest_bytes(shape), edge(), 4);
    kernels_->make_digest(keys.data(), shape, digest.data());
    GuardedArray<DigestQuery> queries(kQueries, edge(), alignof(DigestQuery));
    for (uint32_t i = 0; i < kQueries; ++i) make_digest_query(keys.data() + i * dim, dim, queries.data() + i);
    GuardedArray<const uint8_t*> digests(1, edge(), 8);
    *digests.data() = digest.data();
    GuardedArray<float> mass(kQueries, edge(), 4);
    GuardedArray<float> peak(kQueries, edge(), 4);
    kernels_->score_digests({digests.data(), 1}, shape, {queries.data(), kQueries}, 1, mass.data(),
                            peak.data());
    EXPECT_TRUE(kernels_->finite(peak.data(), kQueries));
  }
}

INSTANTIATE_TEST_SUITE_P(AllTables, GuardPages,
                         ::testing::Combine(::testing::ValuesIn(kIsas),
                                            ::testing::Values(Edge::kEnd, Edge::kBegin)),
                         [](const auto& test) {
                           return std::string(isa_name(std::get<0>(test.param))) +
                                  (std::get<1>(test.param) == Edge::kEnd ? "AtTheEnd" : "AtTheBeginning");
                         });

}  // namespace
}  // namespace quire::test
