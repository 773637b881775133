// Digests, their scores and the choice of pages on the device against those of the CPU.
#include "kvcache/select.h"

#include <cstring>

#include "quant/digest.h"
#include "tests/cuda/support.h"

namespace quire::cuda::test {
namespace {

class CudaSelect : public CudaTest {};

std::vector<float> inputs(const quire::test::InputKind& kind, SectionShape shape, uint64_t seed) {
  return kind.make(shape, seed);
}

TEST_F(CudaSelect, MakesTheCpusDigests) {
  for (const SectionShape shape :
       {SectionShape{32, 32}, SectionShape{64, 96}, SectionShape{64, 128}, SectionShape{128, 256}}) {
    if (kSlice && shape.dim > 96) continue;
    SCOPED_TRACE(quire::test::shape_name(shape));
    const size_t bytes = digest_bytes(shape);
    std::vector<float> keys;
    for (const auto& kind : quire::test::kInputKinds) {
      const std::vector<float> some = inputs(kind, shape, 3);
      keys.insert(keys.end(), some.begin(), some.end());
    }
    const auto count = static_cast<uint32_t>(quire::test::kInputKinds.size());
    const DeviceArray<float> device_keys(keys);
    const DeviceArray<uint8_t> digests(count * bytes);
    std::vector<uint8_t*> places;
    for (uint32_t i = 0; i < count; ++i) places.push_back(digests.data() + i * bytes);
    const DeviceArray<uint8_t*> device_places(places);
    expect_ran(make_digests({shape, device_keys.data(), device_places.data(), count}, nullptr));
    const std::vector<uint8_t> got = digests.host();
    std::vector<uint8_t> expected(bytes);
    for (uint32_t i = 0; i < count; ++i) {
      make_digest(keys.data() + size_t{i} * shape.tokens * shape.dim, shape, expected.data());
      EXPECT_EQ(std::memcmp(got.data() + i * bytes, expected.data(), bytes), 0)
          << quire::test::kInputKinds[i].name;
    }
  }
}

TEST_F(CudaSelect, EncodesDigestsWithThePages) {
  constexpr SectionShape kShape{32, 64};
  const PageKind kind = kind_of(CodecId::kRot4, CodecId::kInt4, kShape, 4);
  const SectionFormat format = section_format(kind);
  const std::vector<float> keys = quire::test::normal_values(size_t{kShape.tokens} * kShape.dim, 5);
  const DeviceArray<float> x(keys);
  const DeviceArray<uint8_t> bytes(format.layout.bytes);
  const DeviceArray<uint8_t> digest(digest_bytes(kShape));
  const DeviceArray<uint8_t*> sections(std::vector<uint8_t*>{bytes.data()});
  const DeviceArray<uint8_t*> digests(std::vector<uint8_t*>{digest.data()});
  const DeviceArray<uint32_t> params(2);
  const EncodeInput input = dense_input(x.data(), kShape);
  EncodeArgs args{format, input, input, sections.data(), params.data(), 1, digests.data()};
  expect_ran(encode_sections(args, nullptr));
  std::vector<uint8_t> expected(digest_bytes(kShape));
  make_digest(keys.data(), kShape, expected.data());
  EXPECT_EQ(digest.host(), expected);
}

// Pages of several heads with digests of the CPU.
struct Digests {
  Digests(SectionShape shape, uint32_t heads, uint32_t pages)
      : bytes(digest_bytes(shape)), all(pages * heads * bytes) {
    for (uint32_t i = 0; i < pages * heads; ++i) {
      std::vector<float> keys = quire::test::normal_values(size_t{shape.tokens} * shape.dim, 900 + i);
      for (float& key : keys) key *= i % 5 == 0 ? 3.0F : 1.0F;
      make_digest(keys.data(), shape, all.data() + i * bytes);
    }
  }
  size_t bytes;
  std::vector<uint8_t> all;  // [pages][heads]
};

TEST_F(CudaSelect, ScoresAsTheCpuDoes) {
  for (const SectionShape shape : {SectionShape{64, 128}, SectionShape{32, 64}, SectionShape{128, 160}}) {
    if (kSlice && shape.dim != 64) continue;
    SCOPED_TRACE(quire::test::shape_name(shape));
    constexpr uint32_t kHeads = 2;
    constexpr uint32_t kPages = 70;
    constexpr uint32_t kRows = 5;
    const Digests digests(shape, kHeads, kPages);
    const DeviceArray<uint8_t> device_digests(digests.all);
    std::vector<const uint8_t*> places;
    for (uint32_t p = 0; p < kPages; ++p)
      places.push_back(device_digests.data() + p * kHeads * digests.bytes);
    const DeviceArray<const uint8_t*> device_places(places);
    std::vector<float> q = quire::test::normal_values(size_t{kHeads} * kRows * shape.dim, 4);
    for (uint32_t c = 0; c < shape.dim; ++c) q[c] = 0.0F;  // a row of zeros
    const DeviceArray<float> device_q(q);
    const size_t n = size_t{kHeads} * kRows * kPages;
    const DeviceArray<float> mass(n);
    const DeviceArray<float> peak(n);
    expect_ran(score_digests(
        {shape, device_places.data(), kPages, kHeads, device_q.data(), kRows, mass.data(), peak.data()},
        nullptr));
    const std::vector<float> got_mass = mass.host();
    const std::vector<float> got_peak = peak.host();
    for (uint32_t h = 0; h < kHeads; ++h) {
      for (uint32_t r = 0; r < kRows; ++r) {
        DigestQuery query;
        make_digest_query(q.data() + (size_t{h} * kRows + r) * shape.dim, shape.dim, &query);
        for (uint32_t p = 0; p < kPages; ++p) {
          float m = 0;
          float k = 0;
          const uint8_t* const digest = digests.all.data() + (p * kHeads + h) * digests.bytes;
          quire::score_digests({&digest, 1}, shape, {&query, 1}, 1, &m, &k);
          const size_t at = (size_t{h} * kRows + r) * kPages + p;
          ASSERT_EQ(got_mass[at], m) << "head " << h << ", row " << r << ", page " << p;
          ASSERT_EQ(got_peak[at], k);
        }
      }
    }
  }
}

struct SelectCase {
  uint32_t pages;
  uint32_t rows;
  Selection selection;
  bool ties = false;
};

void expect_cpus_choice(const SelectCase& c, uint64_t seed) {
  constexpr uint32_t kHeads = 2;
  const size_t n = size_t{kHeads} * c.rows * c.pages;
  std::vector<float> mass = quire::test::normal_values(n, seed);
  std::vector<float> peak = quire::test::normal_values(n, seed + 1);
  for (float& x : mass) x = c.ties ? std::floor(x) : 4 * x;
  for (float& x : peak) x = c.ties ? std::floor(x) : 4 * x;
  std::vector<uint8_t> always(size_t{kHeads} * c.pages);
  for (size_t i = 0; i < always.size(); ++i)
    always[i] = i % c.pages == 0 || i % c.pages + 3 > c.pages ? 1 : 0;
  const DeviceArray<float> device_mass(mass);
  const DeviceArray<float> device_peak(peak);
  const DeviceArray<uint8_t> device_always(always);
  const DeviceArray<uint8_t> chosen(always.size());
  const DeviceArray<float> left_out(size_t{kHeads} * c.rows);
  const bool top = c.selection.kind == SelectionKind::kTopPages;
  expect_ran(select_pages(
      {kHeads, c.rows, c.pages, c.selection.pages, top ? 0 : c.selection.mass, device_mass.data(),
       device_peak.data(), device_always.data(), chosen.data(), left_out.data()},
      nullptr));
  const std::vector<uint8_t> got = chosen.host();
  const std::vector<float> got_left = left_out.host();
  for (uint32_t h = 0; h < kHeads; ++h) {
    std::vector<float> weight(c.pages);
    std::vector<uint32_t> order(c.pages);
    std::vector<uint8_t> expected(c.pages);
    std::vector<float> left(c.rows);
    choose_pages(c.selection,
                 {c.rows, c.pages, mass.data() + size_t{h} * c.rows * c.pages,
                  peak.data() + size_t{h} * c.rows * c.pages, weight.data(), order.data(),
                  always.data() + size_t{h} * c.pages},
                 expected.data(), left.data());
    for (uint32_t p = 0; p < c.pages; ++p)
      ASSERT_EQ(got[size_t{h} * c.pages + p], expected[p]) << "page " << p;
    for (uint32_t r = 0; r < c.rows; ++r) {
      const float actual = got_left[size_t{h} * c.rows + r];
      if (std::isinf(left[r])) {
        ASSERT_EQ(actual, left[r]);
      } else {
        ASSERT_NEAR(actual, left[r], 1e-4);
      }
    }
  }
}

TEST_F(CudaSelect, ChoosesTheHeaviestAsTheCpuDoes) {
  for (const uint32_t pages : {4U, 7U, 33U, kSlice ? 33U : 900U}) {
    for (const uint32_t taken : {0U, 1U, 2U, 5U, pages / 2, pages}) {
      for (const bool ties : {false, true}) {
        SCOPED_TRACE(std::to_string(taken) + " of " + std::to_string(pages) + (ties ? ", ties" : ""));
        Selection selection;
        selection.kind = SelectionKind::kTopPages;
        selection.pages = taken;
        expect_cpus_choice({pages, taken % 3 + 1, selection, ties}, 20 + taken);
      }
    }
  }
}

TEST_F(CudaSelect, ChoosesTheFewestThatHoldTheMassAsTheCpuDoes) {
  for (const uint32_t pages : {4U, 33U, kSlice ? 33U : 700U}) {
    for (const float share : {0.1F, 0.5F, 0.9F, 0.999F, 1.0F}) {
      for (const bool ties : {false, true}) {
        SCOPED_TRACE(std::to_string(share) + " of " + std::to_string(pages) + (ties ? ", ties" : ""));
        Selection selection;
        selection.kind = SelectionKind::kMass;
        selection.mass = share;
        // A share of all is a matter of rounding: the sums of different orders differ.
        if (share == 1.0F && pages > 4) continue;
        expect_cpus_choice({pages, 3, selection, ties}, 50 + pages);
      }
    }
  }
}

}  // namespace
}  // namespace quire::cuda::test
