// How codes lie and become levels: what kernels are compiled for, where codecs differ. Thread safety: pure
// functions.
#pragma once

#include "quant/codec.h"
#include "quant/cpu/target.h"
#include "quant/trellis.h"

HWY_BEFORE_NAMESPACE();
namespace quire::HWY_NAMESPACE {

// Codes of `bits`, each for itself or along a trellis, or levels that were codes of 4 bits or fewer. 16 and
// 32 bits are floats.
struct Form {
  uint32_t bits;
  bool trellis = false;
  bool unpacked = false;
  constexpr bool is_float() const { return bits >= 16; }
  constexpr bool few_bits() const { return bits < 8 || unpacked; }
};
inline constexpr Form kUnpacked{8, false, true};

// Calls f(integral_constant) for the form of a codec.
template <class F>
void with_form(const CodecInfo& codec, F f) {
  const auto call = [&f]<Form kForm>() { f(std::integral_constant<Form, kForm>{}); };
  if (codec.family == CodecFamily::kTrellis) {
    switch (codec.bits) {
      case 1:
        return call.template operator()<Form{1, true}>();
      case 2:
        return call.template operator()<Form{2, true}>();
      case 3:
        return call.template operator()<Form{3, true}>();
      default:
        return call.template operator()<Form{4, true}>();
    }
  }
  switch (codec.bits) {
    case 2:
      return call.template operator()<Form{2}>();
    case 3:
      return call.template operator()<Form{3}>();
    case 4:
      return call.template operator()<Form{4}>();
    case 8:
      return call.template operator()<Form{8}>();
    case 16:
      return call.template operator()<Form{16}>();
    default:
      return call.template operator()<Form{32}>();
  }
}

}  // namespace quire::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
