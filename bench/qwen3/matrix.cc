#include "bench/qwen3/matrix.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "bench/qwen3/blas.h"
#include "bench/qwen3/float16.h"
#include "bench/qwen3/lanes.h"

namespace quire::qwen3 {
namespace {

constexpr uint32_t kTileRows = 256;     // rows of x
constexpr uint32_t kTileColumns = 128;  // rows of w
// Below this many weights waking a thread costs more than it saves.
constexpr size_t kSerialWeights = size_t{1} << 18;

constexpr uint32_t tiles(uint32_t n, uint32_t tile) { return (n + tile - 1) / tile; }

QUIRE_VECTOR_CLONES
void unfold(const uint16_t* from, float* to, size_t n) {
  for (size_t i = 0; i < n; ++i) to[i] = bf16_to_f32(from[i]);
}

// The order of summation is fixed: four sums of lanes, then a remainder, then across.
QUIRE_VECTOR_CLONES
float dot(const float* x, const uint16_t* w, size_t n) {
  constexpr size_t kSums = 4;  // enough to hide the latency of an addition
  std::array<Floats, kSums> sums{};
  size_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    for (size_t part = 0; part < kSums; ++part) {
      Floats values;
      Halves weights;
      std::memcpy(&values, x + i + part * kLanes, sizeof values);
      std::memcpy(&weights, w + i + part * kLanes, sizeof weights);
      const Words bits = __builtin_convertvector(weights, Words) << 16;  // bf16_to_f32
      sums[part] += values * reinterpret_cast<Floats>(bits);
    }
  }
  float sum = 0;
  for (; i < n; ++i) sum += x[i] * bf16_to_f32(w[i]);
  const Floats total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (uint32_t lane = 0; lane < kLanes; ++lane) sum += total[lane];
  return sum;
}

void multiply_vector(ThreadPool& pool, const Matrix& w, const float* x, float* y) {
  const auto tile = [&](uint32_t t) {
    const uint32_t end = std::min(w.rows, (t + 1) * kTileColumns);
    for (uint32_t row = t * kTileColumns; row < end; ++row) {
      y[row] = dot(x, w.values.data() + size_t{row} * w.cols, w.cols);
    }
  };
  const uint32_t count = tiles(w.rows, kTileColumns);
  if (w.values.size() >= kSerialWeights) return pool.parallel_for(count, tile);
  for (uint32_t t = 0; t < count; ++t) tile(t);
}

}  // namespace

void multiply(ThreadPool& pool, const Matrix& w, std::span<const float> x, uint32_t m, std::span<float> y) {
  if (m == 1) return multiply_vector(pool, w, x.data(), y.data());
  const uint32_t row_tiles = tiles(m, kTileRows);
  pool.parallel_for(row_tiles * tiles(w.rows, kTileColumns), [&](uint32_t t) {
    const uint32_t row = t % row_tiles * kTileRows;
    const uint32_t column = t / row_tiles * kTileColumns;
    const uint32_t rows = std::min(kTileRows, m - row);
    const uint32_t columns = std::min(kTileColumns, w.rows - column);
    const size_t count = size_t{columns} * w.cols;
    const auto weights = std::make_unique_for_overwrite<float[]>(count);
    unfold(w.values.data() + size_t{column} * w.cols, weights.get(), count);
    multiply({x.data() + size_t{row} * w.cols, weights.get(), y.data() + size_t{row} * w.rows + column, rows,
              columns, w.cols, w.rows});
  });
}

void multiply(ThreadPool& pool, const Matrix& w, std::span<const float> x, std::span<const ProductRows> runs,
              std::span<float> y) {
  for (const ProductRows& run : runs) {
    const size_t in = size_t{run.count} * w.cols;
    const size_t out = size_t{run.count} * w.rows;
    if (run.count == run.rows) {
      multiply(pool, w, x.first(in), run.rows, y.first(out));
    } else {  // the rows of the product that are not wanted are zeros
      std::vector<float> whole_x(size_t{run.rows} * w.cols);
      std::vector<float> whole_y(size_t{run.rows} * w.rows);
      std::copy_n(x.begin(), in, whole_x.begin() + size_t{run.first} * w.cols);
      multiply(pool, w, whole_x, run.rows, whole_y);
      std::copy_n(whole_y.begin() + size_t{run.first} * w.rows, out, y.begin());
    }
    x = x.subspan(in);
    y = y.subspan(out);
  }
}

}  // namespace quire::qwen3
