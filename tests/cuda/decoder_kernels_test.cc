// The decoder's kernels against f64, and its choice of tokens against the sampler of the CPU.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/qwen3/cuda/kernels.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/sampler.h"
#include "tests/cuda/runner.h"
#include "tests/quant/random.h"

namespace quire::qwen3::cuda {
namespace {

using emu::test::DeviceArray;
using quire::test::Random;
using CudaDecoderKernels = quire::cuda::test::CudaTest;

void expect_ran(cudaError_t launched) {
  ASSERT_EQ(launched, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << quire::cuda::test::last_failure();
}

std::vector<float> values(size_t count, uint64_t seed, float scale = 1.0F) {
  Random random(seed);
  std::vector<float> out(count);
  for (float& x : out) x = scale * random.normal();
  return out;
}

// |got - want| <= tolerance * (1 + |want|), all finite.
void expect_close(const std::vector<float>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(double{got[i]} - want[i]), tolerance * (1 + std::abs(want[i]))) << "at " << i;
  }
}

std::vector<double> normed(const float* x, const float* weight, size_t width, double eps) {
  double sum = 0;
  for (size_t i = 0; i < width; ++i) sum += double{x[i]} * x[i];
  const double inverse = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
  std::vector<double> out;
  for (size_t i = 0; i < width; ++i) out.push_back(x[i] * inverse * weight[i]);
  return out;
}

TEST_F(CudaDecoderKernels, EmbeddingsAreTheTablesRows) {
  constexpr uint32_t kWidth = 96;
  const std::vector<float> table = values(50 * size_t{kWidth}, 1);
  std::vector<uint16_t> bits;
  for (const float x : table) bits.push_back(f32_to_bf16(x));
  const std::vector<int32_t> tokens{49, 0, 7, 7, 21};
  const DeviceArray<uint16_t> device_table(bits);
  const DeviceArray<int32_t> device_tokens(tokens);
  const DeviceArray<float> out(tokens.size() * kWidth);
  expect_ran(embed({device_table.data(), device_tokens.data(), out.data(), 5, kWidth}, nullptr));
  const std::vector<float> got = out.host();
  for (size_t i = 0; i < got.size(); ++i) {
    const auto token = static_cast<size_t>(tokens[i / kWidth]);
    ASSERT_EQ(got[i], bf16_to_f32(bits[token * kWidth + i % kWidth])) << "at " << i;
  }
}

TEST_F(CudaDecoderKernels, NormsOfRowsMatchF64) {
  for (const uint32_t width : {32U, 100U, 256U, 1025U}) {
    constexpr uint32_t kRows = 3;
    const std::vector<float> x = values(size_t{kRows} * width, width, 3.0F);
    const std::vector<float> weight = values(width, width + 1);
    std::vector<double> want;
    for (size_t row = 0; row < kRows; ++row) {
      const std::vector<double> one = normed(x.data() + row * width, weight.data(), width, 1e-6);
      want.insert(want.end(), one.begin(), one.end());
    }
    for_all_schedules([&] {
      const DeviceArray<float> rows(x);
      const DeviceArray<float> device_weight(weight);
      const DeviceArray<float> out(x.size());
      expect_ran(norm_rows({rows.data(), device_weight.data(), out.data(), kRows, width, 1e-6F}, nullptr));
      expect_close(out.host(), want, 1e-6);
      expect_ran(norm_rows({rows.data(), device_weight.data(), rows.data(), kRows, width, 1e-6F}, nullptr));
      EXPECT_EQ(rows.host(), out.host());
    });
  }
}

// Rows of heads, and what norm and rotation make of them.
struct HeadCase {
  uint32_t rows, query_heads, kv_heads, dim;
  size_t stride() const { return size_t{query_heads + 2 * kv_heads} * dim; }
};
constexpr std::array<HeadCase, 3> kHeadCases{{{5, 4, 2, 128}, {1, 3, 1, 64}, {2, 2, 2, 32}}};

TEST_F(CudaDecoderKernels, NormsOfHeadsMatchF64AndLeaveValuesAlone) {
  for (const HeadCase& c : kHeadCases) {
    const std::vector<float> x = values(c.rows * c.stride(), c.dim, 5.0F);
    const std::vector<float> query_weight = values(c.dim, 1);
    const std::vector<float> key_weight = values(c.dim, 2);
    std::vector<double> want(x.begin(), x.end());
    for (size_t row = 0; row < c.rows; ++row) {
      for (size_t head = 0; head < c.query_heads + c.kv_heads; ++head) {
        const size_t at = row * c.stride() + head * c.dim;
        const std::vector<float>& weight = head < c.query_heads ? query_weight : key_weight;
        const std::vector<double> one = normed(x.data() + at, weight.data(), c.dim, 1e-6);
        std::copy(one.begin(), one.end(), want.begin() + static_cast<int64_t>(at));
      }
    }
    for_all_schedules([&] {
      const DeviceArray<float> rows(x);
      const DeviceArray<float> queries(query_weight);
      const DeviceArray<float> keys(key_weight);
      const HeadRows heads{rows.data(), c.rows, c.query_heads, c.kv_heads, c.dim};
      expect_ran(norm_heads({heads, queries.data(), keys.data(), 1e-6F}, nullptr));
      expect_close(rows.host(), want, 1e-6);
    });
  }
}

TEST_F(CudaDecoderKernels, RotationsMatchF64AndLeaveValuesAlone) {
  for (const HeadCase& c : kHeadCases) {
    const size_t half = c.dim / 2;
    const std::vector<float> x = values(c.rows * c.stride(), c.dim + 1);
    std::vector<float> cosines;
    std::vector<float> sines;
    std::vector<double> want(x.begin(), x.end());
    for (size_t row = 0; row < c.rows; ++row) {
      for (size_t pair = 0; pair < half; ++pair) {
        const double angle = (1000.0 + static_cast<double>(row)) / std::pow(1e4, double(pair) / double(half));
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
        for (size_t head = 0; head < c.query_heads + c.kv_heads; ++head) {
          const size_t at = row * c.stride() + head * c.dim + pair;
          want[at] = x[at] * std::cos(angle) - x[at + half] * std::sin(angle);
          want[at + half] = x[at + half] * std::cos(angle) + x[at] * std::sin(angle);
        }
      }
    }
    const DeviceArray<float> rows(x);
    const DeviceArray<float> device_cosines(cosines);
    const DeviceArray<float> device_sines(sines);
    const HeadRows heads{rows.data(), c.rows, c.query_heads, c.kv_heads, c.dim};
    expect_ran(rotate_heads({heads, device_cosines.data(), device_sines.data()}, nullptr));
    expect_close(rows.host(), want, 1e-6);
  }
}

TEST_F(CudaDecoderKernels, SwigluMatchesF64) {
  constexpr uint32_t kWidth = 321;
  std::vector<float> x = values(4 * size_t{kWidth}, 3, 8.0F);
  x[0] = -200.0F;  // silu's exponential leaves the range of f32
  x[1] = 200.0F;
  std::vector<double> want;
  for (size_t row = 0; row < 2; ++row) {
    for (size_t i = 0; i < kWidth; ++i) {
      const double gate = x[row * 2 * kWidth + i];
      want.push_back(gate / (1 + std::exp(-gate)) * x[row * 2 * kWidth + kWidth + i]);
    }
  }
  const DeviceArray<float> rows(x);
  const DeviceArray<float> out(want.size());
  expect_ran(swiglu({rows.data(), out.data(), 2, kWidth}, nullptr));
  expect_close(out.host(), want, 1e-6);
}

TEST_F(CudaDecoderKernels, AddsRowsAndBiases) {
  const std::vector<float> x = values(6 * 70, 4);
  const std::vector<float> y = values(6 * 70, 5);
  for (const size_t period : {size_t{70}, x.size()}) {
    const DeviceArray<float> rows(x);
    const DeviceArray<float> others(y);
    expect_ran(add({rows.data(), others.data(), x.size(), period}, nullptr));
    const std::vector<float> got = rows.host();
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(got[i], x[i] + y[i % period]) << "at " << i;
  }
}

TEST_F(CudaDecoderKernels, TwoPartsLeaveAlmostNothing) {
  std::vector<float> x = values(1000, 6, 100.0F);
  x[0] = 0.0F;
  x[1] = -0x1p-100F;
  const DeviceArray<float> rows(x);
  const DeviceArray<uint16_t> parts(2 * x.size());
  expect_ran(split({rows.data(), parts.data(), x.size()}, nullptr));
  const std::vector<uint16_t> got = parts.host();
  std::vector<float> products;
  for (const uint16_t bits : got) products.push_back(bf16_to_f32(bits));
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_LE(std::abs(double{products[i]} + products[x.size() + i] - x[i]), 0x1p-17 * std::abs(x[i]));
  }
  const DeviceArray<float> both(products);
  const DeviceArray<float> out(x.size());
  expect_ran(join({both.data(), out.data(), x.size()}, nullptr));
  const std::vector<float> joined = out.host();
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(joined[i], products[i] + products[x.size() + i]);
}

// Draws on the device with the numbers that the CPU's sampler would have drawn.
class Draws {
 public:
  Draws(const std::vector<float>& logits, const SamplingOptions& options)
      : logits_(logits), options_(options), random_(options.seed), shares_(logits.size()), token_(1) {}
  int32_t pick() {
    const double uniform = options_.temperature == 0 ? 0 : random_.uniform();
    const auto vocab = static_cast<uint32_t>(shares_.host().size());
    const SampleArgs args{logits_.data(), vocab,   options_.top_k, options_.temperature,
                          options_.top_p, uniform, shares_.data(), token_.data()};
    EXPECT_EQ(sample(args, nullptr), cudaSuccess);
    return token_.host()[0];
  }

 private:
  DeviceArray<float> logits_;
  SamplingOptions options_;
  qwen3::Random random_;
  DeviceArray<uint64_t> shares_;
  DeviceArray<int32_t> token_;
};

TEST_F(CudaDecoderKernels, DrawsAreTheSamplersOwn) {
  std::vector<float> logits = values(1300, 9, 3.0F);
  logits[17] = logits[900] = 12.0F;  // equals: the first one comes first
  logits[3] = -0.0F;
  logits[2] = 0.0F;
  const std::vector<float> few{std::log(0.1F), std::log(0.5F), std::log(0.15F), std::log(0.25F)};
  const std::vector<float> equal(77, -1.0F);
  const std::array<SamplingOptions, 9> cases{{{0, 0, 1, 1},
                                              {1, 0, 1, 2},
                                              {1, 1, 1, 3},
                                              {0.7, 50, 1, 4},
                                              {1, 0, 0.9, 5},
                                              {1.5, 40, 0.5, 6},
                                              {2, 2000, 0.99, 7},
                                              {0.05, 0, 1, 8},
                                              {100, 3, 1e-9, 9}}};
  uint32_t draws = 0;
  for (const std::vector<float>& from : {logits, few, equal}) {
    for (const SamplingOptions& options : cases) {
      SCOPED_TRACE("temperature " + std::to_string(options.temperature) + ", top_k " +
                   std::to_string(options.top_k) + ", top_p " + std::to_string(options.top_p));
      Sampler sampler(options);
      Draws device(from, options);
      for (int i = 0; i < 6; ++i, ++draws) ASSERT_EQ(device.pick(), sampler.pick(from)) << "draw " << i;
    }
  }
  std::printf("[counts] cases=%u\n", draws);
}

TEST_F(CudaDecoderKernels, DrawsDependOnNoSchedule) {
  const std::vector<float> logits = values(2100, 10, 2.0F);
  const SamplingOptions options{1, 900, 0.95, 3};
  const int32_t first = Draws(logits, options).pick();
  for_all_schedules([&] { EXPECT_EQ(Draws(logits, options).pick(), first); });
}

TEST_F(CudaDecoderKernels, RefusesMoreTokensThanSharesHaveRoomFor) {
  const DeviceArray<float> logits(1);
  const SampleArgs args{logits.data(), (1U << 18) + 1, 0, 0, 1, 0, nullptr, nullptr};
  EXPECT_EQ(sample(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace quire::qwen3::cuda
