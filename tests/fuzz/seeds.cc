#include "tests/fuzz/seeds.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace quire::testing {

uint64_t seed_count(uint64_t smoke) {
  const char* text = std::getenv("QUIRE_TEST_SEEDS");
  const uint64_t asked = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
  return asked == 0 ? smoke : asked;
}

uint64_t Random::next() {
  state_ += 0x9e3779b97f4a7c15ULL;
  uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

std::vector<uint8_t> damage(std::vector<uint8_t> bytes, Random& random) {
  const uint64_t changes = 1 + random.below(4);
  for (uint64_t i = 0; i < changes && !bytes.empty(); ++i) {
    const size_t at = random.below(bytes.size());
    switch (random.below(5)) {
      case 0:
        bytes[at] = static_cast<uint8_t>(random.next());
        break;
      case 1:
        bytes[at] ^= static_cast<uint8_t>(1U << random.below(8));
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3: {
        const size_t from = random.below(bytes.size());
        const size_t count = std::min({bytes.size() - from, bytes.size() - at, size_t{1} + random.below(32)});
        std::copy_n(std::vector<uint8_t>(bytes).begin() + static_cast<std::ptrdiff_t>(from), count,
                    bytes.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      }
      default:
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), std::min<size_t>(4, bytes.size() - at),
                    0xff);
    }
  }
  return bytes;
}

void report_counts(uint64_t cases, uint64_t seeds) {
  std::printf("[counts] cases=%llu seeds=%llu\n", static_cast<unsigned long long>(cases),
              static_cast<unsigned long long>(seeds));
}

}  // namespace quire::testing
