#include "bench/micro/plain_read.h"

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <bit>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "quant/kernels.h"

namespace quire::micro {
namespace {

constexpr size_t kLine = 64;
constexpr int kTrials = 3;

// Every form sums all bytes of whole lines as words, so that none can be left out.
// kStreams: places read side by side, which keeps more banks of the memory busy. kAhead: bytes that software
// prefetch runs ahead; 0 leaves that to the machine.
template <size_t kStreams, size_t kAhead>
[[gnu::target("avx512f")]] uint64_t read_512(const uint8_t* bytes, size_t count) {
  constexpr size_t kLines = 4;  // of each stream at once
  const size_t stride = count / kStreams / (kLines * kLine) * (kLines * kLine);
  __m512i sums[kLines] = {};
  for (size_t at = 0; at < stride; at += kLines * kLine) {
    for (size_t s = 0; s < kStreams; ++s) {
      const uint8_t* from = bytes + s * stride + at;
      for (size_t i = 0; i < kLines; ++i) {
        if constexpr (kAhead > 0) {
          _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + i * kLine), _MM_HINT_T0);
        }
        sums[i] = _mm512_add_epi64(sums[i], _mm512_load_si512(from + i * kLine));
      }
    }
  }
  for (size_t at = kStreams * stride; at + kLine <= count; at += kLine) {
    sums[0] = _mm512_add_epi64(sums[0], _mm512_load_si512(bytes + at));
  }
  const __m512i all =
      _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
  alignas(kLine) uint64_t words[8];
  _mm512_store_si512(words, all);
  return std::accumulate(std::begin(words), std::end(words), uint64_t{0});
}

template <size_t kStreams, size_t kAhead>
[[gnu::target("avx2")]] uint64_t read_256(const uint8_t* bytes, size_t count) {
  constexpr size_t kLines = 4;
  const size_t stride = count / kStreams / (kLines * kLine) * (kLines * kLine);
  __m256i sums[2 * kLines] = {};
  const auto add = [&sums](const uint8_t* from, size_t i) __attribute__((target("avx2"), always_inline)) {
    const __m256i word = _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i * kLine / 2));
    sums[i] = _mm256_add_epi64(sums[i], word);
  };
  for (size_t at = 0; at < stride; at += kLines * kLine) {
    for (size_t s = 0; s < kStreams; ++s) {
      const uint8_t* from = bytes + s * stride + at;
      for (size_t i = 0; i < 2 * kLines; ++i) {
        if (kAhead > 0 && i % 2 == 0) {
          _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + i * kLine / 2), _MM_HINT_T0);
        }
        add(from, i);
      }
    }
  }
  for (size_t at = kStreams * stride; at + kLine <= count; at += kLine) {
    add(bytes + at, 0);
    add(bytes + at, 1);
  }
  __m256i all = sums[0];
  for (size_t i = 1; i < 2 * kLines; ++i) all = _mm256_add_epi64(all, sums[i]);
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), all);
  return std::accumulate(std::begin(words), std::end(words), uint64_t{0});
}

uint64_t read_words(const uint8_t* bytes, size_t count) {
  uint64_t sums[8] = {};
  for (size_t at = 0; at + kLine <= count; at += kLine) {
    for (size_t i = 0; i < 8; ++i) {
      uint64_t word;
      __builtin_memcpy(&word, bytes + at + 8 * i, sizeof word);
      sums[i] += word;
    }
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

}  // namespace

std::vector<PlainRead::Form> PlainRead::forms() {
  std::vector<Form> forms{&read_words};
  if (find_kernels(Isa::kAvx2) != nullptr) {
    forms.insert(forms.end(), {&read_256<1, 0>, &read_256<1, 2048>, &read_256<4, 0>, &read_256<4, 1024>});
  }
  if (find_kernels(Isa::kAvx512) != nullptr) {
    forms.insert(forms.end(), {&read_512<1, 0>, &read_512<1, 2048>, &read_512<4, 0>, &read_512<4, 1024>,
                               &read_512<8, 512>});
  }
  return forms;
}

PlainRead::PlainRead(std::span<const uint8_t> bytes, Team& team)
    : bytes_(bytes), threads_(team.threads()), form_(nullptr) {
  // What is fastest depends on the caches that the bytes fit in, and is found once.
  static std::map<std::pair<uint32_t, int>, Form> known;
  Form& fastest = known[{threads_, std::bit_width(bytes.size())}];
  const bool fresh = fastest == nullptr;
  double best = std::numeric_limits<double>::infinity();
  for (int trial = 0; fresh && trial < kTrials; ++trial) {
    for (const Form form : forms()) {
      form_ = form;
      const double seconds = team.run([this](uint32_t thread) { read(thread); }).wall;
      if (seconds >= best) continue;
      best = seconds;
      fastest = form;
    }
  }
  form_ = fastest;
}

void PlainRead::read(uint32_t thread) const {
  const std::span<const uint8_t> mine = share(thread);
  benchmark::DoNotOptimize(form_(mine.data(), mine.size()));
}

std::span<const uint8_t> PlainRead::share(uint32_t thread) const {
  const size_t lines = bytes_.size() / kLine;
  const size_t first = lines * thread / threads_;
  return bytes_.subspan(first * kLine, (lines * (thread + 1) / threads_ - first) * kLine);
}

}  // namespace quire::micro
