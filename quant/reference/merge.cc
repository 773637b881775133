#include "quant/reference/merge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace quire::reference {

void merge(const AttendState& into, const AttendState& from, uint32_t rows, uint32_t dim) {
  for (uint32_t row = 0; row < rows; ++row) {
    if (from.l[row] == 0.0F) continue;
    const float m = std::max(into.m[row], from.m[row]);
    const float keep = std::exp2(into.m[row] - m);
    const float add = std::exp2(from.m[row] - m);
    into.m[row] = m;
    into.l[row] = into.l[row] * keep + from.l[row] * add;
    float* o = into.o + size_t{row} * dim;
    const float* other = from.o + size_t{row} * dim;
    for (uint32_t channel = 0; channel < dim; ++channel)
      o[channel] = o[channel] * keep + other[channel] * add;
  }
}

void finish(const AttendState& state, uint32_t rows, uint32_t dim, float* lse) {
  for (uint32_t row = 0; row < rows; ++row) {
    const float l = state.l[row];
    float* o = state.o + size_t{row} * dim;
    for (uint32_t channel = 0; channel < dim; ++channel) o[channel] = l == 0.0F ? 0.0F : o[channel] / l;
    if (lse == nullptr) continue;
    lse[row] = l == 0.0F ? -std::numeric_limits<float>::infinity()
                         : (state.m[row] + std::log2(l)) * std::numbers::ln2_v<float>;
  }
}

}  // namespace quire::reference
