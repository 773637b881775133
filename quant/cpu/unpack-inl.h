// Levels of one side of a section, looked up once for all blocks of rows where these are many (prefill).
// Otherwise every block looks them up again as it multiplies, beside its products. Thread safety: pure
// functions on the caller's memory.
#pragma once

#include "quant/cpu/quad_dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// From so many blocks on. Where products leave the ports of lookups free (Zen 4) a block gains nothing, and
// storing levels takes a fiftieth of eight blocks; with AVX2, where they do not, even eight gain a tenth.
// Matrices are multiplied of unpacked levels alone.
#if defined(QUIRE_SIMD_AMX)
inline constexpr uint32_t kUnpackedBlocks = kLeastMatrixRows / kMaxBlockRows;
#else
inline constexpr uint32_t kUnpackedBlocks = 16;
#endif

// Levels of one quad after another, [quads][lanes / 16].
template <Side kSide, Form kForm>
requires(kForm.unpacked) struct Codes<kSide, kForm> {
  static constexpr uint32_t kQuads = 1;
  Levels held;

  HWY_INLINE static Codes load(const uint8_t* levels, const uint8_t* /*high_plane*/, uint32_t step,
                               uint32_t /*steps*/, uint32_t lane, uint32_t lanes) {
    return {reinterpret_cast<const Levels*>(levels)[(size_t{step} * lanes + lane) / kLanes]};
  }
  // The codes ahead were asked for as these were unpacked.
  HWY_INLINE static void prefetch(const uint8_t*, const uint8_t*, uint32_t, uint32_t, uint32_t) {}
  template <uint32_t>
  HWY_INLINE Levels levels(const auto& /*table*/) const {
    return held;
  }
};

// out: [quads][lanes / 16], what source.codes points at from then on.
using UnpackLevels = void (*)(uint32_t quads, uint32_t lanes, QuadSource* source, Levels* out);

template <Side kSide, Form kForm>
void unpack_levels(uint32_t quads, uint32_t lanes, QuadSource* source, Levels* out) {
  using Step = Codes<kSide, kForm>;
  const auto table = load_table<kForm>(*source->table);
  const uint8_t* high_plane = source->codes + source->high_plane;
  const uint8_t* high_plane_ahead = source->ahead + source->high_plane;
  const uint32_t steps = quads / Step::kQuads;
  const size_t columns = lanes / kLanes;
  for (uint32_t step = 0; step < steps; ++step) {
    for (uint32_t lane = 0; lane < lanes; lane += kLanes) {
      const Step codes = Step::load(source->codes, high_plane, step, steps, lane, lanes);
      Step::prefetch(source->ahead, high_plane_ahead, step, lane, lanes);
      for_fields<Step::kQuads>([&](auto field) __attribute__((always_inline)) {
        out[(size_t{step} * Step::kQuads + field()) * columns + lane / kLanes] =
            codes.template levels<field()>(table);
      });
    }
  }
  source->codes = reinterpret_cast<const uint8_t*>(out);
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
