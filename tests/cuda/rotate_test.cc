// The rotation kernel against the scalar reference, bit for bit.
#include <cstring>

#include "tests/cuda/support.h"

namespace quire::cuda::test {
namespace {

TEST(CudaRotate, GivesTheReferencesBits) {
  for (uint32_t dim = 32; dim <= 256; dim += 32) {
    for (const bool balanced : {false, true}) {
      SCOPED_TRACE(dim);
      constexpr uint32_t kRows = 3;
      std::vector<float> x = quire::test::normal_values(size_t{kRows} * dim, dim);
      x[0] = 0x1p120F;  // beyond the clamp
      std::vector<float> diag = quire::test::normal_values(dim, 7);
      const DeviceArray<float> device_x(x);
      const DeviceArray<float> device_diag(diag);
      expect_ran(rotate_rows(device_x.data(), kRows, dim, balanced ? device_diag.data() : nullptr, nullptr));
      find_kernels(Isa::kScalar)->rotate(x.data(), kRows, dim, balanced ? diag.data() : nullptr, x.data());
      EXPECT_EQ(std::memcmp(device_x.host().data(), x.data(), x.size() * sizeof(float)), 0);
    }
  }
}

}  // namespace
}  // namespace quire::cuda::test
