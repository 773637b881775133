// Outliers: one value of each lane (a token of keys, a channel of values) that its group leaves out. How a
// writer chooses them and what they do to ranges. Thread safety: pure functions, apart from what they are
// told to fill.
#pragma once

#include "quant/cpu/lanes-inl.h"
#include "quant/cpu/pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

inline constexpr uint32_t kMaxOutlierLanes = kMaxTokens > kMaxDim ? kMaxTokens : kMaxDim;
// Deviations below this, beside values near 1, are taken as zero.
inline constexpr float kNegligibleDeviation = 0x1p-60F;

// The group of each lane's outlier.
struct OutlierGroups {
  alignas(64) int32_t group[kMaxOutlierLanes];
};

// Of a codec that keeps none: what is asked of it costs nothing.
struct NoOutliers {};

// Where sixteen channels from c on hold the outlier of token t.
HWY_INLINE Mask key_outlier_at(const OutlierGroups& outliers, uint32_t t, uint32_t c) {
  return lane_index() + splat(static_cast<int32_t>(c)) == splat(outliers.group[t]);
}
HWY_INLINE NoOutliers key_outlier_at(NoOutliers, uint32_t /*t*/, uint32_t /*c*/) { return {}; }
HWY_INLINE Mask value_outlier_at(const OutlierGroups& outliers, uint32_t t, uint32_t c) {
  return load(outliers.group + c) == splat(static_cast<int32_t>(t));
}
HWY_INLINE NoOutliers value_outlier_at(NoOutliers, uint32_t /*t*/, uint32_t /*c*/) { return {}; }

// The value where it is no outlier.
HWY_INLINE Floats kept_or(Mask outlier, float instead, Floats value) {
  return select(outlier, splat(instead), value);
}
HWY_INLINE Floats kept_or(NoOutliers, float /*instead*/, Floats value) { return value; }

// The range of a group's members that are no outliers, or of all where nothing else is left.
struct GroupRange {
  Floats kept_low;
  Floats kept_high;
  Floats all_low;
  Floats all_high;

  HWY_INLINE static GroupRange empty() {
    return {splat(HUGE_VALF), splat(-HUGE_VALF), splat(HUGE_VALF), splat(-HUGE_VALF)};
  }
  template <typename Outlier>
  HWY_INLINE void add(Floats value, Outlier outlier) {
    all_low = min(all_low, value);
    all_high = max(all_high, value);
    kept_low = min(kept_low, kept_or(outlier, HUGE_VALF, value));
    kept_high = max(kept_high, kept_or(outlier, -HUGE_VALF, value));
  }
  // One lane per group.
  HWY_INLINE Floats low() const { return select(kept_high < kept_low, all_low, kept_low); }
  HWY_INLINE Floats high() const { return select(kept_high < kept_low, all_high, kept_high); }
  // All lanes of one group.
  HWY_INLINE void reduce(float* low, float* high) const {
    const float kept_from = smallest_lane(kept_low);
    const float kept_to = largest_lane(kept_high);
    const bool none = kept_to < kept_from;
    *low = none ? smallest_lane(all_low) : kept_from;
    *high = none ? largest_lane(all_high) : kept_to;
  }
};

// 1 / deviation, 0 where there is none.
HWY_INLINE Floats inverse_deviation(Floats squares, Floats share) {
  const Floats deviation = sqrt(squares * share);
  return select(deviation < splat(kNegligibleDeviation), splat(0.0F), splat(1.0F) / deviation);
}

inline void find_key_outliers(SectionShape shape, const float* x, uint32_t first, float down,
                              OutlierGroups* outliers) {
  alignas(64) float mean[kMaxDim];
  alignas(64) float inverse[kMaxDim];
  const Floats share = splat(1.0F / static_cast<float>(shape.tokens - first));
  const auto at = [&](uint32_t t, uint32_t c) __attribute__((always_inline)) {
    return load(x + size_t{t} * shape.dim + c) * splat(down);
  };
  for (uint32_t c = 0; c < shape.dim; c += kLanes) {
    Floats sum = at(first, c);
    for (uint32_t t = first + 1; t < shape.tokens; ++t) sum = sum + at(t, c);
    const Floats centre = sum * share;
    Floats squares = (at(first, c) - centre) * (at(first, c) - centre);
    for (uint32_t t = first + 1; t < shape.tokens; ++t) {
      squares = squares + (at(t, c) - centre) * (at(t, c) - centre);
    }
    store(centre, mean + c);
    store(inverse_deviation(squares, share), inverse + c);
  }
  for (uint32_t t = first; t < shape.tokens; ++t) {
    Floats farthest = splat(-1.0F);
    Floats channel = splat(0.0F);
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const Floats distance = abs(at(t, c) - load(mean + c)) * load(inverse + c);
      const Mask farther = farthest < distance;
      farthest = select(farther, distance, farthest);
      channel = select(farther, to_floats(lane_index() + splat(static_cast<int32_t>(c))), channel);
    }
    const Mask nearer = farthest < splat(largest_lane(farthest));
    outliers->group[t] = static_cast<int32_t>(smallest_lane(select(nearer, splat(HUGE_VALF), channel)));
  }
}

inline void find_value_outliers(SectionShape shape, const float* x, uint32_t first, float down,
                                OutlierGroups* outliers) {
  alignas(64) float farthest[kMaxDim];
  for (uint32_t c = 0; c < shape.dim; c += kLanes) store(splat(-1.0F), farthest + c);
  const float share = 1.0F / static_cast<float>(shape.dim);
  for (uint32_t t = first; t < shape.tokens; ++t) {
    const auto at = [&](uint32_t c) __attribute__((always_inline)) {
      return load(x + size_t{t} * shape.dim + c) * splat(down);
    };
    Floats sum = at(0);
    for (uint32_t c = kLanes; c < shape.dim; c += kLanes) sum = sum + at(c);
    const Floats mean = splat(sum16(sum) * share);
    Floats squares = (at(0) - mean) * (at(0) - mean);
    for (uint32_t c = kLanes; c < shape.dim; c += kLanes) squares = squares + (at(c) - mean) * (at(c) - mean);
    const Floats inverse = inverse_deviation(splat(sum16(squares)), splat(share));
    for (uint32_t c = 0; c < shape.dim; c += kLanes) {
      const Floats distance = abs(at(c) - mean) * inverse;
      const Mask farther = load(farthest + c) < distance;
      store(select(farther, distance, load(farthest + c)), farthest + c);
      store(select(farther, splat(static_cast<int32_t>(t)), load(outliers->group + c)), outliers->group + c);
    }
  }
}

// Chooses the outlier of every lane that has a valid member; there is a valid token.
inline void find_outliers(Side side, SectionShape shape, const float* x, uint32_t first, float down,
                          OutlierGroups* outliers) {
  side == Side::kKey ? find_key_outliers(shape, x, first, down, outliers)
                     : find_value_outliers(shape, x, first, down, outliers);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
