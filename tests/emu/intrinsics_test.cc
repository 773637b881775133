// Intrinsics on single numbers against a plain restatement of the programming guide.
#include "tests/emu/testing.h"
#include "tests/quant/random.h"

namespace emu::test {
namespace {

TEST(Intrinsics, BytePermPicksBytesAndSigns) {
  EXPECT_EQ(__byte_perm(0x33221100U, 0x77665544U, 0x3210U), 0x33221100U);
  EXPECT_EQ(__byte_perm(0x33221100U, 0x77665544U, 0x7654U), 0x77665544U);
  EXPECT_EQ(__byte_perm(0x33221100U, 0x77665544U, 0x5140U), 0x55114400U);
  // Bit 3 of a nibble asks for the byte's sign.
  EXPECT_EQ(__byte_perm(0x80FF7F00U, 0U, 0xBA98U), 0xFFFF0000U);
  EXPECT_EQ(__byte_perm(0U, 0x80000000U, 0x000FU), 0x000000FFU);
}

TEST(Intrinsics, Dp4aWithAndWithoutSigns) {
  EXPECT_EQ(__dp4a(static_cast<int>(0x01FF8002U), 0x02030405, 10), 10 + 2 * 5 - 128 * 4 - 3 + 2);
  EXPECT_EQ(__dp4a(0x01FF8002U, 0x02030405U, 10U), 10U + 2 * 5 + 128 * 4 + 255 * 3 + 2);
}

TEST(Intrinsics, BitsAndConversions) {
  EXPECT_EQ(__popc(0xF0F0U), 8);
  EXPECT_EQ(__clz(1), 31);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__float2int_rn(2.5F), 2);
  EXPECT_EQ(__float2int_rn(3.5F), 4);
  EXPECT_EQ(__float2int_rn(-1e30F), -0x7FFFFFFF - 1);
  EXPECT_EQ(__float2int_rn(1e30F), 0x7FFFFFFF);
  EXPECT_EQ(__float2int_rn(std::nanf("")), 0);
  EXPECT_EQ(__float_as_uint(1.0F), 0x3F800000U);
  EXPECT_EQ(__uint_as_float(0xC0000000U), -2.0F);
}

}  // namespace
}  // namespace emu::test
