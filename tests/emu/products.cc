// Products of four warps (wgmma). Each warp multiplies sixteen rows of its own, when it waits: late, so that
// sums read and operands changed before that are seen.
#include <algorithm>
#include <array>
#include <cstring>

#include "tests/emu/block.h"
#include "tests/emu/sanitizer.h"

// Behind the standard library: these define __noinline__.
#include <cuda_bf16.h>
#include <emu_ptx.h>

namespace emu {
namespace {

constexpr unsigned kRows = 16;
constexpr unsigned kBytes = 32;     // of a row of an operand
constexpr unsigned kColumns = 128;  // at most
constexpr unsigned kCoreWidth = 16;
constexpr size_t kCoreRowBytes = 16;

using Row = std::array<uint8_t, kBytes>;

Row shared_row(const uint8_t* first, size_t reduction_step, size_t row_step, unsigned row) {
  Row bytes{};
  for (unsigned half = 0; half < 2; ++half) {
    const uint8_t* core = first + half * reduction_step + row / 8 * row_step + row % 8 * kCoreRowBytes;
    if (!is_shared(core, kCoreRowBytes)) fail("wgmma: an operand is not in shared memory");
    sanitizer::will_read(core, kCoreRowBytes);
    std::memcpy(bytes.data() + half * kCoreWidth, core, kCoreRowBytes);
  }
  return bytes;
}

std::array<Row, kRows> operand_a(const void* const* in) {
  const Product& any = *static_cast<const Product*>(in[0]);
  std::array<Row, kRows> a{};
  for (unsigned row = 0; row < kRows; ++row) {
    if (any.a_first != nullptr) {
      a[row] = shared_row(any.a_first, any.a_reduction_step, any.a_row_step, any.warp * kRows + row);
      continue;
    }
    for (unsigned i = 0; i < 4; ++i) {
      const auto& lane = *static_cast<const Product*>(in[row % 8 * 4 + i]);
      for (unsigned half = 0; half < 2; ++half) {
        const uint32_t word = lane.a[row / 8 + 2 * half];
        std::memcpy(a[row].data() + half * kCoreWidth + 4 * i, &word, sizeof(word));
      }
    }
  }
  return a;
}

int dot_bytes(const Row& a, const Row& b, bool a_signed) {
  int sum = 0;
  for (unsigned k = 0; k < kBytes; ++k) {
    const int x = a_signed ? static_cast<int8_t>(a[k]) : static_cast<int>(a[k]);
    sum += x * static_cast<int8_t>(b[k]);
  }
  return sum;
}
double dot_halves(const Row& a, const Row& b) {
  double sum = 0;
  for (unsigned k = 0; k < kBytes; k += 2) {
    std::array<unsigned short, 2> bits{};
    std::memcpy(&bits[0], a.data() + k, 2);
    std::memcpy(&bits[1], b.data() + k, 2);
    sum += double{__bfloat162float(__ushort_as_bfloat16(bits[0]))} *
           double{__bfloat162float(__ushort_as_bfloat16(bits[1]))};
  }
  return sum;
}

void multiply(const void* const* in, void* const* /*out*/, unsigned /*mask*/) {
  const Product& any = *static_cast<const Product*>(in[0]);
  const std::array<Row, kRows> a = operand_a(in);
  const auto columns = static_cast<unsigned>(any.sums * 2);
  for (unsigned column = 0; column < columns; ++column) {
    const Row b = shared_row(any.b_first, any.b_reduction_step, any.b_row_step, column);
    for (unsigned row = 0; row < kRows; ++row) {
      const auto& lane = *static_cast<const Product*>(in[row % 8 * 4 + column % 8 / 2]);
      const size_t at = column / 8 * 4 + row / 8 * 2 + column % 2;
      if (any.kind == Product::kHalves) {
        float& d = static_cast<float*>(lane.d)[at];
        d = static_cast<float>(dot_halves(a[row], b) + (lane.add ? double{d} : 0.0));
      } else {
        int& d = static_cast<int*>(lane.d)[at];
        d = dot_bytes(a[row], b, any.kind == Product::kBytes) + (lane.add ? d : 0);
      }
    }
  }
}

}  // namespace

void product_begin(Product product) {
  if (product.sums * 2 > kColumns) fail("wgmma: more than %u columns", kColumns);
  product.warp = self->warp % 4;
  if (!product.add) std::memset(product.d, 0xFF, product.sums * sizeof(int));
  ProductQueue& queue = running_block()->products();
  if (queue.count == ProductQueue::kProducts)
    fail("wgmma: more than %zu products under way", ProductQueue::kProducts);
  product.committed = queue.committed;
  queue.products[queue.count++] = product;
}

void product_commit() { ++running_block()->products().committed; }

void product_await(size_t groups_left, const Site& site) {
  ProductQueue& queue = running_block()->products();
  size_t done = 0;
  for (; done < queue.count && queue.products[done].committed + groups_left < queue.committed; ++done)
    warp_collective("wgmma", 0xFFFFFFFFU, &queue.products[done], nullptr, multiply, false, site);
  std::copy(queue.products + done, queue.products + queue.count, queue.products);
  queue.count -= done;
}

}  // namespace emu
