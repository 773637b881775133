#include "bench/micro/digest_case.h"

#include "bench/micro/attention.h"
#include "bench/micro/truth.h"
#include "quant/digest.h"

namespace quire::micro {
namespace {

constexpr size_t kCallDigests = 256;  // as kvcache/attend_select.cc calls

struct Digests {
  SharedHeads heads;
  uint32_t group;
  BigBuffer memory;
  std::vector<std::vector<const uint8_t*>> of_head;  // [kv head][page]
  std::vector<DigestQuery> queries;                  // [kv head][group]

  Digests(const SharedHeads& from, uint32_t group_of)
      : heads(from), group(group_of), memory(bytes()), queries(kv_heads() * group) {
    make_digests();
    const uint32_t dim = heads->kind.shape.dim;
    const std::vector<float> q = make_queries(queries.size(), dim);
    for (size_t i = 0; i < queries.size(); ++i) make_digest_query(q.data() + i * dim, dim, &queries[i]);
  }

  size_t kv_heads() const { return heads->kind.kv_heads; }
  size_t pages() const { return heads->pages.size(); }
  size_t bytes() const { return pages() * kv_heads() * digest_bytes(heads->kind.shape); }

  // Heads of a page stand together, as behind its record.
  void make_digests() {
    const SectionShape shape = heads->kind.shape;
    const Kernels& kernels = best_kernels();
    std::vector<float> keys(size_t{shape.tokens} * shape.dim);
    of_head.resize(kv_heads());
    uint8_t* at = memory.data();
    for (size_t page = 0; page < pages(); ++page) {
      for (size_t head = 0; head < kv_heads(); ++head, at += digest_bytes(shape)) {
        const SectionRef& ref = heads->heads[head][page];
        const SectionLayout& layout = heads->layout.section;
        const SideView side{ref.section + layout.key_codes, ref.section + layout.key_meta, ref.key_param};
        kernels.decode_key(heads->kind.key_codec, shape, side, keys.data());
        kernels.make_digest(keys.data(), shape, at);
        of_head[head].push_back(at);
      }
    }
  }

  // Estimates [group][kCallDigests] of masses and of peaks, call by call.
  template <class Visit>
  void score(const Kernels& kernels, size_t first, size_t end, float* scores, Visit visit) const {
    for (size_t head = 0; head < kv_heads(); ++head) {
      const std::span<const DigestQuery> mine(queries.data() + head * group, group);
      for (size_t page = first; page < end; page += kCallDigests) {
        const std::span digests(of_head[head].data() + page, std::min(kCallDigests, end - page));
        kernels.score_digests(digests, heads->kind.shape, mine, kCallDigests, scores,
                              scores + group * kCallDigests);
        visit();
      }
    }
  }
};

double score_error(const Digests& digests, const Kernels& kernels) {
  const auto scores_of = [&](const Kernels& table) {
    std::vector<float> all;
    std::vector<float> scores(2 * digests.group * kCallDigests);
    digests.score(table, 0, std::min(digests.pages(), kCallDigests), scores.data(),
                  [&] { all.insert(all.end(), scores.begin(), scores.end()); });
    return all;
  };
  const std::vector<float> truth = scores_of(*find_kernels(Isa::kScalar));
  return relative_error(scores_of(kernels), std::vector<double>(truth.begin(), truth.end()));
}

}  // namespace

TimedCase digest_case(const SharedHeads& heads, const Kernels& kernels, uint32_t group, uint32_t threads) {
  const auto digests = std::make_shared<const Digests>(heads, group);
  TimedCase timed;
  timed.row = row_of("digest", *heads, kernels.isa, threads);
  timed.row.group = group;
  timed.row.n_q = 1;
  timed.row.error = score_error(*digests, kernels);
  timed.isa = kernels.isa;
  timed.memory = {digests->memory.data(), digests->bytes()};
  timed.owner = digests;
  timed.work = [digests = digests.get(), &kernels, threads](uint32_t thread) {
    std::vector<float> scores(2 * digests->group * kCallDigests);
    const size_t pages = digests->pages();
    digests->score(kernels, pages * thread / threads, pages * (thread + 1) / threads, scores.data(), [] {});
  };
  return timed;
}

}  // namespace quire::micro
