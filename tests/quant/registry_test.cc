// Which table is chosen.
#include <gtest/gtest.h>

#include "tests/quant/section.h"

namespace quire::test {
namespace {

TEST(Registry, TheScalarTableAlwaysExists) {
  ASSERT_NE(find_kernels(Isa::kScalar), nullptr);
  EXPECT_EQ(find_kernels(Isa::kScalar)->isa, Isa::kScalar);
}

TEST(Registry, TheBestTableIsTheLastThatExists) {
  const Kernels* best = nullptr;
  for (const Isa isa : kIsas) {
    if (const Kernels* kernels = find_kernels(isa)) best = kernels;
  }
  EXPECT_EQ(&best_kernels(), best);
}

TEST(Registry, EveryInstructionSetHasAName) {
  EXPECT_STREQ(isa_name(Isa::kScalar), "scalar");
  EXPECT_STREQ(isa_name(Isa::kAvx2), "avx2");
  EXPECT_STREQ(isa_name(Isa::kAvx512), "avx512");
  EXPECT_STREQ(isa_name(Isa::kNeon), "neon");
  EXPECT_STREQ(isa_name(Isa::kAvxVnni), "avxvnni");
  EXPECT_STREQ(isa_name(Isa::kAmx), "amx");
}

TEST(Registry, InstructionSetsOfOtherArchitecturesHaveNoTable) {
  for (const Isa isa : kForeignIsas) EXPECT_EQ(find_kernels(isa), nullptr) << isa_name(isa);
}

TEST(Registry, NoUnknownInstructionSetHasATable) { EXPECT_EQ(find_kernels(static_cast<Isa>(99)), nullptr); }

}  // namespace
}  // namespace quire::test
