#include "tests/bindings/plain_attention.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { kMaxPositions = 4096 };

void plain_attention(const plain_shape* shape, const float* keys, const float* values, const float* query,
                     size_t position, double* out) {
  const size_t dim = shape->head_dim, row = shape->kv_heads * dim;
  const double scale = 1.0 / sqrt((double)dim);
  double weights[kMaxPositions];
  memset(out, 0, shape->query_heads * dim * sizeof *out);
  for (size_t head = 0; head < shape->query_heads; head++) {
    const size_t offset = head / (shape->query_heads / shape->kv_heads) * dim;
    const float* q = query + head * dim;
    double highest = -INFINITY, sum = 0;
    for (size_t t = 0; t <= position; t++) {
      double dot = 0;
      for (size_t c = 0; c < dim; c++) dot += (double)q[c] * keys[t * row + offset + c];
      weights[t] = dot * scale;
      highest = fmax(highest, weights[t]);
    }
    for (size_t t = 0; t <= position; t++) sum += weights[t] = exp(weights[t] - highest);
    for (size_t t = 0; t <= position; t++)
      for (size_t c = 0; c < dim; c++) out[head * dim + c] += weights[t] / sum * values[t * row + offset + c];
  }
}

void plain_random(unsigned long long seed, float* out, size_t count) {
  uint64_t state = seed;
  for (size_t i = 0; i < count; i++) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    out[i] = (float)((double)(z >> 11) / 4503599627370496.0 - 1.0);
  }
}
