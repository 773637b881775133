// Half precision and bfloat16 against the compiler's own, all patterns and every tie between them.
#include "quant/half.h"

#include <cmath>

#include "tests/emu/testing.h"
#include "tests/quant/random.h"

namespace emu::test {
namespace {

using quire::test::Random;

// Numbers that decide a rounding: every f16 and bf16, the midpoints between neighbours, and a bit beside
// those.
std::vector<float> deciding_numbers() {
  std::vector<float> numbers;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    for (const uint32_t low : {0U, 1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      numbers.push_back(std::bit_cast<float>(pattern << 16 | low));
    }
    const float here = quire::f16_to_f32(static_cast<uint16_t>(pattern));
    const float next = quire::f16_to_f32(static_cast<uint16_t>(pattern + 1));
    if (!std::isfinite(here) || !std::isfinite(next)) continue;
    const float middle = (here + next) / 2;
    for (const float number : {here, middle, std::nextafter(middle, here), std::nextafter(middle, next)}) {
      numbers.push_back(number);
    }
  }
  return numbers;
}

TEST(Half, ConversionsAgreeWithTheFormatsOwn) {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto bits = static_cast<uint16_t>(pattern);
    ASSERT_EQ(std::bit_cast<uint32_t>(__half2float(__ushort_as_half(bits))),
              std::bit_cast<uint32_t>(quire::f16_to_f32(bits)));
  }
  for (const float number : deciding_numbers()) {
    if (std::isnan(number)) {
      ASSERT_EQ(__half_as_ushort(__float2half_rn(number)), 0x7FFF);
      continue;
    }
    ASSERT_EQ(__half_as_ushort(__float2half_rn(number)), quire::f32_to_f16(number)) << number;
  }
}

TEST(Half, Bf16RoundsToNearestEvenAndDoesNotSaturate) {
  for (const float number : deciding_numbers()) {
    const uint16_t rounded = __bfloat16_as_ushort(__float2bfloat16_rn(number));
    if (std::isnan(number)) {
      ASSERT_EQ(rounded, 0x7FFF);
    } else if (std::fabs(number) < 0x1.FFp127F) {
      ASSERT_EQ(rounded, quire::f32_to_bf16(number)) << number;
    } else {
      ASSERT_EQ(rounded & 0x7FFF, 0x7F80) << number;
    }
  }
}

#if defined(__x86_64__)
TEST(Half, ArithmeticAgreesWithTheCompilers) {
  Random random(5);
  for (int i = 0; i < 200000; ++i) {
    std::array<uint16_t, 3> bits{};
    std::array<__half, 3> x;
    std::array<_Float16, 3> y;
    for (size_t k = 0; k < 3; ++k) {
      bits[k] = static_cast<uint16_t>(random.bits());
      if ((bits[k] & 0x7C00) == 0x7C00) bits[k] &= 0x83FF;
      x[k] = __ushort_as_half(bits[k]);
      y[k] = std::bit_cast<_Float16>(bits[k]);
    }
    const auto same = [](__half a, _Float16 b) { return __half_as_ushort(a) == std::bit_cast<uint16_t>(b); };
    ASSERT_TRUE(same(__hadd(x[0], x[1]), static_cast<_Float16>(y[0] + y[1])));
    ASSERT_TRUE(same(__hmul(x[0], x[1]), static_cast<_Float16>(y[0] * y[1])));
    // long double holds the product, and a sum that misses no bit that could decide.
    const auto exact =
        static_cast<long double>(y[0]) * static_cast<long double>(y[1]) + static_cast<long double>(y[2]);
    ASSERT_TRUE(same(__hfma(x[0], x[1], x[2]), static_cast<_Float16>(exact)));
  }
}
#endif

TEST(Half, Bf16FusedMultiplyAddRoundsOnce) {
  Random random(6);
  for (int i = 0; i < 200000; ++i) {
    std::array<__nv_bfloat16, 3> x;
    std::array<long double, 3> y;
    for (size_t k = 0; k < 3; ++k) {
      const float value = std::ldexp(random.normal(), static_cast<int>(random.below(24)) - 12);
      x[k] = __float2bfloat16_rn(value);
      y[k] = __bfloat162float(x[k]);
    }
    const long double exact = y[0] * y[1] + y[2];
    const float got = __bfloat162float(__hfma(x[0], x[1], x[2]));
    const auto bits = std::bit_cast<uint32_t>(got);
    for (const uint32_t neighbour : {bits - 0x10000U, bits + 0x10000U}) {
      const long double other = std::bit_cast<float>(neighbour);
      ASSERT_LE(std::fabs(exact - static_cast<long double>(got)), std::fabs(exact - other));
    }
  }
}

}  // namespace
}  // namespace emu::test
