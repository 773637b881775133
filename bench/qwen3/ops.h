// The decoder's small operations on rows of f32. Every result depends on its own row alone.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace quire::qwen3 {

// out = x / rms(x) * weight; out may be x. All of one length.
void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, std::span<float> out);

// gate_up [2 n] = gate, up; out [n] = silu(gate) * up.
void swiglu(std::span<const float> gate_up, std::span<float> out);

// x += y.
void add(std::span<float> x, std::span<const float> y);

// -log of the probability that softmax(logits) gives to `token`, in f64.
double negative_log_likelihood(std::span<const float> logits, int32_t token);

// The index of the largest value, the first of several.
int32_t argmax(std::span<const float> values);

}  // namespace quire::qwen3
