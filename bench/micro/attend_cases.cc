#include "bench/micro/attend_cases.h"

#include <algorithm>

#include "bench/micro/attention.h"
#include "quant/cpu/matrix_registers.h"

namespace quire::micro {
namespace {

constexpr size_t kErrorPages = 64;
constexpr uint32_t kErrorRows = kLeastMatrixRows;
constexpr uint64_t kTilesPerThread = 1;  // of a round of prefill

// Multiply-accumulates as the kernels execute them in tiles of `rows` for `products` products of a query with
// a key and as many of a weight with a value: quant/cpu/quads_*-inl.h. VNNI multiplies bytes, queries are two
// of them and weights one, or two for values of 8 bits; AVX2 multiplies 16 bits at once. Keys that are
// rotated while they are read are multiplied as floats, or in 16 bits where turn_words-inl.h serves them: two
// bytes' worth each. AMX multiplies what VNNI does. What the tables of AVX-VNNI and AMX leave to others
// (avxvnni.cc, amx.cc) is theirs.
MacCounts macs_of(const FoldedHeads& heads, Isa table, uint32_t rows, double products) {
  const CodecInfo& key = *find_codec(heads.kind.key_codec);
  const CodecInfo& value = *find_codec(heads.kind.value_codec);
  const bool left = heads.pre_rope() || key.outliers || value.outliers || key.bits > 8 || value.bits > 8 ||
                    heads.kind.shape.tokens != 64 || heads.kind.shape.dim != 128 ||
                    (table == Isa::kAmx && rows < kLeastMatrixRows);
  const Isa others = table == Isa::kAvxVnni ? Isa::kAvx2 : table == Isa::kAmx ? Isa::kAvx512 : table;
  const Isa isa = left ? others : table;
  const bool bytes = integer_mac(isa) == Mac::kByte || integer_mac(isa) == Mac::kMatrix;
  MacCounts macs{};
  const auto count = [&](bool as_floats, double parts) {
    macs[static_cast<size_t>(as_floats ? float_mac(isa) : integer_mac(isa))] += products * parts;
  };
  const bool turned_levels = key.bits <= 4 && heads.kind.shape.tokens == 64 && heads.kind.shape.dim == 128;
  const bool float_keys = key.family == CodecFamily::kFloat || (heads.pre_rope() && !turned_levels);
  const bool float_values = value.family == CodecFamily::kFloat;
  count(float_keys, bytes && !float_keys ? 2 : 1);
  count(float_values, bytes && !float_values && value.bits == 8 ? 2 : 1);
  return macs;
}

// What the threads of a case work with; `q` is referred to by every worker.
struct Crew {
  SharedHeads heads;
  std::vector<float> q;
  std::vector<std::unique_ptr<Attention>> workers;
};

std::shared_ptr<Crew> make_crew(const SharedHeads& heads, const Kernels& kernels, uint32_t tiles,
                                uint32_t rows, size_t query_rows, uint32_t threads) {
  auto crew = std::make_shared<Crew>();
  crew->heads = heads;
  crew->q = make_queries(query_rows, heads->kind.shape.dim);
  for (uint32_t i = 0; i < threads; ++i) {
    crew->workers.push_back(std::make_unique<Attention>(kernels, *heads, tiles, rows, crew->q));
  }
  return crew;
}

// Every head over pages [first, end): run by run, head by head.
void decode(Attention& worker, const FoldedHeads& heads, size_t first, size_t end) {
  worker.clear();
  for (size_t page = first; page < end; page += kCallPages) {
    const size_t stop = std::min(page + kCallPages, end);
    for (size_t head = 0; head < heads.kind.kv_heads; ++head) {
      const bool last_head = head + 1 == heads.kind.kv_heads;
      const size_t next_page = last_head ? std::min(stop, end - 1) : page;
      const uint8_t* next = heads.heads[last_head ? 0 : head + 1][next_page].section;
      worker.attend(static_cast<uint32_t>(head), head, page, stop, next);
    }
  }
}

double tokens_of(const FoldedHeads& heads) {
  return static_cast<double>(heads.pages.size() * heads.kind.shape.tokens);
}

}  // namespace

Row row_of(const char* name, const FoldedHeads& heads, Isa isa, uint32_t threads) {
  Row row;
  row.name = name;
  row.k_codec = find_codec(heads.kind.key_codec)->name;
  row.v_codec = find_codec(heads.kind.value_codec)->name;
  row.key_space = heads.pre_rope() ? "pre_rope" : "post_rope";
  row.isa = isa_name(isa);
  row.threads = threads;
  row.n_kv = heads.pages.size() * heads.kind.shape.tokens;
  return row;
}

uint32_t tile_tokens(const FoldedHeads& heads, uint32_t group, uint32_t n_q) {
  return std::min({n_q, heads.kind.shape.tokens, kMaxTileRows / group});
}

double error_of(const FoldedHeads& heads, const Kernels& kernels) {
  return attend_error(kernels, heads, make_queries(kErrorRows, heads.kind.shape.dim), kErrorPages);
}

TimedCase attend_case(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t threads) {
  const uint32_t kv_heads = heads->kind.kv_heads;
  const auto crew = make_crew(heads, kernels, kv_heads, group, size_t{kv_heads} * group, threads);
  TimedCase timed;
  timed.row = row_of("attend", *heads, kernels.isa, threads);
  timed.row.group = group;
  timed.row.n_q = 1;
  timed.row.error = error_of(*heads, kernels);
  timed.isa = kernels.isa;
  timed.memory = {heads->memory.data(), heads->bytes()};
  timed.macs =
      macs_of(*heads, kernels.isa, group, tokens_of(*heads) * kv_heads * group * heads->kind.shape.dim);
  timed.owner = crew;
  timed.work = [crew = crew.get(), threads](uint32_t thread) {
    const size_t pages = crew->heads->pages.size();
    decode(*crew->workers[thread], *crew->heads, pages * thread / threads, pages * (thread + 1) / threads);
  };
  return timed;
}

TimedCase prefill_case(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t n_q,
                       uint32_t threads) {
  const uint32_t kv_heads = heads->kind.kv_heads;
  const uint32_t tokens = tile_tokens(*heads, group, n_q);
  const uint32_t rows = tokens * group;
  const uint64_t tiles = uint64_t{(n_q + tokens - 1) / tokens} * kv_heads;
  const uint64_t measured = std::min(tiles / threads * threads, kTilesPerThread * threads);
  const auto crew = make_crew(heads, kernels, 1, rows, rows, threads);
  TimedCase timed;
  timed.row = row_of("prefill", *heads, kernels.isa, threads);
  timed.row.group = group;
  timed.row.n_q = n_q;
  timed.row.sampled = static_cast<double>(measured) / static_cast<double>(tiles);
  timed.row.error = error_of(*heads, kernels);
  timed.isa = kernels.isa;
  timed.memory = {heads->memory.data(), heads->bytes()};
  timed.macs =
      macs_of(*heads, kernels.isa, rows, tokens_of(*heads) * kv_heads * group * n_q * heads->kind.shape.dim);
  timed.owner = crew;
  timed.work = [crew = crew.get(), threads, measured, kv_heads](uint32_t thread) {
    for (uint64_t tile = thread; tile < measured; tile += threads) {
      attend_all_pages(*crew->workers[thread], *crew->heads, tile % kv_heads);
    }
  };
  return timed;
}

}  // namespace quire::micro
