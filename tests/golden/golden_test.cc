// Every instruction set writes and reads the committed golden pages. (Their truth is the independent Python
// writer beside them.)
#include <gtest/gtest.h>

#include <fstream>

#include "tests/golden/manifest.h"

namespace quire::golden {
namespace {

nlohmann::ordered_json committed_manifest() {
  std::ifstream file(QUIRE_GOLDEN_MANIFEST);
  return nlohmann::ordered_json::parse(file);
}

class GoldenPages : public testing::TestWithParam<Isa> {};

TEST_P(GoldenPages, AreWrittenAndReadExactly) {
  const Kernels* kernels = find_kernels(GetParam());
  if (kernels == nullptr) GTEST_SKIP() << isa_name(GetParam()) << " is not in this build or machine";
  const nlohmann::ordered_json manifest = committed_manifest();
  const std::vector<PageSpec> specs = page_specs();
  ASSERT_EQ(manifest.size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    SCOPED_TRACE("page " + std::to_string(i));
    EXPECT_EQ(manifest_entry(specs[i], make_page(*kernels, specs[i])), manifest[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, GoldenPages, testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace quire::golden
