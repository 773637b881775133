// Attention states: merging two, and the final division. Thread safety: touches only its arguments.
#pragma once

#include "quant/cpu/exp2-inl.h"
#include "quant/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline void merge_states(const AttendState& into, const AttendState& from, uint32_t rows, uint32_t dim) {
  for (uint32_t r = 0; r < rows; ++r) {
    if (from.l[r] == 0.0F) continue;
    const float m = into.m[r] > from.m[r] ? into.m[r] : from.m[r];
    alignas(64) float factors[kLanes] = {into.m[r] - m, from.m[r] - m};
    store(exp2(max(load(factors), splat(-200.0F))), factors);
    const float keep = into.l[r] == 0.0F ? 0.0F : factors[0];
    const float take = factors[1];
    into.m[r] = m;
    into.l[r] = into.l[r] * keep + from.l[r] * take;
    for (uint32_t c = 0; c < dim; c += kLanes) {
      float* at = into.o + size_t{r} * dim + c;
      store(mul_add(load(from.o + size_t{r} * dim + c), splat(take), load(at) * splat(keep)), at);
    }
  }
}

inline void finish_state(const AttendState& state, uint32_t rows, uint32_t dim, float* lse) {
  constexpr double kLn2 = 0.693147180559945309417;
  for (uint32_t r = 0; r < rows; ++r) {
    const float l = state.l[r];
    const Floats share = splat(l == 0.0F ? 0.0F : 1.0F / l);
    for (uint32_t c = 0; c < dim; c += kLanes) {
      float* at = state.o + size_t{r} * dim + c;
      store(load(at) * share, at);
    }
    if (lse == nullptr) continue;
    lse[r] = l == 0.0F ? -HUGE_VALF : static_cast<float>(double{state.m[r]} * kLn2 + std::log(double{l}));
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
